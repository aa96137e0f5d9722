"""Recomputes every figure of the ledger from what is stored, and names what does not add up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from django.db.models import Count, Q, Sum

from accounts.models import Department
from fdrouter.errors import DomainError
from privacy import grants, limits, statement
from privacy.dp import accounting, curves
from privacy.dp.bounds import ADJACENCY
from privacy.dp.cohort_plans import Plan, plan_of
from privacy.dp.confident_plans import ConfidentChoicePlan
from privacy.dp.text_plan import TextPlan
from privacy.dp.units import micro
from privacy.models import Curve, Entry, EntryKind, LimitDocument, ReservationState, Scope, ScopeKind, Unit
from privacy.statement import Statement


@dataclass(frozen=True, slots=True)
class BlockReport:
    """A block's totals by two accountants. ``second`` is None where a release has no loss distribution."""

    scope: Scope
    statement: Statement
    second: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """``faults`` are sentences that name scope or reservation; empty when the books balance."""

    scopes: int
    reservations: int
    blocks: tuple[BlockReport, ...]
    faults: tuple[str, ...]


def verify() -> Result:
    """Checks all scopes, reservations and blocks. Changes nothing; run it in a transaction of its own."""
    scopes = list(Scope.objects.order_by("pk"))
    faults = [fault for scope in scopes for fault in _scope_faults(scope)]
    reservations = 0
    for fault, counted in _line_faults({scope.pk: scope for scope in scopes}):
        reservations += counted
        faults.extend(fault)
    reports = []
    for scope in scopes:
        if scope.kind == ScopeKind.BLOCK and scope.unit == Unit.NANO_RDP:
            try:
                reports.append(_block(scope))
            except DomainError as error:
                faults.append(f"{scope}: {error.message}")
    faults.extend(_curve_faults())
    return Result(len(scopes), reservations, tuple(reports), tuple(faults))


def _scope_faults(scope: Scope) -> Iterator[str]:
    total = Entry.objects.filter(scope=scope).aggregate(total=Sum("amount"))["total"] or 0
    if total != scope.used:
        yield f"{scope}: used is {scope.used}, its entries add up to {total}"
    if not 0 <= scope.used <= scope.limit:
        yield f"{scope}: {scope.used} used of {scope.limit}"
    if scope.kind == ScopeKind.BLOCK:
        alpha, epsilon, delta = statement.order_of(scope)
        frozen = accounting.block_cap(epsilon, delta)
        if scope.unit == Unit.NANO_RDP and (alpha, scope.cap) != (frozen.alpha, frozen.nano):
            yield f"{scope}: cap {scope.cap} at order {alpha:g} is not the filter's, {frozen.nano} at {frozen.alpha:g}"
        return
    granted = grants.granted_today([scope])[scope.pk]
    # A cap that was lowered below what the day had used leaves the difference in `extra` until midnight.
    lowered = scope.period and LimitDocument.objects.filter(applied_at__date__gte=scope.period).exists()
    if scope.extra < granted or (scope.extra > granted and not lowered):
        yield f"{scope}: {scope.extra} granted, its approved grants add up to {granted}"
    if scope.cap > (allowed := _allowed(scope)):
        yield f"{scope}: its cap is {scope.cap}, the limits in force allow {allowed}"


def _allowed(scope: Scope) -> int:
    department = scope.key.partition(":")[2] if scope.kind == ScopeKind.DEPARTMENT else ""
    code = Department.objects.filter(pk=int(department or 0)).values_list("code", flat=True).first() or ""
    return limits.effective().cap(ScopeKind(scope.kind), Unit(scope.unit), scope.hospital, code)


