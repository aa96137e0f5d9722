"""What a block of records has paid, recomputed from the stored events instead of from running totals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from django.db.models import Count, FloatField, Q, Sum
from django.db.models.fields.json import KT
from django.db.models.functions import Cast

from fdrouter.errors import BlockExhausted, InvalidParameter
from privacy.dp import accounting, calibration, composition, curves, events
from privacy.dp.across_plans import AcrossPlan
from privacy.dp.cohort_plans import KeywordsPlan, Plan, plan_of
from privacy.dp.confident_plans import ConfidentChoicePlan
from privacy.dp.events import Event
from privacy.dp.release_plans import TOUCHED, CorpusPlan
from privacy.dp.text_plan import TextPlan
from privacy.models import Entry, EntryKind, Reservation, ReservationState, Scope


@dataclass(frozen=True, slots=True)
class Line:
    """``count`` releases by the same plan, and the ``nano`` units of the block's divergence that they keep."""

    plan: Plan
    count: int
    nano: int

    def parts(self, alpha: float) -> list[tuple[Event, int]]:
        """The releases as events to compose: of a text the tokens that were drawn, of a check what it let through."""
        if isinstance(self.plan, TextPlan | ConfidentChoicePlan):
            rho = accounting.up(float(Fraction(self.nano) / accounting.NANO / Fraction(alpha)))
            return [(events.of_rho(rho, adjacency=self.plan.event.adjacency), 1)] if rho else []
        return [(self.plan.event, self.count)]


@dataclass(frozen=True, slots=True)
class Statement:
    """A block's releases and totals. ``composed`` is the Renyi composition at the best order, as if all costs had been
    fixed in advance: an estimate beside the filter's promise. ``plain_sum`` adds the claims; ``requests`` counts what
    was charged and not released.
    """

    lines: tuple[Line, ...]
    composed: float
    plain_sum: float
    requests: int


def order_of(scope: Scope) -> tuple[float, float, float]:
    """Order, epsilon and delta of a block.

    Raises:
        BlockExhausted: it has none, so nothing may be charged to it.
    """
    if scope.alpha is None or scope.epsilon is None or scope.delta is None:
        raise BlockExhausted("The block's parameters are missing.")
    return scope.alpha, scope.epsilon, scope.delta


def _groups(scope: Scope) -> Iterator[tuple[Any, int, int]]:
    """Stored event, how many reservations have it, and what they keep; fully released ones cost nothing."""
    rows = Entry.objects.filter(scope=scope, reservation__isnull=False)
    rows = rows.exclude(reservation__state=ReservationState.RELEASED)
    grouped = rows.values_list("reservation__event").annotate(n=Count("reservation", distinct=True), kept=Sum("amount"))
    yield from grouped.order_by()


@dataclass(frozen=True, slots=True)
class Totals:
    """What a node tells of its block at any time: a few sums, however many releases there were."""

    composed: float
    plain_sum: float
    requests: int


def totals(scope: Scope) -> Totals:
    """The block's totals from sums that the database adds up.

    Raises:
        BlockExhausted: the block has no parameters.
    """
    charged = Reservation.objects.filter(
        pk__in=Entry.objects.filter(scope=scope, kind=EntryKind.RESERVE).values("reservation")
    ).exclude(state=ReservationState.RELEASED)
    epsilon = Cast(KT("event__epsilon"), FloatField())
    sums = charged.aggregate(
        plain=Sum(epsilon, default=0.0),
        requests=Count("pk"),
        deltas=Sum(Cast(KT("event__delta"), FloatField()), default=0.0),
        counts=Sum(epsilon * epsilon / 2, filter=Q(event__mechanism="count"), default=0.0),
    )
    composed = composed_quickly(scope, sums["counts"])
    if sums["deltas"] <= (scope.delta or 0.0):
        composed = min(composed, sums["plain"])  # basic composition, where its delta is no larger
    return Totals(composed, sums["plain"], sums["requests"])


def composed_quickly(scope: Scope, rho_of_counts: float) -> float:
    """Epsilon of everything charged so far, rounded up: an estimate beside the filter's promise.

    The smaller of two figures. One is the filter's own order. The other takes all orders at once, for delta / |orders|
    each: every release is zCDP (a count of epsilon is epsilon^2 / 2, the others what they were charged over the order),
    and those add up. For costs that were fixed in advance either would be a bound; for adaptive ones, looked at at any
    time, only the block's whole (epsilon, delta) is.
    """
    alpha, _, delta = order_of(scope)
    counts = Entry.objects.filter(scope=scope, reservation__event__mechanism="count")
    others = scope.used - (counts.aggregate(total=Sum("amount"))["total"] or 0)
    rho = accounting.up(others / accounting.NANO / alpha + rho_of_counts)
    if not scope.used:
        return 0.0
    everywhere = accounting.epsilon_of_rho(rho, delta / len(curves.ORDERS))
    return min(everywhere, accounting.epsilon_of_nano(scope.used, alpha, delta))


def of(scope: Scope) -> Statement:
    """The block's statement.

    Raises:
        BlockExhausted: the block has no parameters. InvalidParameter: a stored event does not add up.
    """
    alpha, _, delta = order_of(scope)
    lines = tuple(Line(plan_of(event), count, kept) for event, count, kept in _groups(scope))
    parts = [part for line in lines for part in line.parts(alpha)]
    composed = composition.composed(parts, delta, "rdp") if parts else 0.0
    plain = math.fsum(line.plan.epsilon * line.count for line in lines)
    if math.fsum(line.plan.delta * line.count for line in lines) <= delta:
        composed = min(composed, plain)  # basic composition, where its delta is no larger
    return Statement(lines, composed, plain, sum(line.count for line in lines))


def second_opinion(statement: Statement, alpha: float, delta: float) -> float | None:
    """Epsilon of the same releases by privacy loss distributions; None where they have too little noise for one.

    For reports only: as a limit it would not hold for costs that are chosen adaptively (arXiv 2602.15815). A sum of
    several hospitals is known by its zCDP alone, so it enters as the (epsilon, delta) that follows from it, with half
    of ``delta`` for all such sums together: a bound from above.
    """
    sums = sum(line.count for line in statement.lines if isinstance(line.plan, AcrossPlan))
    share = delta / (2 * max(1, sums))
    try:
        parts = [part for line in statement.lines for part in _exact(line, alpha, share)]
        return composition.composed(parts, delta, "pld")
    except InvalidParameter:
        return None


def _exact(line: Line, alpha: float, share: float) -> list[tuple[Event, int]]:
    """Events with a loss distribution, a bound from above: all tokens of a text, all histograms behind a check."""
    plan = line.plan
    if isinstance(plan, CorpusPlan):
        event, tokens = calibration.of_tokens(plan.text)
        return [(event, TOUCHED * tokens * line.count)]
    if isinstance(plan, TextPlan):
        event, tokens = calibration.of_tokens(plan)
        return [(event, tokens * line.count)]
    if isinstance(plan, KeywordsPlan):
        return [(plan.pick, plan.picks * line.count)]
    if isinstance(plan, ConfidentChoicePlan):
        return [(plan.check_event, line.count), (plan.noise.event, line.count)]
    if isinstance(plan, AcrossPlan):
        epsilon = accounting.epsilon_of_rho(plan.rho, share)
        return [(events.claim(epsilon, share, adjacency=plan.event.adjacency), line.count)]
    return line.parts(alpha)
