"""Evidence as CSV: streamed in batches, in log order, safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import UTC
from typing import Any

from asgiref.sync import sync_to_async
from django.db import transaction

from accounts.principals import Principal
from compliance import selectors
from compliance.models import Event
from compliance.selectors import EventFilter
from fdrouter import evidence

COLUMNS = ("seq", "at", "kind", "outcome", "actor", "subject", "hospital", "department", "purpose", "details")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def cell(value: Any) -> str:
    """A value as text that no spreadsheet takes for a formula: it gets a quote in front (OWASP, CSV injection)."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def line(values: Iterable[Any]) -> str:
    """One line of a file."""
    out = io.StringIO()
    csv.writer(out).writerow([cell(value) for value in values])
    return out.getvalue()


def _row(event: Event) -> str:
    actor: str | None = getattr(event, "actor", None)
    return line(
        (
            event.seq,
            event.at.astimezone(UTC).isoformat(timespec="milliseconds"),
            event.kind,
            event.outcome,
            actor,
            event.subject,
            event.hospital,
            event.department,
            event.purpose,
            json.dumps(event.details, sort_keys=True, ensure_ascii=False),
        )
    )


def begin(principal: Principal, chosen: EventFilter) -> int:
    """Records the export and returns the last row that it will hold, so that it does not hold itself."""
    with transaction.atomic():
        rows = selectors.events(principal, chosen)
        _, last = selectors.event_range(principal, chosen)
        upto = last or 0
        evidence.record(
            evidence.Event(
                kind="events.export",
                actor_id=principal.user_id,
                hospital=principal.hospital,
                details={"rows": rows.filter(seq__lte=upto).count(), "upto": upto, "filter": _spelled(chosen)},
            )
        )
    return upto


def _spelled(chosen: EventFilter) -> dict[str, str]:
    found = {name: str(value) for name in chosen.__slots__ if (value := getattr(chosen, name)) and name != "period"}
    if chosen.period is not None:
        found |= {"start": chosen.period.start.isoformat(), "end": chosen.period.end.isoformat()}
    return found


def lines(principal: Principal, chosen: EventFilter, upto: int) -> Iterator[str]:
    """The file, a batch of rows at a time."""
    yield line(COLUMNS)
    for batch in selectors.events_after(principal, chosen, upto=upto):
        yield "".join(_row(event) for event in batch)


async def aside(chunks: Iterator[str]) -> AsyncIterator[str]:
    """A file for an ASGI server: each batch is read in a worker thread, and only when the client takes it."""
    following = sync_to_async(lambda: next(chunks, None))
    while (chunk := await following()) is not None:
        yield chunk
