"""Daily allowances spent and left, from the coordinator's ledger, and the nodes as last seen.

Amounts are micro-epsilon (1e-6, plain sums). What the hospitals' records still have is in ``compliance.blocks``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from django.db.models import Count, F, FloatField, QuerySet, Sum
from django.db.models.fields.json import KT
from django.db.models.functions import Cast
from django.utils import timezone

from accounts.models import Department
from accounts.principals import Principal
from compliance import access
from compliance.period import Period
from federation.models import Inference, Node
from privacy import limits, quotas
from privacy.models import Entry, EntryKind, ReservationState, Scope, ScopeKind, Unit

FULL_SHARE = 0.9
"""From this share of a day's allowance on, the day counts as nearly used up."""
SEEN_SECONDS = 60
"""A node that was not seen for this long counts as not seen: the prober calls every ten seconds."""


@dataclass(frozen=True, slots=True)
class DepartmentSpend:
    """One department's quota. ``open`` is the part of ``spent`` whose requests have not ended yet."""

    hospital: str
    hospital_name: str
    code: str
    name: str
    cap: int
    spent_today: int
    left_today: int
    spent: int
    open: int
    requests: int
    peak: int
    peak_day: str | None
    full_days: int


@dataclass(frozen=True, slots=True)
class HospitalSpend:
    """A hospital's departments summed, and what its node's signed receipts charged to its own patients' block."""

    code: str
    name: str
    cap: int
    spent_today: int
    left_today: int
    spent: int
    open: int
    requests: int
    receipts: int
    receipts_epsilon: int


def epsilon_entries() -> QuerySet[Entry]:
    """Movements of departments' quotas, without refills."""
    return Entry.objects.filter(scope__kind=ScopeKind.DEPARTMENT, scope__unit=Unit.MICRO_EPSILON).exclude(
        kind=EntryKind.RESET
    )


def _default_cap(department: Department) -> int:
    return limits.effective().cap(ScopeKind.DEPARTMENT, Unit.MICRO_EPSILON, department.hospital_id, department.code)


def _used_today(scope: Scope) -> int:
    """What the quota's present day has used; a day that nobody spent in yet still shows the last one's in the row."""
    return scope.used if scope.period == timezone.now().astimezone(ZoneInfo(scope.time_zone)).date() else 0


def departments(principal: Principal, period: Period, hospital: str | None = None) -> list[DepartmentSpend]:
    """Spent and left by department, by hospital and name. Days are those of each quota's own time zone."""
    within = [h.code for h in access.hospitals(principal, hospital)]
    rows = list(
        Department.objects.filter(hospital__in=within).select_related("hospital").order_by("hospital__name", "name")
    )
    keys = {f"department:{row.pk}": row.pk for row in rows}
    scopes = {
        keys[s.key]: s
        for s in Scope.objects.filter(kind=ScopeKind.DEPARTMENT, unit=Unit.MICRO_EPSILON, key__in=list(keys))
    }
    entries = epsilon_entries().filter(scope__in=scopes.values(), period__range=(period.start, period.end))
    by_day: dict[int, dict[date, int]] = {}
    for scope_id, day, amount in entries.values_list("scope_id", "period").annotate(total=Sum("amount")):
        by_day.setdefault(scope_id, {})[day] = amount
    still_open = entries.filter(reservation__state=ReservationState.RESERVED)
    open_by_scope = dict(still_open.values_list("scope_id").annotate(total=Sum("amount")))
    begin, end = period.bounds
    asked = Inference.objects.filter(department__in=rows, created_at__gte=begin, created_at__lt=end)
    requests = dict(asked.values_list("department_id").annotate(n=Count("pk")))
    return [_department(row, scopes.get(row.pk), by_day, open_by_scope, requests.get(row.pk, 0)) for row in rows]


def _department(
    row: Department, scope: Scope | None, by_day: dict[int, dict[date, int]], still_open: dict[int, int], requests: int
) -> DepartmentSpend:
    """A quota is created with its first request; until then the default that it will get is its cap."""
    days = by_day.get(scope.pk, {}) if scope else {}
    today = _used_today(scope) if scope else 0
    cap = scope.limit if scope else _default_cap(row)
    peak_day = max(days, key=lambda day: days[day], default=None)
    peak = days[peak_day] if peak_day is not None else 0
    return DepartmentSpend(
        hospital=row.hospital_id,
        hospital_name=row.hospital.name,
        code=row.code,
        name=row.name,
        cap=cap,
        spent_today=today,
        left_today=cap - today,
        spent=sum(days.values()),
        open=still_open.get(scope.pk, 0) if scope else 0,
        requests=requests,
        peak=peak,
        peak_day=peak_day.isoformat() if peak_day is not None and peak > 0 else None,
        full_days=sum(amount >= FULL_SHARE * cap for amount in days.values()),
    )


