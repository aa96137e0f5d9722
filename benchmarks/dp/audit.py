"""What an attacker really learns from each mechanism, beside what is claimed: ``make audit-dp``.

Three tables. *From below*: draws over the worst pair of neighbours (one patient's record replaced). Half of the draws
choose the event that tells them apart best; the other half bound from below, with 99.9999 % confidence (Clopper and
Pearson), what this event proves: of a pure claim the epsilon ln(p / q), of a zCDP claim the rho
max D_a(Bernoulli(p) || Bernoulli(q)) / a, shown as the epsilon at the claim's delta. (Few draws prove next to nothing
about (epsilon, 1e-5) itself; every post-processing of a rho-zCDP release, such as one event, is rho-zCDP too.) A bound
above the claim would refute it. A bound below proves nothing, so each mechanism is audited once more with half its
noise, which must be found out.

*Exact*: the largest Renyi divergence of one decoding step that a search over neighbours finds, beside what is charged.
*Mutants*: mechanisms with a known mistake. The check beside each must find it out, and be silent about the real one.

The exit code is 1 when a claim is refuted or a mutant passes.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.dp import checks, mutants, renyi
from privacy.dp import accounting, decoding
from privacy.dp.across_plans import plan_choice_across, plan_count_across
from privacy.dp.across_text import plan_text_across
from privacy.dp.cohort_plans import plan_choice, plan_count, plan_keywords
from privacy.dp.confident_plans import plan_confident_choice
from privacy.dp.decoding import TokenMechanism
from privacy.dp.mechanisms import NoisyHistogram, Selection
from privacy.dp.release_plans import Card, plan_cards
from privacy.dp.text_plan import TextPlan, plan_text

CONFIDENCE = 1 - 1e-6  # a claim that is tight is refuted by mistake once in some 100,000 runs
ORDERS = (1.01, 1.5, 2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True)
class Case:
    """``draw(other, count)`` gives one number a draw; larger speaks for the other neighbour."""

    name: str
    epsilon: float
    delta: float
    draw: Callable[[bool, int], np.ndarray]


def count(noise: float) -> Case:
    plan = plan_count(epsilon=1.0)
    mechanism = NoisyHistogram("discrete_laplace", plan.scale * noise, "add_remove")
    return Case("count", plan.epsilon, 0.0, lambda other, n: np.array(mechanism.release([100 + other] * n)))


def choice(noise: float) -> Case:
    plan = plan_choice(options=2, epsilon=1.0)
    mechanism = NoisyHistogram("discrete_gaussian", plan.sigma * noise, "swap")

    def draw(other: bool, n: int) -> np.ndarray:
        histogram, at_once = [50 + other, 50 - other, 10], 33_000
        noisy = [mechanism.release(histogram * min(at_once, n - done)) for done in range(0, n, at_once)]
        cells = np.concatenate([np.array(part) for part in noisy]).reshape(n, 3)
        difference: np.ndarray = cells[:, 0] - cells[:, 1]
        return difference

    return Case("choice", plan.epsilon, plan.delta, draw)


def checked_choice(noise: float) -> Case:
    """What both parts tell: the votes' difference where the check passed, the far end where it did not."""
    plan = plan_confident_choice(options=2, threshold=50, epsilon=1.0)
    check = NoisyHistogram("discrete_gaussian", plan.check_sigma * noise, "add_remove")
    histogram = NoisyHistogram("discrete_gaussian", plan.sigma * noise, "swap")

    def draw(other: bool, n: int) -> np.ndarray:
        first, second = 50 + other, 50 - other
        passed = np.array(check.release([first] * n)) >= plan.threshold
        noisy = np.array(histogram.release([first] * n)) - np.array(histogram.release([second] * n))
        told: np.ndarray = np.where(passed, noisy, -10_000)
        return told

    return Case("choice behind a check", plan.epsilon, plan.delta, draw)


def together(noise: float) -> Case:
    """A count of three hospitals of which one, with its noise, is the attacker's."""
    plan = plan_count_across(hospitals=3, epsilon=1.0)
    mechanism = NoisyHistogram("discrete_gaussian", plan.sigma * noise, "add_remove")

    def draw(other: bool, n: int) -> np.ndarray:
        honest = [np.array(mechanism.release([50 + (other and first)] * n)) for first in (True, False)]
        total: np.ndarray = np.sum(honest, axis=0)
        return total

    return Case("count, 3 hospitals", plan.epsilon, plan.delta, draw)


