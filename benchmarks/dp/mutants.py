"""Mechanisms with a known mistake. Each check of the audit must find its mutant out; on the real one it must be silent.

A mutant changes one step of :class:`TokenMechanism`, or one number of a plan, and leaves everything else alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.dp import checks, renyi, votes
from privacy.dp import decoding
from privacy.dp.cohort_plans import KeywordsPlan, plan_choice, plan_count, plan_keywords
from privacy.dp.decoding import UNITS, TokenMechanism, log_law
from privacy.dp.mechanisms import Noise, NoisyHistogram, Selection
from privacy.dp.text_plan import TextPlan, plan_text

Floats = renyi.Floats
Integers = renyi.Integers
VOCABULARY = 300
SAMPLE = 6_000


class NoClip(TokenMechanism):
    """A patient's difference counts in full."""

    def parts(self, public: Any, private: Any) -> Integers:
        finite = np.nan_to_num(private - public, nan=0.0, posinf=1e3, neginf=-1e3)
        found: Integers = np.rint(np.clip(finite, -1e3, 1e3) * (UNITS / self.clip)).astype(np.int64)
        return found


class ByCount(TokenMechanism):
    """The mean is over the patients who are there, and so tells how many there are."""

    def parts(self, public: Any, private: Any) -> Integers:
        whole = super().parts(public, private) * (self.contexts / max(1, private.shape[0]))
        found: Integers = np.rint(whole).astype(np.int64)
        return found


class HalfTemperature(TokenMechanism):
    """Half the temperature that was paid for, with OpenDP's own objection left out."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rho", self.rho_per_token)

    @property
    def scale(self) -> float:
        return super().scale / 2


class HalfNoise(TokenMechanism):
    """Plan and law are right; the draw uses half the noise."""

    def draw(self, scores: Integers) -> int:
        return int(decoding._noisy_max(self.scale / 2)(scores.tolist()))


class FixedSeed(TokenMechanism):
    """The right law, from a generator that every mechanism starts anew."""

    def draw(self, scores: Integers) -> int:
        if not hasattr(self, "_generator"):
            object.__setattr__(self, "_generator", np.random.default_rng(42))
        return _pick(self._generator, log_law(scores, self.scale))  # type: ignore[attr-defined]


_SHARED = np.random.default_rng()


class SeededOnce(TokenMechanism):
    """The right law, from a generator of the process's own that was seeded well, once: forked workers share it."""

    def draw(self, scores: Integers) -> int:
        return _pick(_SHARED, log_law(scores, self.scale))


def _pick(generator: np.random.Generator, log_chances: Floats) -> int:
    return int(generator.choice(log_chances.size, p=np.exp(log_chances)))


# --- what is checked --------------------------------------------------------------------------------------------------
def plan(adjacency: Any = "swap") -> TextPlan:
    return plan_text(epsilon=5, contexts=64, max_tokens=24, top_k=50, adjacency=adjacency)


def made(kind: type[TokenMechanism], adjacency: Any = "swap", top_k: int | None = None) -> TokenMechanism:
    p = plan(adjacency)
    return kind(p.clip, p.tau, p.contexts, top_k or p.top_k, p.sensitivity_units, p.rho_per_token)


def some_public(seed: int = 1, spread: float = 2.0) -> Floats:
    logits = np.random.default_rng(seed).normal(size=VOCABULARY) * spread
    found: Floats = logits - np.log(np.exp(logits).sum())
    return found


def exact(kind: type[TokenMechanism], *, copies: int = 1) -> str | None:
    """The exact audit over the worst neighbours of a full and of a nearly empty group, for both adjacencies."""
    public = some_public()
    pushed = np.arange(VOCABULARY) % 2 == 0
    for adjacency in ("swap", "add_remove"):
        mechanism = made(kind, adjacency)
        if found := renyi.violation(
            mechanism, renyi.cornered(made(TokenMechanism, adjacency), public, pushed, copies=copies)
        ):
            return found
        if adjacency == "add_remove":
            few = public + np.where(pushed, 1.0, -1.0) * np.array([[9.0], [-9.0], [9.0]]) * mechanism.clip
            pair = renyi.replaced(public, few, 0, None, "three patients or two", copies)
            if found := renyi.violation(mechanism, [pair]):
                return found
    return None


def drawn(kind: type[TokenMechanism]) -> str | None:
    """Draws of one law against its exact probabilities."""
    mechanism = made(kind, top_k=10)
    public = some_public(spread=1.0)
    scores = mechanism.scores(np.sort(public)[-12:], np.zeros(12, dtype=np.int64))
    law = {index: float(p) for index, p in enumerate(np.exp(log_law(scores, mechanism.scale)))}
    return checks.misdrawn([mechanism.draw(scores) for _ in range(SAMPLE)], law)


