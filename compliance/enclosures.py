"""What a report carries along so that its figures can be checked offline: checkpoint, proofs, and the verifier itself.

The proofs are a partial export of the log (``docs/audit-export.md``) that ``verify_audit.py`` checks: the entries of
the period that moved the departments' quotas, each with its inclusion proof. The same rows give the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.db import connection

from accounts.principals import Principal
from compliance import access, verify_audit
from compliance.log import bundle, checkpoints, witnesses
from compliance.log.entries import COLUMNS, leaf_data
from compliance.log.sequencing import read_tile
from compliance.merkle import notes, tiles
from compliance.models import Checkpoint
from compliance.period import Period
from privacy.models import EntryKind, Scope, ScopeKind, Unit

MOST_ENTRIES = 2000
"""Entries that a report proves: the latest ones of the period, about a kilobyte each."""
LEDGER = "ledger.entries"
_LONG_AGO = (1980, 1, 1, 0, 0, 0)
NAMES = {
    "checkpoint.txt": "The log's size and root, as the platform and its witnesses signed them",
    "evidence.zip": "Entries of the log that the report counts as spent, with their inclusion proofs",
    "verify_audit.py": "Checks evidence.zip offline: python3 verify_audit.py evidence.zip",
}


@dataclass(frozen=True, slots=True)
class Enclosed:
    """``facts`` is what the report says of the log, ``files`` what it carries, by name."""

    facts: dict[str, Any]
    files: dict[str, bytes]

    @property
    def listed(self) -> list[dict[str, Any]]:
        """Each file with its digest, for the facts: the document's files are the ones that its facts name."""
        return [
            {
                "name": name,
                "description": NAMES[name],
                "bytes": len(data),
                "sha256": hashlib.sha256(data).hexdigest(),
            }
            for name, data in sorted(self.files.items())
        ]


def encoded(files: dict[str, bytes]) -> dict[str, str]:
    """Files as a JSON column keeps them."""
    return {name: base64.b64encode(data).decode() for name, data in files.items()}


def decoded(files: dict[str, str] | None) -> dict[str, bytes]:
    """The files of :func:`encoded`."""
    return {name: base64.b64decode(data) for name, data in (files or {}).items()}


def collect(principal: Principal, covered: Period, hospital: str = "") -> Enclosed:
    """The latest checkpoint and the period's proofs under it; without a checkpoint, nothing but that statement."""
    own, point = checkpoints.own_identity(), checkpoints.latest()
    if own is None or point is None:
        return Enclosed({"checkpoint": None}, {})
    note = bundle.with_cosignatures(point)
    known = witnesses.known()
    signed = [name for name, public in known.items() if notes.cosigned_by(note, checkpoints.key_of(public)) is not None]
    within = access.reach(principal, hospital)
    entries, counted, mixed = _entries(point, covered, within)
    facts = {
        "checkpoint": {
            "origin": own.name,
            "size": point.size,
            "root": bytes(point.root).hex(),
            "at": point.at.isoformat(timespec="seconds"),
        },
        "witnesses": {"known": len(known), "cosigned": sorted(signed)},
        "proved": {
            "entries": len(entries),
            "of": counted,
            "mixed": mixed,
            "epsilon": _micro(entries, within),
        },
    }
    files = {"checkpoint.txt": note.encode(), "verify_audit.py": Path(verify_audit.__file__).read_bytes()}
    if entries:
        files["evidence.zip"] = _bundle(point, note, own.public, known.values(), entries)
    return Enclosed(facts, files)


_Entry = tuple[int, bytes]
"""Index in the log, and leaf data."""
_MOVES_OF = """
  EXISTS (SELECT FROM jsonb_array_elements(e.details -> 'ledger') m JOIN privacy_scope s
    ON s.key = m ->> 'key' AND s.unit = m ->> 'unit'
    WHERE m ->> 'why' <> %(reset)s AND s.kind = %(department)s AND s.unit = %(unit)s
      AND (%(hospital)s::text IS NULL OR s.hospital = %(hospital)s))
"""
_OF_OTHERS = """
  EXISTS (SELECT FROM jsonb_array_elements(e.details -> 'ledger') m LEFT JOIN privacy_scope s
    ON s.key = m ->> 'key' AND s.unit = m ->> 'unit'
    WHERE %(hospital)s::text IS NOT NULL AND s.hospital IS DISTINCT FROM %(hospital)s)
"""


