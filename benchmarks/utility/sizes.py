"""Where a bound on the points lost stops to hold: by the size of the cohort, and by the lead of the right answer.

A smaller cohort is a random part of a larger one: the votes of ``n`` patients drawn without replacement have the
multivariate hypergeometric law, so a histogram is enough. Thinning is seeded; noise is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.utility.intervals import SEED, Estimate, points_lost
from benchmarks.utility.ways import Ballot, Integers, noisy, winners_right
from privacy.dp.cohort_plans import plan_choice

SIZES = (5, 10, 15, 20, 30, 40, 50, 60, 80, 100, 120, 150, 200, 250, 300)
SHOWN = (10, 20, 50, 100, 200, 300)
CONTESTS = 20_000


def thinned(votes: Sequence[int], size: int, draws: int, seed: int = SEED) -> Integers:
    """Votes of ``size`` patients drawn at random out of the cohort, ``draws`` times: (draws, cells).

    Raises:
        ValueError: the cohort is smaller than that.
    """
    found: Integers = np.random.default_rng(seed).multivariate_hypergeometric(list(votes), size, size=draws)
    return found


def lost_by_size(ballots: Sequence[Ballot], epsilon: float, draws: int) -> dict[int, Estimate]:
    """Points that ``choice`` loses at each size that every cohort has, against the same votes without noise."""
    smallest = min(sum(ballot.votes) for ballot in ballots)
    found = {}
    for size in (size for size in SIZES if size <= smallest):
        before, after = [], []
        for place, ballot in enumerate(ballots):
            votes = thinned(ballot.votes, size, draws, seed=SEED + place)
            plan = plan_choice(options=len(ballot.question.options), epsilon=epsilon)
            before.append(float(winners_right(votes, ballot.question).mean()))
            after.append(float(winners_right(noisy(plan, votes), ballot.question).mean()))
        found[size] = points_lost(before, after, [ballot.question.fact for ballot in ballots])
    return found


def holds_from(lost: Mapping[int, Estimate], aim: float) -> int | None:
    """The smallest size from which on the upper end of the interval stays within ``aim`` points; None for none."""
    found = None
    for size in sorted(lost, reverse=True):
        if lost[size].high > aim:
            break
        found = size
    return found


def lead_needed(epsilon: float, aim: float, rivals: int) -> int:
    """Votes by which the right answer must lead ``rivals`` others, all level, to lose at most ``aim`` points.

    From fresh noise of the plan; a tie counts as lost.
    """
    plan = plan_choice(options=max(2, rivals), epsilon=epsilon)
    noise = noisy(plan, np.zeros((CONTESTS, rivals + 1), dtype=np.int64))
    behind = np.sort(noise[:, 1:].max(axis=1) - noise[:, 0])
    allowed = math.floor(aim / 100 * CONTESTS)
    return max(1, int(behind[-allowed - 1]) + 1)
