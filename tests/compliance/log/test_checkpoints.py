"""What is signed, when, and that nothing is signed over a log that is not what was signed before."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from compliance import log
from compliance.log import checkpoints
from compliance.merkle import notes
from compliance.models import Checkpoint
from fdrouter import evidence
from federation.identity import Identity
from tests.compliance.log.writing import leaves, reference_root, without_guards, write

pytestmark = pytest.mark.django_db


def test_a_checkpoint_carries_both_signatures_over_the_reference_root(own: Identity) -> None:
    write(300)
    evidence.tend()
    row = Checkpoint.objects.get()
    told = notes.open_checkpoint(row.note, checkpoints.key_of(own.public))
    assert (told.origin, told.size, told.root) == ("coordinator", 300, reference_root(leaves()))
    assert (row.size, bytes(row.root)) == (told.size, told.root)


def test_it_is_due_after_a_minute_or_ten_thousand_entries(own: Identity, monkeypatch: Any) -> None:
    write(1)
    assert log.tend() == 1 and Checkpoint.objects.count() == 1
    write(1)
    assert log.tend() == 1 and Checkpoint.objects.count() == 1
    later = timezone.now() + checkpoints.EVERY + timedelta(seconds=1)
    monkeypatch.setattr(timezone, "now", lambda: later)
    assert log.tend() == 0 and Checkpoint.objects.count() == 2
    assert log.tend() == 0 and Checkpoint.objects.count() == 2  # nothing is new
    monkeypatch.undo()
    monkeypatch.setattr(checkpoints, "EVERY_ENTRIES", 5)
    write(4)
    assert log.tend() == 4 and Checkpoint.objects.count() == 2
    write(1)
    assert log.tend() == 1 and Checkpoint.objects.latest("size").size == 7


def test_without_an_identity_nothing_is_signed(settings: Any, tmp_path: Any) -> None:
    settings.IDENTITY_DIR = tmp_path
    write(2)
    assert log.tend() == 2 and log.checkpoint(force=True) is None and not Checkpoint.objects.exists()


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE compliance_tile SET hashes = set_byte(hashes, 40, (get_byte(hashes, 40) + 1) % 256) WHERE level = 0",
        "DELETE FROM compliance_tile",
        "DELETE FROM compliance_leaf WHERE index >= 3",
    ],
)
def test_nothing_is_signed_over_a_damaged_log(edit: str, own: Identity) -> None:
    write(5)
    log.tend()
    without_guards(edit)
    if "leaf" not in edit:
        write(260)
        with_tile = "DELETE" not in edit
        if with_tile:
            log.sequence()
        else:
            with pytest.raises(Exception, match="tile 0 of level 0"):
                log.sequence()
            return
    with pytest.raises(log.LogDamaged):
        log.checkpoint(force=True)
    assert Checkpoint.objects.count() == 1
