"""``make tamper-drill``: copies of a log are edited by a superuser who takes the guards off; the verifier says where.

Each edit is made in a database of its own, copied from one with 1,000 entries under four checkpoints. Exit 1 if the
verifier misses one or names another entry. The last edit also writes leaf and tiles anew, as somebody would who knows
how the log is made: then the signed roots say between which two checkpoints the entry is.
"""

# ruff: noqa: S608  (statements are made of this module's own constants)
from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import psycopg

from benchmarks.log import server
from benchmarks.log.writers import batch_of

ENTRIES, EVERY, PLACE = 1000, 250, 613
_EVENT = f"(SELECT event FROM compliance_leaf WHERE index = {PLACE})"
_AT = PLACE % 256 * 32
_NOTE = "note = replace(note, E'\\n750\\n', E'\\n749\\n')"
EDITS: dict[str, tuple[tuple[str, ...], str]] = {
    "edit an event": ((f"UPDATE compliance_event SET actor_id = 8 WHERE seq = {_EVENT}",), f"Entry {PLACE}:"),
    "delete an event": ((f"DELETE FROM compliance_event WHERE seq = {_EVENT}",), f"Entry {PLACE}:"),
    "delete an event and its leaf": (
        (
            f"DELETE FROM compliance_event WHERE seq = {_EVENT}",
            f"DELETE FROM compliance_leaf WHERE index = {PLACE}",
        ),
        f"Entry {PLACE} is missing",
    ),
    "delete the end": (("DELETE FROM compliance_leaf WHERE index >= 990",), "990"),
    "insert an event": (
        (
            "INSERT INTO compliance_event (seq, at, kind, outcome, details)"
            " VALUES (987654321, now(), 'request.submit', 'ok', '{}')",
        ),
        "Event 987654321 is in the table",
    ),
    "reorder two entries": (
        (
            "UPDATE compliance_leaf a SET event = -b.event FROM compliance_leaf b"
            f" WHERE a.index IN ({PLACE}, {PLACE + 1}) AND b.index IN ({PLACE}, {PLACE + 1}) AND a.index <> b.index",
            "UPDATE compliance_leaf SET event = -event WHERE event < 0",
        ),
        f"Entry {PLACE}:",
    ),
    "edit a leaf": ((f"UPDATE compliance_leaf SET hash = sha256('x') WHERE index = {PLACE}",), f"Entry {PLACE}:"),
    "edit a tile": (
        (
            f"UPDATE compliance_tile SET hashes = set_byte(hashes, {_AT}, (get_byte(hashes, {_AT}) + 1) % 256)"
            f" WHERE level = 0 AND index = {PLACE // 256}",
        ),
        f"of entry {PLACE}",
    ),
    "edit a checkpoint": ((f"UPDATE compliance_checkpoint SET {_NOTE} WHERE size = 750",), "checkpoint of 750"),
    "edit a checkpoint's root": (
        ("UPDATE compliance_checkpoint SET root = sha256('x') WHERE size = 750",),
        "checkpoint of 750",
    ),
}
REWRITTEN = (
    "The checkpoint of 750 entries has another root than its entries; the first wrong entry is between 500 and 749"
)


def fill() -> None:
    """The log that is copied."""
    from django.db import connection

    from compliance import log

    for _ in range(ENTRIES // EVERY):
        events = json.loads(batch_of(EVERY))
        with connection.cursor() as cursor:
            cursor.execute("SELECT log_append(%s::jsonb)", [json.dumps(events)])
        log.sequence()
        assert log.checkpoint(force=True) is not None
    connection.close()


def copy(admin: str) -> None:
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS sandbox")
        connection.execute("CREATE DATABASE sandbox TEMPLATE fdrouter")


def as_superuser(url: str, statements: tuple[str, ...]) -> None:
    tables = ("event", "leaf", "tile", "checkpoint", "pending", "eventkey")
    with psycopg.connect(url) as connection:
        for table in tables:
            connection.execute(f"ALTER TABLE compliance_{table} DISABLE TRIGGER ALL")
        for statement in statements:
            done = connection.execute(statement)
            assert done.rowcount, f"changed nothing: {statement}"
        for table in tables:
            connection.execute(f"ALTER TABLE compliance_{table} ENABLE TRIGGER ALL")


def rewritten() -> tuple[str, ...]:
    """Event, leaf and tiles changed so that they fit each other."""
    from django.db import connection

    from compliance.log.entries import COLUMNS, leaf_data
    from compliance.log.sequencing import read_tile
    from compliance.merkle import tiles
    from compliance.merkle.hashing import leaf_hash
    from compliance.models import Leaf

    event = Leaf.objects.get(index=PLACE).event
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {COLUMNS} FROM compliance_event WHERE seq = %s", [event])
        names, row = COLUMNS.split(", "), cursor.fetchone()
    hashes = [bytes(row.hash) for row in Leaf.objects.order_by("index")]
    value = leaf_hash(leaf_data(**(dict(zip(names, row, strict=True)) | {"outcome": "denied"})))
    hashes[PLACE] = value
    grown = tiles.grow(0, hashes, read_tile)
    return (
        f"UPDATE compliance_event SET outcome = 'denied' WHERE seq = {event}",
        f"UPDATE compliance_leaf SET hash = '\\x{value.hex()}' WHERE index = {PLACE}",
        *(
            f"UPDATE compliance_tile SET hashes = '\\x{held.hex()}' WHERE level = {level} AND index = {index}"
            for (level, index), held in grown.items()
        ),
    )


def told(url: str, admin: str, statements: Callable[[], tuple[str, ...]]) -> str:
    """What the verifier says first of a copy with the edit; empty: nothing is wrong."""
    from django.db import connection

    from compliance.log.verify import verify

    connection.close()
    copy(admin)
    connection.settings_dict["NAME"] = "sandbox"
    as_superuser(url, statements())
    first = verify().first
    connection.close()
    return first.text if first else ""


def main() -> int:
    with server.database("fdrouter") as postgres:
        fill()
        admin, url = postgres.url("postgres"), postgres.url("sandbox")
        edits: dict[str, tuple[Any, str]] = {
            name: (lambda statements=statements: statements, expected)  # type: ignore[misc]
            for name, (statements, expected) in EDITS.items()
        }
        edits["edit an event and write leaf and tiles anew"] = rewritten, REWRITTEN
        said = {"nothing": told(url, admin, tuple)} | {
            name: told(url, admin, statements) for name, (statements, _) in edits.items()
        }
    missed = 0
    for name, text in said.items():
        good = not text if name == "nothing" else edits[name][1] in text
        missed += not good
        print(f"{'' if good else 'MISSED '}{name}: {text or 'every entry is as it was written'}")
    print(f"{len(edits) - missed} of {len(edits)} edits found and placed")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
