"""Privacy spent and left: quotas of departments from the coordinator's ledger, dataset blocks as the nodes report them.

Amounts of quotas are micro-epsilon (1e-6, plain sums). A block's ``used`` and ``cap`` are nano-units of Renyi
divergence at its frozen order; its two epsilons are the composed figure and the plain sum of all releases so far.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
NANO = 1_000_000_000
FORECAST_DAYS = 7
FORECAST_MINIMUM = 3
"""With fewer charged answers in the last days a pace means nothing."""
FORECAST_HORIZON_DAYS = 3650
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


@dataclass(frozen=True, slots=True)
class Block:
    """A dataset block as its node last reported it.

    ``left_share`` is of the filter's own units, which add up and which bind. Epsilon does not add up: ``composed`` is
    what all releases so far compose to, ``largest`` the largest single request that still fits, and neither follows
    from the other and ``epsilon``, what the block was opened for.
    """

    hospital: str
    hospital_name: str
    node: str
    node_name: str
    checked_at: str | None
    epsilon: float
    delta: float
    composed: float
    plain_sum: float
    largest: float
    left_share: float
    recent_answers: int
    runs_out_on: str | None

    @property
    def checked(self) -> datetime | None:
        """When the node reported it."""
        try:
            return datetime.fromisoformat(self.checked_at) if self.checked_at else None
        except ValueError:
            return None


def _epsilon_entries() -> QuerySet[Entry]:
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
    entries = _epsilon_entries().filter(scope__in=scopes.values(), period__range=(period.start, period.end))
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
    charged = _charging_receipts().filter(finished_at__gte=begin, finished_at__lt=end)
    receipts = {
        code: (count, quotas.micro(total))
        for code, count, total in charged.values_list("node__hospital_id").annotate(
            n=Count("pk"), total=Sum(_in_receipt("epsilon"))
        )
    }
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


def _charging_receipts() -> QuerySet[Inference]:
    """Requests whose node signed that a mechanism was run over its records. A stored release told again is none."""
    rows = Inference.objects.filter(receipt__body__mechanism__epsilon__gt=0)
    return rows.exclude(receipt__body__mechanism__has_key="repeat_of")


def _in_receipt(figure: str) -> Cast:
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
    rows = _epsilon_entries().filter(scope__key__in=list(keys), period__range=(period.start, period.end))
    for key, day, amount in rows.values_list(F("scope__key"), "period").annotate(total=Sum("amount")):
        series[places[keys[key]]][days[day]] += amount
    return series


def _number(source: Mapping[str, Any], key: str) -> float | None:
    value = source.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    return float(value)


def blocks(principal: Principal, hospital: str | None = None) -> list[Block]:
    """The dataset block of each node that reports one, as last reported; a node's nonsense is no block."""
    within = access.hospitals(principal, hospital)
    nodes = Node.objects.filter(active=True, hospital__in=within).select_related("hospital")
    recent = _charging_receipts().filter(finished_at__gte=timezone.now() - timedelta(days=FORECAST_DAYS))
    pace = {
        node: (count, nano or 0.0)
        for node, count, nano in recent.values_list("node_id").annotate(
            n=Count("pk"), nano=Sum(_in_receipt("nano_rdp_spent"))
        )
    }
    found = (_block(node, *pace.get(node.pk, (0, 0.0))) for node in nodes.order_by("hospital__name", "id"))
    return [block for block in found if block is not None]


def _block(node: Node, recent: int, nano: float) -> Block | None:
    reported = node.status.get("block")
    if not isinstance(reported, Mapping):
        return None
    read = {
        key: _number(reported, key)
        for key in ("epsilon", "delta", "epsilon_spent", "epsilon_left", "plain_sum", "used", "cap", "alpha")
    }
    values = {key: value for key, value in read.items() if value is not None}
    if len(values) < len(read) or values["cap"] <= 0 or values["epsilon"] <= 0:
        return None
    checked = node.status.get("checked_at")
    return Block(
        hospital=node.hospital_id,
        hospital_name=node.hospital.name,
        node=node.pk,
        node_name=node.name,
        checked_at=checked if isinstance(checked, str) else None,
        epsilon=values["epsilon"],
        delta=values["delta"],
        composed=values["epsilon_spent"],
        plain_sum=values["plain_sum"],
        largest=values["epsilon_left"],
        left_share=max(0.0, 1.0 - values["used"] / values["cap"]),
        recent_answers=recent,
        runs_out_on=_forecast(values, recent, nano),
    )


def _forecast(block: Mapping[str, float], recent: int, nano: float) -> str | None:
    """The day on which the filter is full if releases go on as in the last days; ``None``: nobody can say.

    The pace is taken in the filter's own units, which add up where epsilon does not: those that the receipts of the
    last days say were charged.
    """
    a_day = nano / FORECAST_DAYS
    if recent < FORECAST_MINIMUM or a_day <= 0:
        return None
    days = max(0.0, block["cap"] - block["used"]) / a_day
    if days > FORECAST_HORIZON_DAYS:
        return None
    return (timezone.localdate() + timedelta(days=math.floor(days))).isoformat()


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
