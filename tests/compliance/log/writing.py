"""Events to sequence, and the tree over them by the recursion of RFC 6962, section 2.1."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

from django.db import connection, transaction

from compliance.log.entries import leaf_data
from compliance.models import Event, Leaf
from fdrouter import evidence


def event(nth: int = 0, **given: Any) -> evidence.Event:
    return evidence.Event(
        kind="request.submit", subject=uuid.uuid4(), hospital="northfield", **{"details": {"nth": nth}, **given}
    )


def write(count: int) -> None:
    with transaction.atomic():
        evidence.record(*(event(nth) for nth in range(count)))


def reference_root(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962, as its recursion says it."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\1" + reference_root(leaves[:split]) + reference_root(leaves[split:])).digest()


def data_of(event: Event) -> bytes:
    columns = "seq at kind outcome actor_id subject hospital department purpose details commitment".split()
    return leaf_data(*(getattr(event, name) for name in columns))


def leaves() -> list[bytes]:
    """The leaf data of all entries, in the tree's order, and a check that indices have no gap."""
    rows = list(Leaf.objects.order_by("index"))
    assert [row.index for row in rows] == list(range(len(rows)))
    events = Event.objects.in_bulk([row.event for row in rows])
    return [data_of(events[row.event]) for row in rows]


def without_guards(*statements: str) -> None:
    """What a superuser can do to the tables."""
    with connection.cursor() as cursor, transaction.atomic():
        for statement in statements:
            tables = [word for word in statement.replace("(", " ").split() if word.startswith("compliance_")]
            cursor.execute(f"ALTER TABLE {tables[0]} DISABLE TRIGGER ALL")
            cursor.execute(statement)
            cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
            cursor.execute(f"ALTER TABLE {tables[0]} ENABLE TRIGGER ALL")
