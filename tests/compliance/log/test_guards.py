"""The tables of the log let nobody change, remove or truncate what they hold, their owner included."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction

from compliance import log
from compliance.models import Checkpoint, Cosignature, Event, EventKey, Leaf, Pending, Tile, Witnessed
from fdrouter import crypto, evidence
from tests.compliance.log.writing import event, write

UPDATES = {
    "compliance_event": "kind = 'x'",
    "compliance_eventkey": "key = '\\x00'",
    "compliance_pending": "seq = seq + 1",
    "compliance_leaf": "hash = '\\x00'",
    "compliance_tile": "hashes = hashes",
    "compliance_checkpoint": "note = ''",
    "compliance_cosignature": "lines = ''",
    "compliance_witnessed": "size = 0",
}


@pytest.fixture
def filled(db: None) -> None:
    """A row in every table."""
    with transaction.atomic():
        evidence.record(event(private={"patient": "p1"}))
    log.sequence()
    with connection.cursor() as cursor:
        cursor.execute("SELECT log_checkpoint(1, %s, 'note')", [b"r" * 32])
        cursor.execute("SELECT log_cosign(1, 'northfield', 'lines')")
        cursor.execute("SELECT log_witness('coordinator', 5, %s, 'note')", [b"r" * 32])
    write(1)
    for model in (Event, EventKey, Pending, Leaf, Tile, Checkpoint, Cosignature, Witnessed):
        assert model._default_manager.exists(), model


def refused(statement: str, *parameters: Any, match: str = "append-only") -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        with pytest.raises(DatabaseError, match=match), transaction.atomic():
            cursor.execute(statement, parameters)


@pytest.mark.parametrize("role", ["origin", "replica"])
@pytest.mark.parametrize("table", UPDATES)
def test_update_delete_and_truncate_are_refused_to_the_owner(table: str, role: str, filled: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET LOCAL session_replication_role = {role}")
    refused(f"UPDATE {table} SET {UPDATES[table]}")
    refused(f"DELETE FROM {table}")
    refused(f"TRUNCATE {table} CASCADE")


def test_every_table_of_the_log_is_guarded_always(db: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT tgrelid::regclass::text, bit_or(tgtype::int), bool_and(tgenabled = 'A') FROM pg_trigger"
            " WHERE NOT tgisinternal AND tgrelid::regclass::text = ANY(%s) GROUP BY 1",
            [list(UPDATES)],
        )
        found = {table: (kinds, always) for table, kinds, always in cursor.fetchall()}
    assert set(found) == set(UPDATES)
    for table, (kinds, always) in found.items():
        assert kinds & 8 and kinds & 16 and kinds & 32, f"{table}: delete, update, truncate"
        assert always, table


def test_a_tile_only_grows(filled: None) -> None:
    held = bytes(Tile.objects.get(level=0, index=0).hashes)
    change = "UPDATE compliance_tile SET hashes = %s WHERE level = 0 AND index = 0"
    for wrong in (b"x" * 32, b"x" * 64, held, held + b"x", held[:16], held * 257):
        refused(change, wrong, match="only grows|1 to 256")
    refused("UPDATE compliance_tile SET index = 1, hashes = %s", held + b"y" * 32)
    with connection.cursor() as cursor:
        cursor.execute(change, [held + b"y" * 32])
        assert cursor.rowcount == 1


def test_only_waiting_events_get_a_place_and_only_the_next_one(filled: None) -> None:
    waiting, placed = Pending.objects.get().pk, Leaf.objects.get().event
    extend = "SELECT log_extend(%s, %s, %s, '{}', '{}', '{}')"
    refused(extend, 0, [waiting], [b"h" * 32], match="does not have 0 entries")
    refused(extend, 2, [waiting], [b"h" * 32], match="does not have 2 entries")
    refused(extend, 1, [waiting, waiting + 99], [b"h" * 32, b"h" * 32], match="does not wait")
    refused(extend, 1, [placed], [b"h" * 32], match="leaf_event_key|unique")
    refused(extend, 1, [waiting], [b"h"], match="32 bytes")
    refused(extend, 1, [waiting], [], match="32 bytes")


def test_checkpoints_only_grow_and_end_where_the_log_does(filled: None) -> None:
    make = "SELECT log_checkpoint(%s, %s, 'note')"
    log.sequence()
    for size in (0, 1, 3):
        refused(make, size, b"r" * 32, match="more entries than the last")
    refused(make, 2, b"r", match="more entries")
    with connection.cursor() as cursor:
        cursor.execute(make, [2, b"r" * 32])


def test_a_witness_remembers(filled: None) -> None:
    see = "SELECT log_witness('coordinator', %s, %s, 'note')"
    refused(see, 4, b"r" * 32, match="seen with more")
    refused(see, 5, b"s" * 32, match="seen with more entries, or with others")
    with connection.cursor() as cursor:
        cursor.execute(see, [5, b"r" * 32])
        cursor.execute(see, [6, b"t" * 32])
    assert list(Witnessed.objects.order_by("size").values_list("size", flat=True)) == [5, 6]


def test_a_private_part_is_sealed_and_goes_with_its_key(db: None) -> None:
    secret = {"patient": "Maria Gonzalez", "reason": "asked"}
    with transaction.atomic():
        evidence.record(event(1, private=secret), event(2), event(3, private=secret))
    first, plain, other = Event.objects.order_by("seq")
    assert [row.details["nth"] for row in (first, plain, other)] == [1, 2, 3]
    assert plain.sealed is None and plain.commitment is None
    commitments = {bytes(row.commitment or b"") for row in (first, other)}
    assert len(commitments) == 2 and all(len(value) == 32 for value in commitments)
    assert first.sealed is not None and b"Gonzalez" not in bytes(first.sealed)
    found = log.entries.private_part(first)
    assert found is not None and re.search(b"Maria Gonzalez", found[1])
    log.sequence()
    before = bytes(Leaf.objects.get(event=first.pk).hash)

    assert log.erase([first.pk, plain.pk], reason="Art. 17") == [first.pk]
    assert log.erase([first.pk], reason="again") == []
    assert log.entries.private_part(first) is None and log.entries.private_part(other) is not None
    erasure = Event.objects.latest("seq")
    assert (erasure.kind, erasure.details) == ("log.erase", {"events": [first.pk], "reason": "Art. 17"})
    assert bytes(Leaf.objects.get(event=first.pk).hash) == before
    refused("UPDATE compliance_eventkey SET key = '\\x00', destroyed_at = NULL", match="destroyed, once")


def test_a_private_part_of_another_row_is_noticed(db: None) -> None:
    with transaction.atomic():
        evidence.record(event(1, private={"a": 1}), event(2, private={"a": 2}))
    first, other = Event.objects.order_by("seq")
    first.sealed = other.sealed
    with pytest.raises(crypto.Unreadable):
        log.entries.private_part(first)
