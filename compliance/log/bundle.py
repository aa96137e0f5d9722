"""The log as a file that anybody can check offline with ``verify_audit.py``, which is in it."""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from django.db import connection, transaction
from django.utils import timezone

from compliance import verify_audit
from compliance.log import checkpoints
from compliance.log.entries import COLUMNS, append, leaf_data, private_part
from compliance.log.sequencing import read_tile, sequence
from compliance.log.witnesses import known
from compliance.merkle import tiles
from compliance.models import Checkpoint, Cosignature, Event
from fdrouter import evidence
from fdrouter.errors import Conflict, InvalidParameter
from federation.identity import PublicIdentity
from privacy.models import Scope, Unit

CHUNK = 2048
HISTORY = 200
"""How many of the latest earlier checkpoints a full export brings along."""
SCOPE = {
    "full": "Every entry of the log up to the checkpoint, with the hashes that were stored for them.",
    "partial": "The entries of the range, each with the proof that it is in the log under the checkpoint.",
}


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export holds: entries [first, last] under the checkpoint of ``size``."""

    kind: str
    first: int
    last: int
    size: int


def export(
    file: Path, *, first: int | None = None, last: int | None = None, private: bool = False, actor_id: int | None = None
) -> Exported:
    """Writes the whole log, or the entries from ``first`` to ``last``, as a bundle. The export is an event itself.

    ``private``: with the private parts that were not erased, and their keys.

    Raises:
        Conflict: this process has no identity, so nothing can be signed. InvalidParameter: no such entries.
    """
    kind = "full" if first is None and last is None else "partial"
    details = {"kind": kind, "first": first, "last": last, "private": private}
    with transaction.atomic():
        append([evidence.Event(kind="log.export", actor_id=actor_id, details=details)])
    sequence()
    checkpoints.checkpoint(force=True)
    own = checkpoints.own_identity()
    if own is None or checkpoints.latest() is None:
        raise Conflict("This process has no identity folder, so it has signed nothing that could be exported.")
    alone = not connection.in_atomic_block
    with transaction.atomic():
        if alone:  # one moment of a log that goes on
            with connection.cursor() as cursor:
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        point = checkpoints.latest()
        assert point is not None  # noqa: S101  (checkpoints are never deleted)
        low, high = first or 0, point.size - 1 if last is None else last
        if not 0 <= low <= high < point.size:
            raise InvalidParameter(f"The log has entries 0 to {point.size - 1}.", field="range")
        made = Exported(kind, low, high, point.size)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as bundle:
            _write(bundle, made, point, own.public, private=private)
    return made


def _write(
    bundle: zipfile.ZipFile, made: Exported, point: Checkpoint, origin: PublicIdentity, *, private: bool
) -> None:
    _json(bundle, "manifest.json", _manifest(made, private=private))
    bundle.writestr("checkpoint.txt", with_cosignatures(point))
    _json(
        bundle,
        "keys.json",
        {"origin": key_document(origin), "witnesses": [key_document(one) for one in known().values()]},
    )
    _json(bundle, "ledger.json", {"scopes": scopes_at(point.size)})
    bundle.write(verify_audit.__file__, "verify_audit.py")
    with bundle.open("log.jsonl", "w", force_zip64=True) as lines:
        _lines(lines, made, private=private)
    if made.kind == "full":
        for level in range(8):
            count = made.size >> 8 * level
            if count:
                with bundle.open(f"tiles/{level}", "w") as member:
                    for index in range(-(-count // tiles.WIDTH)):
                        member.write(read_tile(level, index))
        for row in Checkpoint.objects.filter(size__lt=point.size).order_by("-size")[:HISTORY]:
            bundle.writestr(f"history/{row.size}.txt", row.note)


def _json(bundle: zipfile.ZipFile, name: str, value: Any) -> None:
    bundle.writestr(name, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False))


def _manifest(made: Exported, *, private: bool) -> dict[str, Any]:
    told = "Private parts that were not erased are included, with their keys." if private else "Without private parts."
    return {
        "kind": made.kind,
        "range": [made.first, made.last],
        "size": made.size,
        "made_at": timezone.now().astimezone(UTC).isoformat(timespec="seconds"),
        "scope": f"{SCOPE[made.kind]} {told}",
    }


def with_cosignatures(point: Checkpoint) -> str:
    """The checkpoint's note with the lines of every witness that cosigned it."""
    rows = Cosignature.objects.filter(checkpoint=point).order_by("witness")
    return point.note + "".join(rows.values_list("lines", flat=True))