def by_hospital(
    principal: Principal, period: Period, rows: list[DepartmentSpend], hospital: str | None = None
) -> list[HospitalSpend]:
    """What each hospital's departments spent, its own daily allowance, and what its node charged in its receipts."""
    begin, end = period.bounds
    charged = charging_receipts().filter(finished_at__gte=begin, finished_at__lt=end)
    receipts = {
        code: (count, quotas.micro(total))
        for code, count, total in charged.exclude(node=None)
        .values_list("node__hospital_id")
        .annotate(n=Count("pk"), total=Sum(in_receipt("epsilon")))
    }
    for body in signed_together(charged):
        count, total = receipts.get(body["hospital"], (0, 0))
        receipts[body["hospital"]] = (count + 1, total + quotas.micro(body["mechanism"]["epsilon"]))
    own = {s.hospital: s for s in Scope.objects.filter(kind=ScopeKind.HOSPITAL, unit=Unit.MICRO_EPSILON)}
    found = []
    for place in access.hospitals(principal, hospital):
        mine = [row for row in rows if row.hospital == place.code]
        count, total = receipts.get(place.code, (0, 0))
        sums = {
            field: sum(getattr(row, field) for row in mine) for field in ("spent_today", "spent", "open", "requests")
        }
        quota = own.get(place.code)
        usual = limits.effective().cap(ScopeKind.HOSPITAL, Unit.MICRO_EPSILON, place.code)
        sums["cap"] = quota.limit if quota else usual
        sums["left_today"] = sums["cap"] - (_used_today(quota) if quota else 0)
        found.append(HospitalSpend(code=place.code, name=place.name, receipts=count, receipts_epsilon=total, **sums))
    return found


def charging_receipts() -> QuerySet[Inference]:
    """Requests whose node signed that a mechanism was run over its records. A stored release told again is none."""
    rows = Inference.objects.filter(receipt__body__mechanism__epsilon__gt=0)
    return rows.exclude(receipt__body__mechanism__has_key="repeat_of")


def signed_together(rows: QuerySet[Inference]) -> Iterator[dict[str, Any]]:
    """Bodies of the receipts of answers that several hospitals gave together: one for each hospital that paid."""
    for receipts in rows.filter(node=None).values_list("receipt__receipts", flat=True).iterator():
        yield from (signed["body"] for signed in receipts or ())


def in_receipt(figure: str) -> Cast:
    return Cast(KT(f"receipt__body__mechanism__{figure}"), FloatField())


def daily(principal: Principal, period: Period, hospital: str | None = None) -> dict[str, list[int]]:
    """Micro-epsilon that each hospital's departments spent on each day of the period, by the hospital's name."""
    places = {place.code: place.name for place in access.hospitals(principal, hospital)}
    keys = {
        f"department:{pk}": code
        for pk, code in Department.objects.filter(hospital__in=places).values_list("pk", "hospital_id")
    }
    days = {day: nth for nth, day in enumerate(period.days)}
    series = {name: [0] * len(days) for name in places.values()}
    rows = epsilon_entries().filter(scope__key__in=list(keys), period__range=(period.start, period.end))
    for key, day, amount in rows.values_list(F("scope__key"), "period").annotate(total=Sum("amount")):
        series[places[keys[key]]][days[day]] += amount
    return series


@dataclass(frozen=True, slots=True)
class NodeState:
    """A node as the prober last saw it."""

    id: str
    name: str
    hospital: str
    hospital_name: str
    seen_at: datetime | None
    healthy: bool
    seen: bool


def nodes(principal: Principal, hospital: str | None = None) -> list[NodeState]:
    """The active nodes within reach. ``seen`` is whether the prober reached it lately."""
    since = timezone.now() - timedelta(seconds=SEEN_SECONDS)
    rows = Node.objects.filter(active=True, hospital__in=access.hospitals(principal, hospital))
    return [
        NodeState(
            id=node.pk,
            name=node.name,
            hospital=node.hospital_id,
            hospital_name=node.hospital.name,
            seen_at=node.last_seen_at,
            healthy=node.status.get("healthy") is True,
            seen=node.last_seen_at is not None and node.last_seen_at >= since,
        )
        for node in rows.select_related("hospital").order_by("hospital__name", "id")
    ]
