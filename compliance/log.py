"""The log of evidence: append in the current transaction. The database refuses update, delete and truncate."""

from __future__ import annotations

from collections.abc import Iterable

from compliance.models import Event
from fdrouter import evidence


def append(events: Iterable[evidence.Event]) -> None:
    """Appends in the current transaction; if that rolls back, neither the action nor its evidence happened."""
    Event.objects.bulk_create(
        Event(
            kind=event.kind,
            outcome=event.outcome,
            actor_id=event.actor_id,
            subject=event.subject,
            hospital=event.hospital,
            department=event.department,
            purpose=event.purpose,
            details=event.details,
        )
        for event in events
    )
