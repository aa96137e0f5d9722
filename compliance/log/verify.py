"""Recomputes the log from its rows and names what is wrong: ``manage.py log verify``.

Rows are read once, in the order of their places. A row that was changed alone has another hash than the one it was put
into the tree with. Where somebody changed row and tree alike, the signed roots disagree, and the entry lies between two
checkpoints.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from django.db import connection

from compliance.log import checkpoints
from compliance.log.entries import COLUMNS, leaf_data, private_part
from compliance.log.levels import Levels
from compliance.log.sequencing import read_tile
from compliance.log.witnesses import known
from compliance.merkle import notes
from compliance.merkle.hashing import EMPTY_ROOT, leaf_hash
from compliance.models import Checkpoint, Cosignature, Event, EventKey
from fdrouter import crypto
from federation.identity import PublicIdentity

CHUNK = 4096
MOST = 100
"""Findings that are told; one tile changed at the wrong place would give thousands."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong. ``entry`` is the place in the tree, ``event`` the row's number; ``None``: not of one entry."""

    text: str
    entry: int | None = None
    event: int | None = None


@dataclass(slots=True)
class Result:
    """What was looked at, and the findings: those of entries first, by place."""

    entries: int = 0
    waiting: int = 0
    checkpoints: int = 0
    signed: int = 0
    cosignatures: int = 0
    erased: int = 0
    can_sign: bool = True
    findings: list[Finding] = field(default_factory=list)

    def wrong(self, text: str, entry: int | None = None, event: int | None = None) -> None:
        if len(self.findings) < MOST:
            self.findings.append(Finding(text, entry, event))

    @property
    def first(self) -> Finding | None:
        """The first entry that is wrong, or what is wrong without being of one entry."""
        order = sorted(self.findings, key=lambda found: (found.entry is None, found.entry or 0, found.event or 0))
        return order[0] if order else None


def verify() -> Result:
    """Checks every entry, tile, checkpoint, signature and private part. Changes nothing; run it in one snapshot."""
    result = Result()
    levels = Levels(list(Checkpoint.objects.order_by("size").values_list("size", flat=True)))
    for row in _leaves():
        _entry(result, levels, *row)
    result.entries = levels.size
    _strays(result)
    _tiles(result, levels)
    _checkpoints(result, levels)
    _private(result)
    return result


def _leaves() -> Iterator[tuple[int, int, bytes, tuple[Any, ...] | None]]:
    """Place, event and stored hash of each leaf, with the event's columns."""
    columns = ", ".join(f"e.{name}" for name in COLUMNS.split(", "))
    after = -1
    while True:
        with connection.cursor() as cursor:
            cursor.execute(
                f"SELECT l.index, l.event, l.hash, {columns} FROM"  # noqa: S608  (names of columns)
                " (SELECT * FROM compliance_leaf WHERE index > %s ORDER BY index LIMIT %s) l"
                " LEFT JOIN compliance_event e ON e.seq = l.event ORDER BY l.index",
                [after, CHUNK],
            )
            rows = cursor.fetchall()
        for index, event, stored, *values in rows:
            yield index, event, bytes(stored), tuple(values) if values[0] is not None else None
        if not rows:
            return
        after = rows[-1][0]


