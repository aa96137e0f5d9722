"""``manage.py log verify`` names the entry that a superuser changed."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from compliance import log
from compliance.log.verify import verify
from compliance.models import Checkpoint, Leaf
from fdrouter import evidence
from federation.identity import Identity
from tests.compliance.log.writing import event, without_guards, write

pytestmark = pytest.mark.django_db
ENTRIES = 600
TAKE = "seq = (SELECT event FROM compliance_leaf WHERE index = 300)"
EDITS = {
    "an event's outcome": (f"UPDATE compliance_event SET outcome = 'denied' WHERE {TAKE}", 300),
    "an event's details": (f"UPDATE compliance_event SET details = '{{\"nth\": 7}}' WHERE {TAKE}", 300),
    "an event's time": (f"UPDATE compliance_event SET at = at + interval '1 microsecond' WHERE {TAKE}", 300),
    "an event's commitment": (f"UPDATE compliance_event SET sealed = 'x', commitment = 'x' WHERE {TAKE}", 300),
    "an event removed": (f"DELETE FROM compliance_event WHERE {TAKE}", 300),
    "a leaf removed": ("DELETE FROM compliance_leaf WHERE index = 300", 300),
    "the tail removed": ("DELETE FROM compliance_leaf WHERE index >= 590", 590),
    "a leaf's hash": ("UPDATE compliance_leaf SET hash = sha256('x') WHERE index = 300", 300),
    "two entries swapped": (
        "UPDATE compliance_leaf SET event = -event WHERE index IN (300, 301);"
        " UPDATE compliance_leaf SET event = (SELECT -event FROM compliance_leaf WHERE index = 301) WHERE index = 300;"
        " UPDATE compliance_leaf SET event = (SELECT seq FROM compliance_event e WHERE NOT EXISTS"
        " (SELECT FROM compliance_leaf l WHERE l.event = e.seq)) WHERE index = 301",
        300,
    ),
    "a tile": ("UPDATE compliance_tile SET hashes = set_byte(hashes, 44 * 32, 0) WHERE level = 0 AND index = 1", 300),
    "an upper tile": ("UPDATE compliance_tile SET hashes = set_byte(hashes, 40, 0) WHERE level = 1", 256),
    "a tile removed": ("DELETE FROM compliance_tile WHERE level = 0 AND index = 1", 256),
}


@pytest.fixture
def whole(own: Identity) -> None:
    """A log of 600 entries under three checkpoints."""
    for count in (200, 200, 200):
        write(count)
        log.sequence()
        log.checkpoint(force=True)
    assert Checkpoint.objects.count() == 3


def test_an_untouched_log_is_good(whole: None) -> None:
    write(3)
    out = StringIO()
    call_command("log", "verify", stdout=out)
    assert "600 entries recomputed, 3 events wait" in out.getvalue()
    assert "3 checkpoints, 3 with both signatures" in out.getvalue()


@pytest.mark.parametrize("name", EDITS)
def test_the_entry_is_named(name: str, whole: None) -> None:
    statements, entry = EDITS[name]
    without_guards(*statements.split(";"))
    first = verify().first
    assert first is not None and first.entry == entry, first
    assert str(entry) in first.text
    with pytest.raises(CommandError, match=str(entry)):
        call_command("log", "verify", stdout=StringIO(), stderr=StringIO())


def test_an_event_that_was_put_in_beside_the_log_is_named(whole: None) -> None:
    without_guards(
        "INSERT INTO compliance_event (seq, at, kind, outcome, details) VALUES (-5, now(), 'request.x', 'ok', '{}')"
    )
    first = verify().first
    assert first is not None and first.event == -5 and "never put into the log" in first.text


def test_a_waiting_event_that_was_removed_is_named(whole: None) -> None:
    write(1)
    without_guards("DELETE FROM compliance_event WHERE seq = (SELECT seq FROM compliance_pending)")
    first = verify().first
    assert first is not None and "waited for its place and is missing" in first.text


def test_a_history_written_anew_is_found_by_the_signed_roots(whole: None) -> None:
    """Event, leaf and tiles fit each other again: the entry is between the last good checkpoint and the first bad."""
    from compliance.log import sequencing
    from compliance.merkle import tiles
    from compliance.merkle.hashing import leaf_hash
    from compliance.models import Event
    from tests.compliance.log.writing import data_of

    changed = Leaf.objects.get(index=300).event
    without_guards(f"UPDATE compliance_event SET outcome = 'denied' WHERE seq = {changed}")
    value = leaf_hash(data_of(Event.objects.get(pk=changed)))
    without_guards(f"UPDATE compliance_leaf SET hash = '\\x{value.hex()}' WHERE index = 300")
    hashes = [bytes(row.hash) for row in Leaf.objects.order_by("index")]
    for (level, index), held in tiles.grow(0, hashes, sequencing.read_tile).items():
        without_guards(
            f"UPDATE compliance_tile SET hashes = '\\x{held.hex()}' WHERE level = {level} AND index = {index}"
        )
    result = verify()
    assert [found.text for found in result.findings] == [
        "The checkpoint of 400 entries has another root than its entries; the first wrong entry is between 200 and 399."
    ]


@pytest.mark.parametrize("edit", ["root = sha256('x')", "note = replace(note, E'\\n400\\n', E'\\n401\\n')"])
def test_a_changed_checkpoint_is_named(edit: str, whole: None) -> None:
    without_guards(f"UPDATE compliance_checkpoint SET {edit} WHERE size = 400")
    result = verify()
    assert result.findings and all("checkpoint of 400 entries" in found.text for found in result.findings)


def test_a_checkpoint_of_somebody_else_is_named(whole: None, settings: Any, tmp_path: Any) -> None:
    from federation import identity

    identity.issue(tmp_path / "ca", tmp_path / "other", "coordinator", server=False)
    settings.IDENTITY_DIR = tmp_path / "other"
    texts = [found.text for found in verify().findings]
    assert len(texts) == 3 and all("not signed by this process" in text for text in texts)


def test_without_an_identity_it_says_so(settings: Any, tmp_path: Any) -> None:
    settings.IDENTITY_DIR = tmp_path
    write(2)
    log.tend()
    out = StringIO()
    call_command("log", "verify", stdout=out)
    assert "no identity folder" in out.getvalue()


def test_a_private_part_that_was_exchanged_is_named(own: Identity) -> None:
    evidence.record(event(1, private={"a": 1}), event(2, private={"a": 2}), event(3, private={"a": 3}))
    log.tend()
    assert log.erase([Leaf.objects.get(index=2).event], reason="Art. 17")
    log.tend()
    result = verify()
    assert not result.findings and result.erased == 1
    seq = Leaf.objects.get(index=0).event
    without_guards(
        "UPDATE compliance_event SET sealed = (SELECT sealed FROM compliance_event e JOIN compliance_leaf l"
        f" ON l.event = e.seq WHERE l.index = 1) WHERE seq = {seq}"
    )
    first = verify().first
    assert first is not None and first.event == seq and "private part" in first.text