def fresh(kind: type[TokenMechanism]) -> str | None:
    """64 draws between 8 equal scores: a right mechanism repeats them once in 10^57 runs."""

    def draws() -> Sequence[int]:
        mechanism = made(kind)
        return [mechanism.draw(np.zeros(8, dtype=np.int64)) for _ in range(64)]

    return checks.repeats(draws)


def misnoised(kind: Noise, scale: float, drawn_with: float) -> str | None:
    """Noise of a histogram against its exact law; ``drawn_with`` is the scale that is really used."""
    releases = NoisyHistogram(kind, drawn_with, "swap").release([0] * SAMPLE)
    reach = (votes.noise(kind, scale).size - 1) // 2
    chances = np.exp(votes.noise(kind, scale)).tolist()
    return checks.misdrawn(releases, dict(zip(range(-reach, reach + 1), chances, strict=True)))


def misworded(plan: KeywordsPlan, drawn_with: float) -> str | None:
    """Ordered picks against their exact law; the counts make early places likely and late ones possible."""
    scores = [int(plan.scale * share) for share in (3, 2, 1, 0, 0)]
    law = np.exp(votes.words(scores, plan.scale, plan.picks)).tolist()
    choices = map(tuple, votes.orders_of(len(scores), plan.picks).tolist())
    selection = Selection(drawn_with, picks=plan.picks, adjacency="swap")
    picked = [tuple(selection.choose(scores)) for _ in range(SAMPLE)]
    return checks.misdrawn(picked, dict(zip(choices, law, strict=True)))


def stale(release: Callable[[list[int]], list[int]]) -> str | None:
    """Whether noise on 64 cells comes again."""
    return checks.repeats(lambda: release([0] * 64))


def _seeded(scale: float) -> Callable[[list[int]], list[int]]:
    def release(counts: list[int]) -> list[int]:
        noise = np.random.default_rng(7).laplace(scale=scale, size=len(counts))
        found: list[int] = (np.array(counts) + np.rint(noise).astype(int)).tolist()
        return found

    return release


@dataclass(frozen=True)
class Mutant:
    """``check`` of the mutant must give a sentence, and ``real``, the same check of the real thing, None."""

    mechanism: str
    mistake: str
    by: str
    check: Callable[[], str | None]
    real: Callable[[], str | None]


COUNT = plan_count(epsilon=1.0)
CHOICE = plan_choice(options=3, epsilon=1.0)
WORDS = plan_keywords(epsilon=1.0)


def _text(mistake: str, by: str, check: Callable[..., str | None], kind: type[TokenMechanism], **more: Any) -> Mutant:
    return Mutant("text", mistake, by, lambda: check(kind, **more), lambda: check(TokenMechanism))


MUTANTS: tuple[Mutant, ...] = (
    _text("no clip", "exact law", exact, NoClip),
    _text("half the temperature", "exact law", exact, HalfTemperature),
    _text("half the noise in the draw", "sampler", drawn, HalfNoise),
    _text("fixed seed", "freshness", fresh, FixedSeed),
    _text("seeded once, then forked", "freshness", fresh, SeededOnce),
    _text("divided by the actual count", "exact law", exact, ByCount),
    _text("one patient in two slots", "exact law", exact, TokenMechanism, copies=2),
    Mutant(
        "count",
        "one patient counted twice",
        "exact law",
        lambda: votes.count_violation(COUNT, moved=2),
        lambda: votes.count_violation(COUNT),
    ),
    Mutant(
        "count",
        "half the noise",
        "sampler",
        lambda: misnoised("discrete_laplace", COUNT.scale, COUNT.scale / 2),
        lambda: misnoised("discrete_laplace", COUNT.scale, COUNT.scale),
    ),
    Mutant("count", "fixed seed", "freshness", lambda: stale(_seeded(COUNT.scale)), lambda: stale(COUNT.noise.release)),
    Mutant(
        "choice",
        "two votes a patient",
        "exact law",
        lambda: votes.choice_violation(CHOICE, moved=(2, 2)),
        lambda: votes.choice_violation(CHOICE),
    ),
    Mutant(
        "choice",
        "half the noise",
        "sampler",
        lambda: misnoised("discrete_gaussian", CHOICE.sigma, CHOICE.sigma / 2),
        lambda: misnoised("discrete_gaussian", CHOICE.sigma, CHOICE.sigma),
    ),
    Mutant(
        "keywords",
        "a word counted once a note (no clip)",
        "exact law",
        lambda: votes.words_violation(WORDS, step=2),
        lambda: votes.words_violation(WORDS),
    ),
    Mutant(
        "keywords",
        "half the noise",
        "sampler",
        lambda: misworded(WORDS, WORDS.scale / 2),
        lambda: misworded(WORDS, WORDS.scale),
    ),
)
