"""Entries: what is appended, what of it is private, and the leaf data that the tree hashes."""

from __future__ import annotations

import base64
import hmac
import json
import os
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.core.serializers.json import DjangoJSONEncoder
from django.db import connection, transaction

from compliance.models import Event, EventKey
from fdrouter import crypto, evidence
from federation.sealing import canonical

VERSION = 1
KEY_PURPOSE = "event-key"
_NONCE_BYTES = 12

#: The columns that leaf data is made of, in the order in which :func:`leaf_data` takes them.
COLUMNS = "seq, at, kind, outcome, actor_id, subject, hospital, department, purpose, details, commitment"

# The encoder of federation.sealing.canonical, made once: a log makes thousands of leaves a second.
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def append(events: Iterable[evidence.Event]) -> None:
    """Appends in the current transaction; if that rolls back, neither the action nor its evidence happened."""
    rows = [_row(event) for event in events]
    if rows:
        with connection.cursor() as cursor:
            cursor.execute("SELECT log_append(%s::jsonb)", [json.dumps(rows, cls=DjangoJSONEncoder)])


def _row(event: evidence.Event) -> dict[str, Any]:
    row = {
        "kind": event.kind,
        "outcome": event.outcome,
        "actor_id": event.actor_id,
        "subject": event.subject,
        "hospital": event.hospital,
        "department": event.department,
        "purpose": event.purpose,
        "details": event.details,
    }
    if event.private is not None:
        payload, key = canonical(event.private), os.urandom(32)
        commitment = commit(key, payload)
        parts = {
            "sealed": _seal(key, payload),
            "commitment": commitment,
            "key": crypto.seal(KEY_PURPOSE, commitment, key),
        }
        row |= {name: base64.b64encode(value).decode() for name, value in parts.items()}
    return row


def commit(key: bytes, payload: bytes) -> bytes:
    """The 32 bytes that bind a leaf to a private part, and tell nothing about it without its key: HMAC-SHA-256."""
    return hmac.digest(key, payload, "sha256")


def _cipher(key: bytes) -> AESGCM:
    """Encryption takes a key of its own, derived from the record's: that one is the commitment's."""
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=b"fdrouter/event-private").derive(key))


def _seal(key: bytes, payload: bytes) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + _cipher(key).encrypt(nonce, payload, None)


def private_part(event: Event) -> tuple[bytes, bytes] | None:
    """Record key and canonical private payload of an event; ``None``: it has none, or it was erased.

    Raises:
        crypto.Unreadable: key or contents are damaged, or do not belong to the commitment.
    """
    if event.sealed is None or event.commitment is None:
        return None
    kept = EventKey.objects.filter(pk=event.pk).values_list("key", flat=True).first()
    if kept is None:
        return None
    commitment, sealed = bytes(event.commitment), bytes(event.sealed)
    key = crypto.unseal(KEY_PURPOSE, commitment, kept)
    try:
        payload = _cipher(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)
    except (InvalidTag, ValueError):
        raise crypto.Unreadable("authentication failed") from None
    if not hmac.compare_digest(commit(key, payload), commitment):
        raise crypto.Unreadable("another payload than the one committed to")
    return key, payload


def erase(seqs: Sequence[int], *, reason: str, actor_id: int | None = None) -> list[int]:
    """Destroys the keys of events' private parts and records it. Leaves, and so every proof, stay as they are.

    Returns the events whose private part can be read by nobody from now on; those without one are left out.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT log_erase(%s)", [list(seqs)])
        erased = sorted(seq for (seq,) in cursor.fetchall())
        if erased:
            details = {"events": erased, "reason": reason}
            append([evidence.Event(kind="log.erase", actor_id=actor_id, details=details)])
    return erased


def leaf_data(
    seq: int,
    at: datetime,
    kind: str,
    outcome: str,
    actor_id: int | None,
    subject: UUID | None,
    hospital: str | None,
    department: str | None,
    purpose: str | None,
    details: str | Any,
    commitment: bytes | None,
) -> bytes:
    """What the tree hashes of an event: canonical JSON, version 1. ``details`` may be JSON as the database gives it."""
    data = {
        "at": at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "actor": actor_id,
        "commitment": None if commitment is None else bytes(commitment).hex(),
        "department": department,
        "details": json.loads(details) if isinstance(details, str) else details,
        "hospital": hospital,
        "kind": kind,
        "outcome": outcome,
        "purpose": purpose,
        "seq": seq,
        "subject": None if subject is None else str(subject),
        "v": VERSION,
    }
    return _canonical(data).encode()