def _line_faults(scopes: dict[int, Scope]) -> Iterator[tuple[list[str], int]]:
    """Of each reservation's line at each scope: what is wrong with it, and 1 for the first line of a reservation."""
    lines = Entry.objects.filter(reservation__isnull=False).values_list(
        "reservation", "scope", "reservation__state", "reservation__event"
    )
    lines = lines.annotate(
        charges=Count("pk", filter=Q(kind=EntryKind.RESERVE)),
        charged=Sum("amount", filter=Q(kind=EntryKind.RESERVE), default=0),
        refunded=Sum("amount", filter=Q(kind=EntryKind.REFUND), default=0),
    )
    last = None
    for row in lines.order_by("reservation", "scope").iterator():
        pk, scope_id, state, event, charges, charged, refunded = cast("tuple[Any, ...]", row)
        where = f"reservation {pk} at {scopes[scope_id]}"
        found = []
        if charges != 1:
            found.append(f"{where}: charged {charges} times")
        if not 0 <= -refunded <= charged:
            found.append(f"{where}: {-refunded} given back of {charged}")
        if state in (ReservationState.RESERVED, ReservationState.EXPIRED) and refunded:
            found.append(f"{where}: {state}, but {-refunded} was given back")
        if state == ReservationState.SETTLED and refunded and event:
            found += _refund_faults(where, scopes[scope_id], event, charged + refunded)
        if event is not None and (expected := _expected(scopes[scope_id], _key(event))) not in (None, charged):
            found.append(f"{where}: charged {charged}, its event costs {expected}")
        yield found, int(pk != last)
        last = pk


def _refund_faults(where: str, scope: Scope, event: dict[str, Any], kept: int) -> list[str]:
    """Whether a settled release may have given anything back: a text, or a choice whose check did not pass."""
    plan = _plan(_key(event))
    if plan is None:
        return []
    if isinstance(plan, TextPlan):
        if scope.unit != Unit.NANO_RDP or kept in _texts(_key(event), statement.order_of(scope)[0]):
            return []
        return [f"{where}: {kept} kept of a text, which no number of its tokens costs"]
    if isinstance(plan, ConfidentChoicePlan) and scope.unit == Unit.NANO_RDP:
        least = plan.nano_of_check(statement.order_of(scope)[0])
        return [] if kept == least else [f"{where}: {kept} kept of a check that costs {least}"]
    return [f"{where}: something was given back of a release that is paid whole"]


@lru_cache(maxsize=1024)
def _texts(key: str, alpha: float) -> frozenset[int]:
    """What a text costs by the number of its tokens."""
    plan = _plan(key)
    tokens = range(plan.max_tokens + 1) if isinstance(plan, TextPlan) else ()
    return frozenset(accounting.nano_rdp_up(plan.rho_of(t), alpha) for t in tokens if isinstance(plan, TextPlan))


def _key(event: dict[str, Any]) -> str:
    return json.dumps(event, sort_keys=True)


@lru_cache(maxsize=4096)
def _plan(key: str) -> Plan | None:
    try:
        return plan_of(json.loads(key))
    except DomainError:
        return None


def _expected(scope: Scope, key: str) -> int | None:
    """What the event costs in the scope's units; -1 when it does not add up, None when the scope does not count it."""
    if scope.unit in (Unit.REQUESTS, Unit.FEMTO_DELTA):
        return None
    plan = _plan(key)
    if plan is None:
        return -1
    if scope.unit == Unit.MICRO_EPSILON:
        return micro(plan.epsilon)
    if plan.event.adjacency != ADJACENCY:
        return -1
    return plan.nano_at(statement.order_of(scope)[0])


def _curve_faults() -> Iterator[str]:
    """Stored Renyi curves that are not what their events say, or are on a grid of another name."""
    rows = Curve.objects.values_list("pk", "grid", "nano", "reservation__event")
    for pk, grid, nano, event in rows.order_by("pk").iterator():
        if grid != curves.GRID:
            yield f"reservation {pk}: its curve is on the grid {grid}, which is not known"
        elif event is None or list(nano) != _curve(_key(event)):
            yield f"reservation {pk}: its curve is not its event's"


@lru_cache(maxsize=1024)
def _curve(key: str) -> list[int | None] | None:
    plan = _plan(key)
    return None if plan is None else curves.nano_curve(plan.event)


def _block(scope: Scope) -> BlockReport:
    alpha, _, delta = statement.order_of(scope)
    found = statement.of(scope)
    return BlockReport(scope, found, statement.second_opinion(found, alpha, delta))
