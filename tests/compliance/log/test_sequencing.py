"""Places without gaps: across batches, racing writers, transactions that commit late, and killed processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest
from django.conf import settings
from django.db import connection, transaction

from compliance import log
from compliance.log import sequencing
from compliance.merkle import proofs, tiles
from compliance.merkle.hashing import leaf_hash
from compliance.models import Event, Leaf, Pending
from fdrouter import evidence
from tests.compliance.log.writing import event, leaves, reference_root, write

ROOT = Path(__file__).resolve().parents[3]
# Sequences batches of three and stops for ever in the middle of the second one's transaction.
STUCK = """
import time, django
django.setup()
from compliance.log import sequencing
grow, calls = sequencing.tiles.grow, []
def stuck(*arguments):
    calls.append(1)
    if len(calls) == 2:
        print("inside", flush=True)
        time.sleep(600)
    return grow(*arguments)
sequencing.tiles.grow = stuck
sequencing.sequence(batch=3)
"""


@pytest.mark.django_db
@pytest.mark.parametrize("batch", [1, 7, 300])
def test_the_tree_is_rfc_6962s_over_the_rows_whatever_the_batches(batch: int) -> None:
    write(300)
    assert log.sequence(batch=batch) == 300
    found = leaves()
    assert len(found) == 300 and not Pending.objects.exists()
    assert tiles.root(300, sequencing.read_tile) == reference_root(found)
    proof = tiles.inclusion(123, 300, sequencing.read_tile)
    assert proofs.verify_inclusion(123, 300, leaf_hash(found[123]), proof, reference_root(found))


@pytest.mark.django_db
def test_what_comes_later_follows_and_nothing_is_taken_twice() -> None:
    write(5)
    assert log.sequence() == 5 and log.sequence() == 0
    first = reference_root(leaves())
    write(290)
    assert log.sequence() == 290
    found = leaves()
    assert [row.details["nth"] for row in Event.objects.order_by("seq")] == [*range(5), *range(290)]
    proof = tiles.consistency(5, 295, sequencing.read_tile)
    assert proofs.verify_consistency(5, 295, proof, first, reference_root(found))


@pytest.mark.django_db(transaction=True)
def test_an_event_that_commits_late_comes_later_and_is_not_lost() -> None:
    # The long transaction takes its number first, and others with higher numbers are sequenced meanwhile.
    with psycopg.connect(settings.DATABASE_URL) as slow:
        row = slow.execute(
            """SELECT log_append('[{"kind": "slow", "outcome": "ok", "details": {}}]'::jsonb)"""
        ).fetchone()
        assert row is not None
        write(3)
        assert log.sequence() == 3
        assert row[0] < Event.objects.earliest("seq").pk and not Leaf.objects.filter(event=row[0]).exists()
        slow.commit()
    assert log.sequence() == 1
    assert Leaf.objects.get(event=row[0]).index == 3
    assert len(leaves()) == 4


@pytest.mark.django_db(transaction=True)
def test_writers_and_sequencers_race_without_gap_or_loss() -> None:
    writers, each, over = 4, 60, threading.Event()

    def append() -> None:
        try:
            for nth in range(each):
                with transaction.atomic():
                    evidence.record(event(nth), event(nth))
        finally:
            connection.close()

    def follow() -> None:
        try:
            while not over.is_set():
                log.sequence(batch=16)
        finally:
            connection.close()

    writing = [threading.Thread(target=append) for _ in range(writers)]
    following = [threading.Thread(target=follow) for _ in range(2)]
    for thread in (*writing, *following):
        thread.start()
    for thread in writing:
        thread.join(timeout=60)
    over.set()
    for thread in following:
        thread.join(timeout=60)
    log.sequence()
    found = leaves()
    assert len(found) == 2 * writers * each == Event.objects.count()
    assert tiles.root(len(found), sequencing.read_tile) == reference_root(found)


@pytest.mark.django_db(transaction=True)
def test_a_killed_process_leaves_whole_batches_and_the_next_goes_on() -> None:
    write(10)
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "fdrouter.settings"}
    stuck = subprocess.Popen(
        [sys.executable, "-c", STUCK], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert stuck.stdout is not None and stuck.stdout.readline() == "inside\n"
        assert log.sequence() == 0  # the other one holds the lock
        stuck.send_signal(signal.SIGKILL)
        stuck.wait(timeout=10)
    finally:
        stuck.kill()
        stuck.communicate(timeout=10)
    assert len(leaves()) == 3
    for _ in range(100):  # until the server has noticed
        if log.sequence():
            break
    found = leaves()
    assert len(found) == 10 and tiles.root(10, sequencing.read_tile) == reference_root(found)