def _entry(
    result: Result, levels: Levels, index: int, event: int, stored: bytes, columns: tuple[Any, ...] | None
) -> None:
    while levels.size < index:
        missing = levels.size
        result.wrong(f"Entry {missing} is missing.", missing)
        tile = read_tile(0, missing // 256)  # what was there, so that the rest can still be compared
        levels.add(tile[missing % 256 * 32 :][:32] or EMPTY_ROOT)
    value = b""
    if columns is None:
        result.wrong(f"Entry {index}: its event {event} is missing.", index, event)
    else:
        try:
            value = leaf_hash(leaf_data(*columns))
        except ValueError:  # what no log could have taken in
            pass
        if value != stored:
            text = f"Entry {index}: event {event} does not have the hash with which it was put into the log."
            result.wrong(text, index, event)
    levels.add(stored)


def _strays(result: Result) -> None:
    """Events that neither have a place nor wait for one, and waiting ones that are not there."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT e.seq FROM compliance_event e"
            " WHERE NOT EXISTS (SELECT FROM compliance_leaf l WHERE l.event = e.seq)"
            " AND NOT EXISTS (SELECT FROM compliance_pending p WHERE p.seq = e.seq) ORDER BY 1 LIMIT %s",
            [MOST],
        )
        for (seq,) in cursor.fetchall():
            result.wrong(f"Event {seq} is in the table, but was never put into the log.", event=seq)
        cursor.execute(
            "SELECT p.seq FROM compliance_pending p"
            " WHERE NOT EXISTS (SELECT FROM compliance_event e WHERE e.seq = p.seq) ORDER BY 1 LIMIT %s",
            [MOST],
        )
        for (seq,) in cursor.fetchall():
            result.wrong(f"Event {seq} waited for its place and is missing.", event=seq)
        cursor.execute("SELECT count(*) FROM compliance_pending")
        result.waiting = cursor.fetchone()[0]


def _tiles(result: Result, levels: Levels) -> None:
    stored = set()
    with connection.cursor() as cursor:
        cursor.execute("SELECT level, index, hashes FROM compliance_tile ORDER BY level, index")
        for level, index, hashes in cursor.fetchall():
            stored.add((level, index))
            for nth, problem in levels.compare(level, index, bytes(hashes)):
                low = (index * 256 + nth) * 256**level
                high = low + 256**level - 1
                where = f"entry {low}" if level == 0 else f"entries {low} to {high}"
                if not any(low <= found.entry <= high for found in result.findings if found.entry is not None):
                    result.wrong(f"Tile {level}/{index} {problem} of {where}.", low)
    for level, index in sorted(levels.expected() - stored):
        low = index * 256 ** (level + 1)
        result.wrong(f"Tile {level}/{index}, of the entries from {low} on, is missing.", low)


def _checkpoints(result: Result, levels: Levels) -> None:
    own = checkpoints.own_identity()
    result.can_sign = own is not None
    witnesses = known()
    good = 0
    bad = False
    for row in Checkpoint.objects.order_by("size").iterator():
        result.checkpoints += 1
        name = f"The checkpoint of {row.size} entries"
        try:
            told = notes.read_checkpoint(row.note)
            if own is not None:
                notes.open_checkpoint(row.note, checkpoints.key_of(own.public))
                result.signed += 1
            if (told.size, told.root) != (row.size, bytes(row.root)):
                result.wrong(f"{name} is not the one that was signed.")
        except notes.NoteInvalid as error:
            result.wrong(f"{name} is not signed by this process: {error}.")
            continue
        if row.size > levels.size:
            result.wrong(f"{name} was signed, but the log has {levels.size}: entries at its end are gone.", levels.size)
        elif levels.roots[row.size] == told.root:
            good = row.size
        elif not bad:  # later ones differ because this one does
            bad = True
            between = f"the first wrong entry is between {good} and {row.size - 1}"
            result.wrong(f"{name} has another root than its entries; {between}.")
        for cosignature in Cosignature.objects.filter(checkpoint=row):
            _cosignature(result, row, cosignature, witnesses)


def _cosignature(
    result: Result, row: Checkpoint, cosignature: Cosignature, witnesses: dict[str, PublicIdentity]
) -> None:
    public = witnesses.get(cosignature.witness)
    if public is None:
        return  # its keys are no longer known here; an export's reader may have them
    if notes.cosigned_by(row.note + cosignature.lines, checkpoints.key_of(public)) is None:
        result.wrong(f"The cosignature of {cosignature.witness} for {row.size} entries is wrong.")
    else:
        result.cosignatures += 1


def _private(result: Result) -> None:
    for event in Event.objects.exclude(sealed=None).order_by("pk").iterator():
        try:
            if private_part(event) is None:
                result.erased += 1
                if not EventKey.objects.filter(pk=event.pk).exists():
                    result.wrong(f"Event {event.pk}: the key of its private part is missing.", event=event.pk)
        except crypto.Unreadable as error:
            result.wrong(f"Event {event.pk}: its private part is not the one committed to ({error}).", event=event.pk)