def cards(noise: float) -> Case:
    """Cards of which a patient is in three cells: all of them leave one half of the cells for the other."""
    plan = plan_cards(cards=[Card("treatments", 6, 3)], epsilon=1.0)
    mechanism = NoisyHistogram("discrete_gaussian", plan.sigma * noise, "swap", max_cells=3)

    def draw(other: bool, n: int) -> np.ndarray:
        histogram = [20 + other] * 3 + [20 - other] * 3
        cells = np.array(mechanism.release(histogram * n)).reshape(n, 6)
        difference: np.ndarray = cells[:, :3].sum(axis=1) - cells[:, 3:].sum(axis=1)
        return difference

    return Case("published cards", plan.epsilon, plan.delta, draw)


def keywords(noise: float) -> Case:
    plan = plan_keywords(epsilon=1.0)
    selection = Selection(plan.scale * noise, picks=plan.picks, adjacency="swap")

    def draw(other: bool, n: int) -> np.ndarray:
        mine, rest = (21, 20) if other else (20, 21)  # the record swaps four words against all others
        votes = [mine] * 4 + [rest] * 4
        return np.array([sum(index < 4 for index in selection.choose(votes)) for _ in range(n)])

    return Case("keywords", plan.epsilon, plan.delta, draw)


def chosen_together(noise: float) -> Case:
    """A choice of three hospitals of which one, with its noise, is the attacker's: one vote changes its answer."""
    plan = plan_choice_across(options=2, hospitals=3, epsilon=1.0)
    mechanism = NoisyHistogram("discrete_gaussian", plan.sigma * noise, "swap")

    def draw(other: bool, n: int) -> np.ndarray:
        votes = [([50 + other, 50 - other], [30, 30])[first] for first in (False, True)]
        honest = [np.array(mechanism.release(histogram * n)).reshape(n, 2) for histogram in votes]
        total = np.sum(honest, axis=0)
        difference: np.ndarray = total[:, 0] - total[:, 1]
        return difference

    return Case("choice, 3 hospitals", plan.epsilon, plan.delta, draw)


def text(noise: float) -> Case:
    return _written("text", plan_text(epsilon=3.0), noise)


def text_together(noise: float) -> Case:
    """A text of two hospitals: the sum of their whole numbers is one hospital's, so one patient moves it as far."""
    return _written("text, 2 hospitals", plan_text_across(hospitals=2, epsilon=3.0), noise)


def _written(name: str, plan: TextPlan, noise: float) -> Case:
    reach = plan.sensitivity_units
    mechanism = TokenMechanism(plan.clip, plan.tau, plan.contexts, plan.top_k, reach, plan.rho_per_token)
    maximum = decoding._noisy_max(mechanism.scale * noise)
    part = decoding.UNITS * reach // 2

    def draw(other: bool, n: int) -> np.ndarray:
        scores = [part, -part] if other else [-part, part]
        return np.array([sum(maximum(scores) == 0 for _ in range(plan.max_tokens)) for _ in range(n)])

    return Case(f"{name}, {plan.max_tokens} tokens", plan.epsilon, plan.delta, draw)


def bounds(hits: int, draws: int) -> tuple[float, float]:
    """Clopper and Pearson's interval of a probability; each end fails with (1 - CONFIDENCE) / 2."""
    return checks.interval(hits, draws, 1 - CONFIDENCE)


def proved(p: float, q: float, case: Case) -> float:
    """Epsilon that an event of probability at least ``p`` and at most ``q`` proves; 0 when ``p`` is no larger."""
    if p <= q or q <= 0 or p >= 1:
        return 0.0
    if not case.delta:
        return math.log(p / q)
    rho = max(binary_divergence(p, q, order) / order for order in ORDERS)
    return accounting.epsilon_of_rho(rho, case.delta)


def binary_divergence(p: float, q: float, order: float) -> float:
    """Renyi divergence of two coins in nats."""
    return math.log(p**order * q ** (1 - order) + (1 - p) ** order * (1 - q) ** (1 - order)) / (order - 1)


def lower_bound(case: Case, draws: int) -> float:
    """The epsilon that ``draws`` draws of each neighbour prove, 0 or more."""
    one, other = case.draw(False, draws), case.draw(True, draws)
    half, best = draws // 2, 0.0
    for sure, doubtful in ((other, one), (-one, -other)):  # both directions
        first, second = (sure[:half], doubtful[:half]), (sure[half:], doubtful[half:])
        threshold = max(np.unique(first[0]), key=lambda t: _proved_at(t, *first, case))
        best = max(best, _proved_at(threshold, *second, case))
    return best