def key_document(public: PublicIdentity) -> dict[str, str]:
    """The keys of a log or a witness as ``keys.json`` holds them."""
    raw = {"ed25519": public.ed25519.public_bytes_raw(), "mldsa65": public.mldsa65.public_bytes_raw()}
    texts = {name: base64.b64encode(key).decode() for name, key in raw.items()}
    return {"name": public.name, "key_id": public.key_id, **texts}


def _lines(file: IO[bytes], made: Exported, *, private: bool) -> None:
    for low in range(made.first, made.last + 1, CHUNK):
        high = min(low + CHUNK - 1, made.last)
        parts = _private(low, high) if private else {}
        for index, data, has_private, erased in _entries(low, high):
            line: dict[str, Any] = {"index": index, "leaf": data.decode()}
            if made.kind == "partial":
                proof = tiles.inclusion(index, made.size, read_tile)
                line["proof"] = [base64.b64encode(value).decode() for value in proof]
            if index in parts:
                key, payload = parts[index]
                line |= {"private": payload.decode(), "key": base64.b64encode(key).decode()}
            elif has_private and erased:
                line["erased"] = True
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def _entries(low: int, high: int) -> Iterator[tuple[int, bytes, bool, bool]]:
    columns = ", ".join(f"e.{name}" for name in COLUMNS.split(", "))
    with connection.cursor() as cursor:
        cursor.execute(
            f"SELECT l.index, e.sealed IS NOT NULL, k.destroyed_at IS NOT NULL, {columns}"  # noqa: S608  (names of columns)
            " FROM compliance_leaf l JOIN compliance_event e ON e.seq = l.event"
            " LEFT JOIN compliance_eventkey k ON k.event = e.seq"
            " WHERE l.index BETWEEN %s AND %s ORDER BY l.index",
            [low, high],
        )
        for index, has_private, erased, *row in cursor.fetchall():
            yield index, leaf_data(*row), has_private, erased


def _private(low: int, high: int) -> dict[int, tuple[bytes, bytes]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT l.event, l.index FROM compliance_leaf l JOIN compliance_eventkey k ON k.event = l.event"
            " WHERE l.index BETWEEN %s AND %s AND k.key IS NOT NULL",
            [low, high],
        )
        places = dict(cursor.fetchall())
    found = {}
    for event in Event.objects.filter(pk__in=places):
        part = private_part(event)
        if part is not None:
            found[places[event.pk]] = part
    return found


def scopes_at(size: int) -> list[dict[str, Any]]:
    """Every budget as it was when the checkpoint's last entry was written: later movements are taken off again."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT m ->> 'key', m ->> 'unit', sum((m ->> 'amount')::bigint)::bigint"
            " FROM compliance_event e LEFT JOIN compliance_leaf l ON l.event = e.seq,"
            " LATERAL jsonb_array_elements(e.details -> 'ledger') m"
            " WHERE e.kind = 'ledger.entries' AND (l.index >= %s OR l.index IS NULL) GROUP BY 1, 2",
            [size],
        )
        later = {(key, unit): amount for key, unit, amount in cursor.fetchall()}
    return [
        {
            "key": scope.key,
            "unit": scope.unit,
            "cap": scope.cap,
            "alpha": scope.alpha,
            "used": scope.used - later.get((scope.key, scope.unit), 0),
            "epsilon": scope.epsilon,
            "delta": scope.delta,
        }
        for scope in Scope.objects.exclude(unit=Unit.REQUESTS).order_by("key", "unit")
    ]


def default_name() -> str:
    """A name for the file, by the second."""
    return f"evidence-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.zip"
