"""Gives events their places in the tree: one process at a time, a batch a transaction.

An event of a transaction that commits late gets a later place. Whatever a killed process had not committed waits on.
"""

from __future__ import annotations

from collections.abc import Callable

from django.db import connection, transaction

from compliance.log.entries import COLUMNS, leaf_data
from compliance.merkle import tiles
from compliance.merkle.hashing import leaf_hash

BATCH = 4096
"""Events a transaction: 16 full tiles."""
TRY_LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended('compliance.log', 0))"


def size() -> int:
    """How many events have a place."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT coalesce(max(index) + 1, 0) FROM compliance_leaf")
        return int(cursor.fetchone()[0])


def read_tile(level: int, index: int) -> bytes:
    """The stored hashes of a tile; empty if there is none."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT hashes FROM compliance_tile WHERE level = %s AND index = %s", [level, index])
        row = cursor.fetchone()
    return bytes(row[0]) if row else b""


def sequence(*, batch: int = BATCH, stop: Callable[[], bool] = lambda: False) -> int:
    """Gives every waiting event its place, until none waits or ``stop`` says so; returns how many got one.

    Does nothing while another process sequences.
    """
    total = 0
    while added := _extend(batch):
        total += added
        if added < batch or stop():
            break
    return total


def _extend(limit: int) -> int:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(TRY_LOCK)
        if not cursor.fetchone()[0]:
            return 0
        cursor.execute("SELECT seq FROM compliance_pending ORDER BY seq LIMIT %s", [limit])
        waiting = [seq for (seq,) in cursor.fetchall()]
        if not waiting:
            return 0
        # By an array, not by a join: the planner knows nothing of a table whose rows come and go.
        cursor.execute(f"SELECT {COLUMNS} FROM compliance_event WHERE seq = ANY(%s) ORDER BY seq", [waiting])  # noqa: S608
        rows = cursor.fetchall()
        before = size()
        hashes = [leaf_hash(leaf_data(*row)) for row in rows]
        grown = tiles.grow(before, hashes, read_tile)
        cursor.execute(
            "SELECT log_extend(%s, %s, %s, %s, %s, %s)",
            [
                before,
                [row[0] for row in rows],
                hashes,
                [level for level, _ in grown],
                [index for _, index in grown],
                list(grown.values()),
            ],
        )
    return len(rows)