def _proved_at(threshold: float, sure: np.ndarray, doubtful: np.ndarray, case: Case) -> float:
    """What the event "at least the threshold" proves with these draws."""
    p, _ = bounds(int((sure >= threshold).sum()), sure.size)
    _, q = bounds(int((doubtful >= threshold).sum()), doubtful.size)
    return proved(p, q, case)


Maker = Callable[[float], Case]  # of the share of the noise
CASES: tuple[tuple[Maker, int], ...] = (
    (count, 100_000),
    (choice, 99_000),
    (checked_choice, 99_000),
    (together, 99_000),
    (chosen_together, 49_000),
    (cards, 16_000),
    (keywords, 20_000),
    (text, 3_000),
    (text_together, 3_000),
)


def from_below(share: float, console: Console) -> bool:
    """Prints the table of drawn bounds; whether every claim stands and every half of the noise was found out."""
    table = Table(
        "mechanism", "claimed epsilon", "proved from below", "with half the noise", title="From below, by draws"
    )
    ratios, caught = [], 0
    for make, draws in CASES:
        number = max(200, int(draws * share))
        case = make(1.0)
        found, broken = lower_bound(case, number), lower_bound(make(0.5), number)
        ratios.append(found / case.epsilon)
        caught += broken > case.epsilon
        verdict = "found out" if broken > case.epsilon else "NOT found out"
        delta = f", delta {case.delta:g}" if case.delta else ""
        table.add_row(case.name, f"{case.epsilon:g}{delta}", f"{found:.3f}", f"{broken:.3f} ({verdict})")
    console.print(table)
    console.print(f"half the noise found out: {caught} of {len(CASES)}; largest proved/claimed: {max(ratios):.3f}")
    return max(ratios) <= 1 and caught == len(CASES)


def exactly(console: Console) -> bool:
    """Prints the worst decoding steps that were found; whether none is above its claim."""
    plan = mutants.plan()
    title = f"Exact, by search: one of {plan.max_tokens} tokens at epsilon {plan.epsilon:g}, in nats"
    columns = ("one token", "order", "charged", "worst found", "largest possible", "found / charged")
    table = Table(*columns, title=title)
    sound = True
    for adjacency in ("swap", "add_remove"):
        mechanism = mutants.made(TokenMechanism, adjacency)
        for found in searched(mechanism):
            limit = renyi.supremum(renyi.eta_of(mechanism), found.order)
            sound &= found.divergence <= found.claim * (1 + 1e-9)
            figures = (found.claim, found.divergence, limit)
            table.add_row(adjacency, f"{found.order:g}", *(f"{figure:.5f}" for figure in figures), f"{found.ratio:.4f}")
    console.print(table)
    return sound


def searched(mechanism: TokenMechanism) -> list[renyi.Found]:
    """For each order the worst neighbours: colluders over several sets of tokens, then ascent from the worst."""
    public = mutants.some_public()
    places = np.arange(public.size)
    sets = (places % 2 == 0, places == public.argmax(), places < public.size // 4)
    pairs = [pair for pushed in sets for pair in renyi.cornered(mechanism, public, pushed)]
    first = renyi.worst(mechanism, pairs)
    return renyi.worst(mechanism, [*pairs, *(renyi.ascended(mechanism, found.pair, found.order) for found in first)])


def mistakes(console: Console) -> bool:
    """Prints which mutants are found out; whether all are, and no real mechanism is accused."""
    table = Table("mechanism", "mistake", "looked at by", "found out", "the real one", title="Mutants")
    sound = True
    for mutant in mutants.MUTANTS:
        found, accused = mutant.check(), mutant.real()
        sound &= found is not None and accused is None
        verdict = f"yes: {found}" if found else "NO"
        table.add_row(
            mutant.mechanism, mutant.mistake, mutant.by, verdict, f"ACCUSED: {accused}" if accused else "clear"
        )
    console.print(table)
    return sound


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--share", type=float, default=1.0, help="of the usual number of draws")
    share = options.parse_args().share
    console = Console(width=None if sys.stdout.isatty() else 140)
    held = {
        "every bound from below is under its claim, and half the noise is found out": from_below(share, console),
        "no decoding step is above its charge": exactly(console),
        "every mutant is found out, and no real mechanism accused": mistakes(console),
    }
    for claim, holds in held.items():
        print(f"{'holds' if holds else 'FAILS'}: {claim}")
    if not all(held.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
