"""How many questions a block of records pays for, by each way and epsilon. Pure.

A block is paid from once and never refilled; a year is the time for which it is meant to last. The Renyi filter of the
block decides (``privacy.dp.accounting.block_cap``), a plan costs what the ledger would charge: ``nano_at(alpha)``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fdrouter.errors import InvalidParameter, PushTooSmall
from privacy.dp.accounting import block_cap
from privacy.dp.across_plans import plan_choice_across, plan_count_across
from privacy.dp.cohort_plans import plan_choice, plan_count, plan_keywords
from privacy.dp.release_plans import plan_corpus
from privacy.dp.text_plan import plan_text

BLOCK_EPSILON = 10.0
BLOCK_DELTA = 1e-5
DAYS = 365


class Paid(Protocol):
    """A plan that a block can pay for."""

    def nano_at(self, alpha: float) -> int:
        """Its cost at the block's order, in nano-RDP."""


@dataclass(frozen=True, slots=True)
class Affordable:
    """``questions`` in the life of a block; ``plainly`` is what adding up epsilons would allow."""

    questions: int
    plainly: int

    @property
    def a_day(self) -> float:
        """Evenly over a year."""
        return self.questions / DAYS


def affordable(plan: Paid, epsilon: float, *, after: Paid | None = None) -> Affordable:
    """How often a fresh block pays for ``plan``; ``after`` is a release that it has paid for before."""
    cap = block_cap(BLOCK_EPSILON, BLOCK_DELTA)
    left = cap.nano - (after.nano_at(cap.alpha) if after else 0)
    return Affordable(max(0, left) // plan.nano_at(cap.alpha), int(BLOCK_EPSILON / epsilon + 1e-9))


#: Plans by way. Across hospitals every one of them pays from its own block.
WAYS: dict[str, Callable[[float], Paid]] = {
    "choice": lambda epsilon: plan_choice(options=4, epsilon=epsilon),
    "choice, 3 hospitals": lambda epsilon: plan_choice_across(options=4, hospitals=3, epsilon=epsilon),
    "count": lambda epsilon: plan_count(epsilon=epsilon),
    "count, 3 hospitals": lambda epsilon: plan_count_across(hospitals=3, epsilon=epsilon),
    "keywords": lambda epsilon: plan_keywords(epsilon=epsilon),
    "text": lambda epsilon: plan_text(epsilon=epsilon),
}


def row(way: str, epsilons: tuple[float, ...]) -> list[Affordable | None]:
    """One entry for each epsilon; None where the plan is refused."""
    found: list[Affordable | None] = []
    for epsilon in epsilons:
        try:
            found.append(affordable(WAYS[way](epsilon), epsilon))
        except (PushTooSmall, InvalidParameter):
            found.append(None)
    return found


def corpus(groups: int, epsilon: float) -> Paid | None:
    """A synthetic corpus, or None where its notes could not hear the records."""
    try:
        return plan_corpus(topics="topics-1", groups=groups, epsilon=epsilon)
    except PushTooSmall:
        return None
