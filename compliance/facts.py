"""The figures of a report, frozen as one JSON document. They come from the selectors of the pages."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from accounts.principals import Principal
from compliance import access, blocks, budgets, enclosures, period, selectors, series
from compliance.controls import matrix
from compliance.controls.library import LibraryInvalid
from compliance.period import Period
from compliance.selectors import EventFilter, RequestFilter

VERSION = 3


@dataclass(frozen=True, slots=True)
class Frozen:
    """What a report says (``facts``), and the files that it carries along, whose digests the facts hold."""

    facts: dict[str, Any]
    files: dict[str, bytes]


def collect(principal: Principal, covered: Period, hospital: str = "", kind: str = "range") -> Frozen:
    """Everything the report of this period says, from one consistent view of the database.

    Days that are still to come are cut off.

    Raises:
        NotFound: the portal or the hospital is not this person's.
    """
    outermost = not connection.in_atomic_block
    with transaction.atomic():
        if outermost:
            _one_snapshot()
        return _collect(principal, covered, hospital, kind, timezone.now())


def _one_snapshot() -> None:
    """All queries of this transaction see the same moment, so that the figures of different tables agree."""
    with connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def _collect(principal: Principal, asked_for: Period, hospital: str, kind: str, now: datetime) -> Frozen:
    within = access.reach(principal, hospital)
    today = timezone.localdate(now)
    covered = Period(asked_for.start, max(asked_for.start, min(asked_for.end, today)))
    places = list(access.hospitals(principal, hospital))
    enclosed = enclosures.collect(principal, covered, hospital)
    facts = {
        "version": VERSION,
        "scope": {
            "hospital": within or "",
            "name": places[0].name if within else "All hospitals of the network",
            "hospitals": [{"code": place.code, "name": place.name} for place in places],
        },
        "period": {
            "kind": kind,
            "name": period.name(asked_for.start, asked_for.end, kind),
            "start": covered.start.isoformat(),
            "end": covered.end.isoformat(),
            "complete": asked_for.end < today,
            "time_zone": settings.TIME_ZONE,
        },
        "generated_at": now.isoformat(timespec="seconds"),
        "requested_by": principal.username,
        **_privacy(principal, covered, hospital),
        "requests": _requests(principal, covered, hospital),
        "evidence": _evidence(principal, covered, hospital),
        "controls": _controls(replace(principal, hospital=within), covered),
        "log": enclosed.facts,
        "attachments": enclosed.listed,
    }
    return Frozen(json.loads(canonical(facts)), enclosed.files)


def _privacy(principal: Principal, covered: Period, hospital: str) -> dict[str, Any]:
    departments = budgets.departments(principal, covered, hospital)
    found = blocks.reported(principal, hospital)
    columns, rows = series.heat(principal, covered, hospital)
    return {
        "departments": [asdict(row) for row in departments],
        "hospitals": [asdict(row) for row in budgets.by_hospital(principal, covered, departments, hospital)],
        "daily": budgets.daily(principal, covered, hospital),
        "blocks": [asdict(row) for row in found],
        "burn_down": [asdict(line) for line in series.burn_down(found)],
        "heat": {"columns": columns, "rows": [asdict(row) for row in rows]},
    }


def _requests(principal: Principal, covered: Period, hospital: str) -> dict[str, Any]:
    asked = RequestFilter(period=covered, hospital=hospital)
    kinds = selectors.request_counts(principal, asked)
    return {
        "kinds": [asdict(row) for row in kinds],
        "total": asdict(selectors.total_of(kinds)),
        "purposes": [asdict(row) for row in series.purposes(principal, asked)],
        "reasons": [
            {"state": state, "reason": reason, "count": count}
            for state, reason, count in selectors.request_reasons(principal, asked)
        ],
    }


def _evidence(principal: Principal, covered: Period, hospital: str) -> dict[str, Any]:
    logged = EventFilter(period=covered, hospital=hospital)
    events = selectors.event_counts(principal, logged)
    first, last = selectors.event_range(principal, logged)
    return {
        "counts": [asdict(row) for row in events],
        "total": sum(row.count for row in events),
        "first": first,
        "last": last,
    }


def _controls(principal: Principal, covered: Period) -> list[dict[str, Any]]:
    """Each control with how its evidence stood; none where no library is installed."""
    try:
        rows = matrix.rows(principal, covered)
    except LibraryInvalid:
        return []
    return [
        {
            "regulation": row.library.title,
            "citation": row.control.citation,
            "title": row.control.title,
            "status": row.status,
            "status_name": row.status_name,
            "sentence": row.evidence.sentence,
        }
        for row in rows
    ]


def canonical(facts: dict[str, Any]) -> bytes:
    """One spelling of the facts: sorted keys, no blanks, UTF-8."""
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(facts: dict[str, Any]) -> str:
    """SHA-256 of the canonical facts, 64 hex digits."""
    return hashlib.sha256(canonical(facts)).hexdigest()


def days(facts: dict[str, Any]) -> list[date]:
    """The days that ``daily`` has a figure for."""
    start, end = (date.fromisoformat(facts["period"][key]) for key in ("start", "end"))
    return [start + timedelta(days=n) for n in range((end - start).days + 1)]
