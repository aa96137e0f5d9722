"""The figures of a monthly report, frozen as one JSON document. They come from the selectors of the pages."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from datetime import date, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from accounts.principals import Principal
from compliance import access, blocks, budgets, period, selectors
from compliance.selectors import EventFilter, RequestFilter

VERSION = 2


def collect(principal: Principal, month: date, hospital: str = "") -> dict[str, Any]:
    """Everything the report of this month says, from one consistent view of the database."""
    outermost = not connection.in_atomic_block
    with transaction.atomic():
        if outermost:
            _one_snapshot()
        return _collect(principal, month, hospital, timezone.now())


def _one_snapshot() -> None:
    """All queries of this transaction see the same moment, so that the figures of different tables agree."""
    with connection.cursor() as cursor:
        cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def _collect(principal: Principal, month: date, hospital: str, now: datetime) -> dict[str, Any]:
    within = access.reach(principal, hospital)
    covered = period.month(month)
    places = list(access.hospitals(principal, hospital))
    departments = budgets.departments(principal, covered, hospital)
    asked = RequestFilter(period=covered, hospital=hospital)
    logged = EventFilter(period=covered, hospital=hospital)
    kinds = selectors.request_counts(principal, asked)
    events = selectors.event_counts(principal, logged)
    first, last = selectors.event_range(principal, logged)
    return {
        "version": VERSION,
        "scope": {
            "hospital": within or "",
            "name": places[0].name if within else "All hospitals of the network",
            "hospitals": [{"code": place.code, "name": place.name} for place in places],
        },
        "period": {
            "month": f"{month:%Y-%m}",
            "start": covered.start.isoformat(),
            "end": covered.end.isoformat(),
            "complete": covered.end < timezone.localdate(now),
            "time_zone": settings.TIME_ZONE,
        },
        "generated_at": now.isoformat(timespec="seconds"),
        "requested_by": principal.username,
        "departments": [asdict(row) for row in departments],
        "hospitals": [asdict(row) for row in budgets.by_hospital(principal, covered, departments, hospital)],
        "daily": budgets.daily(principal, covered, hospital),
        "blocks": [asdict(row) for row in blocks.reported(principal, hospital)],
        "requests": {
            "kinds": [asdict(row) for row in kinds],
            "total": asdict(selectors.total_of(kinds)),
            "reasons": [
                {"state": state, "reason": reason, "count": count}
                for state, reason, count in selectors.request_reasons(principal, asked)
            ],
        },
        "evidence": {
            "counts": [asdict(row) for row in events],
            "total": sum(row.count for row in events),
            "first": first,
            "last": last,
        },
    }


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
