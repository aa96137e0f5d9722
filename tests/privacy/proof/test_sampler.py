"""What is drawn is what was audited: OpenDP's draws against the exact law, with a false alarm once in 10^9 runs.

No seed is set anywhere; a seed would prove the law of one sequence.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest

from benchmarks.dp import audit, checks, mutants, renyi, votes
from privacy.dp.cohort_plans import plan_keywords
from privacy.dp.decoding import UNITS, TokenMechanism, log_law
from privacy.dp.mechanisms import NoisyHistogram, Selection

DRAWS = 8_000


def mechanism() -> TokenMechanism:
    return mutants.made(TokenMechanism)


def scores_of(shape: str, scale: float) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Scores in whole units: how far tokens lie apart, in temperatures."""
    gaps = {
        "two alike": [0, 0],
        "one of forty": [0.0] * 40,
        "a stair": list(np.arange(0, -8, -0.25)),
        "one far ahead": [0, -4, -4, -4.5, -5, -20],
        "a unit apart": [0, -1 / scale, -2 / scale],
        "below the floor": [0, -1, -1e9],
    }
    whole = np.rint(np.array(gaps[shape]) * scale)
    return np.array(np.maximum(whole, -(2**29)), dtype=np.int64)


@pytest.mark.parametrize(
    "shape", ["two alike", "one of forty", "a stair", "one far ahead", "a unit apart", "below the floor"]
)
def test_tokens_are_drawn_from_the_exact_law(shape: str) -> None:
    one = mechanism()
    scores = scores_of(shape, one.scale)
    law = dict(enumerate(np.exp(log_law(scores, one.scale)).tolist()))
    assert checks.misdrawn([one.draw(scores) for _ in range(DRAWS)], law) is None


def test_a_step_from_rows_to_token_is_drawn_from_the_exact_law() -> None:
    """Candidates, parts, scores and draw together: nothing between the audit's law and the token."""
    one = mutants.made(TokenMechanism, top_k=10)
    public = mutants.some_public(seed=4)
    rows = np.vstack([public + np.random.default_rng(n).normal(size=public.size) * 4 for n in range(one.contexts)])
    exact = np.exp(renyi.law(one, public, rows))
    law = {int(token): float(exact[token]) for token in np.flatnonzero(exact)}
    assert checks.misdrawn([one.step(public, rows) for _ in range(4_000)], law) is None


def test_the_odds_of_neighbours_are_within_the_range_by_clopper_and_pearson() -> None:
    """The worst neighbours, drawn: what the draws prove stays below eta, and is more than nothing."""
    one = mechanism()
    eta, reach = renyi.eta_of(one), UNITS * one.reach // 2
    up, down = np.array([reach, -reach], dtype=np.int64), np.array([-reach, reach], dtype=np.int64)
    hits = [sum(one.draw(scores) == 0 for _ in range(DRAWS)) for scores in (up, down)]
    (low, _), (_, high) = (checks.interval(found, DRAWS, checks.ALARM) for found in hits)
    proved = math.log(low / (1 - low)) - math.log(high / (1 - high))
    assert 0 < proved <= eta


@pytest.mark.parametrize("noise", ["discrete_gaussian", "discrete_laplace"])
@pytest.mark.parametrize("scale", [0.6, 1.0, 5.7, 33.0])
def test_noise_has_its_exact_law_at_every_scale(noise: Any, scale: float) -> None:
    assert mutants.misnoised(noise, scale, scale) is None
    assert mutants.misnoised(noise, scale, scale * 0.8), "a fifth less noise would be seen"


@pytest.mark.parametrize("picks", [1, 4])
def test_several_words_have_their_exact_law_in_their_order(picks: int) -> None:
    plan = plan_keywords(epsilon=1.0, picks=picks)
    assert mutants.misworded(plan, plan.scale) is None
    assert mutants.misworded(plan, plan.scale * 0.7)


def test_noise_of_one_cell_says_nothing_about_another() -> None:
    """Pairs of cells against the product of their laws: shared noise would cancel in a difference."""
    drawn = np.array(NoisyHistogram("discrete_gaussian", 1.0, "swap").release([0] * 2 * DRAWS)).reshape(-1, 2)
    single = np.exp(votes.noise("discrete_gaussian", 1.0))
    reach = (single.size - 1) // 2
    near = range(-9, 10)  # the rest has a chance of 1e-18
    law = {(a, b): float(single[reach + a] * single[reach + b]) for a in near for b in near}
    assert checks.misdrawn([*map(tuple, drawn.tolist())], law) is None
    shared = np.column_stack([drawn[:, 0], drawn[:, 0]])
    assert checks.misdrawn([*map(tuple, shared.tolist())], law)


def test_draws_are_new_in_every_mechanism_and_every_process() -> None:
    assert mutants.fresh(TokenMechanism) is None
    assert mutants.stale(NoisyHistogram("discrete_gaussian", 5.0, "swap").release) is None
    selection = Selection(10.0, picks=4, adjacency="swap")
    assert checks.repeats(lambda: [i for _ in range(32) for i in selection.choose([0] * 8)]) is None


# --- the checks themselves --------------------------------------------------------------------------------------------
def test_a_right_law_is_hardly_ever_accused_and_a_slightly_wrong_one_is() -> None:
    draw = np.random.default_rng(1)
    law = {n: float(p) for n, p in enumerate(draw.dirichlet(np.full(20, 2.0)))}
    chances = np.array([*law.values()])
    for _ in range(200):
        assert checks.misdrawn(draw.choice(20, size=3_000, p=chances).tolist(), law) is None
    tilted = chances * np.where(np.arange(20) % 2, 1.12, 0.88)
    assert checks.misdrawn(draw.choice(20, size=20_000, p=tilted / tilted.sum()).tolist(), law)
    assert "cannot be" in str(checks.misdrawn([20], law))
    rare = {0: 1 - 1e-6, 1: 1e-6}
    assert checks.misdrawn([0] * 990 + [1] * 10, rare), "too few for chi-square, and seen by the exact interval"


def test_intervals_hold_as_often_as_they_say() -> None:
    """Clopper and Pearson's coverage, summed over all outcomes of 40 coins, is never below what was asked for."""
    for chance in (0.0, 0.01, 0.3, 0.5, 0.97, 1.0):
        covered = 0.0
        for hits in range(41):
            low, high = checks.interval(hits, 40, 0.05)
            weight = math.comb(40, hits) * chance**hits * (1 - chance) ** (40 - hits)
            covered += weight * (low <= chance <= high)
        assert covered >= 0.95
    assert checks.interval(0, 40, 0.05)[0] == 0.0 and checks.interval(40, 40, 0.05)[1] == 1.0
    assert audit.bounds(10, 40) == checks.interval(10, 40, 1 - audit.CONFIDENCE)


def test_laws_add_up_and_words_follow_gumbel_noise() -> None:
    for kind in ("discrete_gaussian", "discrete_laplace"):
        assert np.exp(votes.noise(kind, 3.0)).sum() == pytest.approx(1.0)
    scores, scale = [5.0, 3.0, 0.0, 1.0], 2.0
    law = dict(zip(map(tuple, votes.orders_of(4, 2).tolist()), np.exp(votes.words(scores, scale, 2)), strict=True))
    assert sum(law.values()) == pytest.approx(1.0)
    noisy = np.array(scores) + np.random.default_rng(3).gumbel(scale=scale, size=(60_000, 4))
    found = Counter(map(tuple, np.argsort(-noisy, axis=1)[:, :2].tolist()))
    assert all(abs(found[pair] / 60_000 - chance) < 0.012 for pair, chance in law.items())
