"""What a witness does with another log's checkpoint: it cosigns what continues all that it has cosigned, and remembers.

A checkpoint that is smaller than the last one, has another root at the same size, or does not continue it, is refused,
and that it was offered is evidence: the log has shown two histories.
"""

from __future__ import annotations

import base64
import time
from typing import Any

from django.conf import settings
from django.db import connection, transaction

from compliance.log import checkpoints
from compliance.log.entries import append
from compliance.merkle import notes, proofs
from compliance.merkle.hashing import EMPTY_ROOT
from compliance.models import Witnessed
from fdrouter import evidence
from fdrouter.errors import InvalidParameter
from federation import identity
from federation.identity import PublicIdentity

MAX_PROOF = 64


def witness(document: dict[str, Any], *, origin: PublicIdentity | None = None) -> dict[str, Any]:
    """Answers ``{"note", "first", "proof"}``: a checkpoint, and its proof of consistency with ``first`` entries.

    ``{"lines"}``: the cosignature. ``{"seen"}``: the proof does not begin at the size that was seen last; ask again
    from there. ``{"refused"}``: ``smaller``, ``fork`` or ``inconsistent``. ``origin`` is by default the coordinator
    that this node obeys.

    Raises:
        InvalidParameter: malformed, or not signed by that log.
    """
    origin = origin or identity.load_coordinator(settings.IDENTITY_DIR)
    own = checkpoints.own_identity()
    if own is None:
        raise InvalidParameter("This process has no identity to cosign with.", field="note")
    try:
        note, first = document["note"], document["first"]
        proof = [base64.b64decode(value, validate=True) for value in document["proof"]]
        told = notes.open_checkpoint(note, checkpoints.key_of(origin))
        if type(first) is not int or len(proof) > MAX_PROOF:
            raise ValueError("not a proof")
    except (notes.NoteInvalid, KeyError, TypeError, ValueError):
        raise InvalidParameter("This is not a checkpoint of the log with its proof.", field="note") from None
    with transaction.atomic(), connection.cursor() as cursor:
        # Before anything is read: two messages at once must not both continue the same last checkpoint.
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('compliance.witness ' || %s, 0))", [told.origin])
        last = Witnessed.objects.filter(origin=told.origin).order_by("-size").first()
        size, root = (last.size, bytes(last.root)) if last else (0, EMPTY_ROOT)
        refusal = _refusal(told, size, root, first, proof)
        if refusal is not None:
            if "refused" in refusal:
                _record(told, size, root, refusal["refused"])
            return refusal
        cursor.execute("SELECT log_witness(%s, %s, %s, %s)", [told.origin, told.size, told.root, note])
    plain = notes.cosign(note, checkpoints.signer_of(own), int(time.time()))
    return {"lines": "".join(_own_lines(plain, own.name))}


def _refusal(told: notes.Checkpoint, size: int, root: bytes, first: int, proof: list[bytes]) -> dict[str, Any] | None:
    if told.size < size:
        return {"refused": "smaller"}
    if told.size == size and told.root != root:
        return {"refused": "fork"}
    if told.size == size:
        return None
    if first != size:
        return {"seen": size}
    if not proofs.verify_consistency(size, told.size, proof, root, told.root):
        return {"refused": "inconsistent"}
    return None


def _record(told: notes.Checkpoint, size: int, root: bytes, why: str) -> None:
    details = {"origin": told.origin, "size": told.size, "root": told.root.hex()}
    details |= {"seen": size, "seen_root": root.hex()}
    append([evidence.Event(kind="witness.refuse", outcome=why, hospital=settings.HOSPITAL_ID or None, details=details)])


def _own_lines(note: str, name: str) -> list[str]:
    """The two lines that :func:`notes.cosign` adds last."""
    lines = note.splitlines(keepends=True)[-2:]
    if not all(line.startswith(f"\N{EM DASH} {name} ") for line in lines):
        raise ValueError("a cosignature is two lines of its witness")
    return lines