def _entries(point: Checkpoint, covered: Period, hospital: str | None) -> tuple[list[_Entry], int, int]:
    """The entries to prove, how many the period has, and how many also move another hospital's budgets.

    Requests are admitted in batches, so that one entry may be of several hospitals. A hospital's report leaves those
    out: they are not for its readers.
    """
    begin, end = covered.bounds
    values: dict[str, Any] = {
        "kind": LEDGER,
        "begin": begin,
        "end": end,
        "size": point.size,
        "department": ScopeKind.DEPARTMENT,
        "reset": EntryKind.RESET,
        "unit": Unit.MICRO_EPSILON,
        "hospital": hospital,
        "most": MOST_ENTRIES,
    }
    columns = ", ".join(f"e.{name}" for name in COLUMNS.split(", "))
    chosen = (
        " FROM compliance_event e JOIN compliance_leaf l ON l.event = e.seq WHERE e.kind = %(kind)s"
        f" AND e.at >= %(begin)s AND e.at < %(end)s AND l.index < %(size)s AND {_MOVES_OF}"
    )
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*), count(*) FILTER (WHERE {_OF_OTHERS}) {chosen}", values)  # noqa: S608
        counted, mixed = cursor.fetchone()
        cursor.execute(
            f"SELECT l.index, {columns} {chosen} AND NOT {_OF_OTHERS} ORDER BY l.index DESC LIMIT %(most)s",  # noqa: S608
            values,
        )
        rows = cursor.fetchall()
    return [(index, leaf_data(*row)) for index, *row in reversed(rows)], counted, mixed


def _moves(entries: Sequence[_Entry]) -> list[dict[str, Any]]:
    return [move for _, leaf in entries for move in json.loads(leaf)["details"]["ledger"]]


def _micro(entries: Sequence[_Entry], hospital: str | None) -> int:
    """What the entries take from departments' quotas in all, in micro-epsilon; refills of a new day aside."""
    scopes = Scope.objects.filter(kind=ScopeKind.DEPARTMENT, unit=Unit.MICRO_EPSILON)
    keys = set((scopes if hospital is None else scopes.filter(hospital=hospital)).values_list("key", flat=True))
    spent = (m for m in _moves(entries) if m["key"] in keys and m["unit"] == Unit.MICRO_EPSILON)
    return sum(m["amount"] for m in spent if m["why"] != EntryKind.RESET)


def _bundle(point: Checkpoint, note: str, own: Any, known: Any, entries: Sequence[_Entry]) -> bytes:
    """The partial export, with fixed times in it."""
    moved = {(move["key"], move["unit"]) for move in _moves(entries)}
    scopes = [scope for scope in bundle.scopes_at(point.size) if (scope["key"], scope["unit"]) in moved]
    manifest = {
        "kind": "partial",
        "size": point.size,
        "made_at": point.at.isoformat(timespec="seconds"),
        "scope": "Entries of the privacy ledger that a report counts, each with the proof that it is in the log.",
    }
    members = {
        "manifest.json": _json(manifest),
        "checkpoint.txt": note.encode(),
        "keys.json": _json(
            {"origin": bundle.key_document(own), "witnesses": [bundle.key_document(one) for one in known]}
        ),
        "ledger.json": _json({"scopes": scopes}),
        "log.jsonl": b"".join(_line(point, *entry) for entry in entries),
    }
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, _LONG_AGO), data, zipfile.ZIP_DEFLATED, 9)
    return out.getvalue()


def _line(point: Checkpoint, index: int, leaf: bytes) -> bytes:
    proof = [base64.b64encode(value).decode() for value in tiles.inclusion(index, point.size, read_tile)]
    return json.dumps({"index": index, "leaf": leaf.decode(), "proof": proof}, ensure_ascii=False).encode() + b"\n"


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).encode()
