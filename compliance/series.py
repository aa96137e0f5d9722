"""What a report's pictures are drawn from: blocks over their lifetime, departments by week, purposes of use."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta

from django.db.models import Count, F, Sum
from django.utils import timezone

from accounts.models import Department
from accounts.policy import PURPOSES
from accounts.principals import Principal
from compliance import access, budgets, selectors
from compliance.blocks import Block
from compliance.period import Period
from compliance.selectors import RequestFilter

MOST_POINTS = 120
"""Points of a block's line: days, or steps of several days where its life is longer."""
DAYS_ALONE = 14
"""A heat map of up to so many days has a column a day, and a column a week beyond."""


@dataclass(frozen=True, slots=True)
class BurnDown:
    """What was left of a block, day by day, from the first charge that a receipt tells of to ``points``' last day.

    ``points`` are ISO days and shares of the cap at their end. Reckoned backwards from what the node reported last,
    by the charges of its signed receipts: what no receipt tells of (publications, charges kept after a failure) is
    missing from the first point on.
    """

    title: str
    hospital: str
    points: list[tuple[str, float]]
    forecast: str | None
    composed: float
    epsilon: float


def burn_down(blocks: list[Block]) -> list[BurnDown]:
    """The blocks' lines, of those that are not retired and whose cap is known."""
    charged = _charged_by_day()
    return [
        _line(block, charged.get((block.node, block.key), {})) for block in blocks if block.cap and not block.retired
    ]


def _charged_by_day() -> dict[tuple[str, str], dict[date, int]]:
    """Nano-units that signed receipts charged, by node and block and by day."""
    found: dict[tuple[str, str], dict[date, int]] = defaultdict(lambda: defaultdict(int))
    receipts = budgets.charging_receipts().exclude(finished_at=None)
    mechanism = "receipt__body__mechanism"
    columns = ("node_id", "finished_at", f"{mechanism}__blocks", f"{mechanism}__nano_rdp_spent")
    for node, at, charged, nano, key in (
        receipts.exclude(node=None).values_list(*columns, "receipt__body__block__key").iterator()
    ):
        for block, amount in (charged or {key or "": nano or 0}).items():
            found[node, block][timezone.localdate(at)] += amount
    for at, signed in receipts.filter(node=None).values_list("finished_at", "receipt__receipts").iterator():
        for body in (one["body"] for one in signed or ()):
            for block, amount in body["mechanism"]["blocks"].items():
                found[body["node"], block][timezone.localdate(at)] += amount
    return found


def _line(block: Block, charged: dict[date, int]) -> BurnDown:
    last = timezone.localdate()
    first = min(charged, default=last) - timedelta(days=1)
    step = max(1, -(-(last - first).days // MOST_POINTS))
    days = sorted({last - timedelta(days=n) for n in range(0, (last - first).days + 1, step)} | {first})
    points = []
    for day in days:
        later = sum(amount for on, amount in charged.items() if on > day)
        points.append((day.isoformat(), round(min(1.0, block.left_share + later / block.cap), 6)))
    return BurnDown(block.title, block.hospital, points, block.runs_out_on, block.composed, block.epsilon)


@dataclass(frozen=True, slots=True)
class HeatRow:
    """Micro-epsilon that one department spent in each column."""

    department: str
    hospital: str
    values: list[int]


def heat(
    principal: Principal, covered: Period, hospital: str | None = None
) -> tuple[list[tuple[str, str]], list[HeatRow]]:
    """Columns (first and last ISO day of each) and departments that spent anything, by hospital and name."""
    columns = _columns(covered)
    place = {day: nth for nth, column in enumerate(columns) for day in column.days}
    within = [h.code for h in access.hospitals(principal, hospital)]
    departments = Department.objects.filter(hospital__in=within).select_related("hospital")
    rows = {
        f"department:{row.pk}": HeatRow(row.name, row.hospital.name, [0] * len(columns))
        for row in departments.order_by("hospital__name", "name")
    }
    spent = budgets.epsilon_entries().filter(scope__key__in=list(rows), period__range=(covered.start, covered.end))
    for key, day, amount in spent.values_list(F("scope__key"), "period").annotate(total=Sum("amount")):
        rows[key].values[place[day]] += amount
    spans = [(column.start.isoformat(), column.end.isoformat()) for column in columns]
    return spans, [row for row in rows.values() if any(row.values)]


def _columns(covered: Period) -> list[Period]:
    """Days, or weeks from Monday cut off at both ends."""
    if len(covered.days) <= DAYS_ALONE:
        return [Period(day, day) for day in covered.days]
    found, start = [], covered.start
    while start <= covered.end:
        end = min(start + timedelta(days=6 - start.weekday()), covered.end)
        found.append(Period(start, end))
        start = end + timedelta(days=1)
    return found


@dataclass(frozen=True, slots=True)
class PurposeCount:
    """Requests with one purpose of use."""

    purpose: str
    label: str
    count: int


def purposes(principal: Principal, asked: RequestFilter) -> list[PurposeCount]:
    """Requests by purpose of use, most first; every purpose has its line."""
    rows = selectors.narrowed(principal, asked).order_by()
    counts = dict.fromkeys(PURPOSES, 0) | dict(rows.values_list("purpose").annotate(n=Count("pk")))
    found = [PurposeCount(code, PURPOSES.get(code, code), count) for code, count in counts.items()]
    return sorted(found, key=lambda row: (-row.count, row.label))
