"""What an ended request tells its asker: the answer, what it may claim, what it cost and what is left."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.db import connection

from fdrouter import crypto
from federation.models import MECHANISMS, Inference, Kind
from privacy import quotas

UNIT = "patient"


def claim(kind: str, receipt: dict[str, Any] | None, epsilon_micro: int, delta: float) -> dict[str, Any]:
    """The ``privacy`` object without its ``remaining`` figures. Only a receipt names a mechanism."""
    body = (receipt or {}).get("body", {})
    mechanism = body.get("mechanism") or {}
    private = kind in MECHANISMS
    repeated = mechanism.get("repeat_of")
    return {
        "kind": kind,
        "epsilon": 0.0 if repeated else epsilon_micro / quotas.MICRO,
        "delta": 0.0 if repeated else delta,
        "repeat_of": repeated,
        "released_at": mechanism.get("released_at"),
        "unit": UNIT if private else None,
        "adjacency": mechanism.get("adjacency") if private else None,
        "mechanism": mechanism.get("name") if private else None,
        "hospitals": body.get("hospitals"),
        "receipt": receipt,
    }


def chosen_of(kind: str, request_id: UUID, request: bytes | memoryview | None) -> dict[str, str] | None:
    """``{"kind", "why"}`` where the asker had left the kind open; ``None`` where it was named or cannot be read."""
    if request is None or kind not in (*MECHANISMS, Kind.COHORT_RELEASED):
        return None
    try:
        why = json.loads(crypto.unseal("request", request_id.bytes, bytes(request))).get("chosen")
    except crypto.Unreadable:
        return None
    return {"kind": kind, "why": why} if why else None


def block_left(receipt: dict[str, Any] | None) -> float | None:
    """Epsilon left in the hospital's block after the request, from the node's receipt."""
    block = (receipt or {}).get("body", {}).get("block")
    return block["epsilon_left"] if block else None


def remaining_query(keys: Iterable[str]) -> tuple[str, list[Any]]:
    """SQL for (key, whole micro-epsilon left) of epsilon quotas, as if a day that is over had been reset."""
    return (
        "SELECT key, CASE WHEN resets AND period < (now() AT TIME ZONE time_zone)::date THEN cap"
        " ELSE cap + extra - used END FROM privacy_scope WHERE unit = 'micro_epsilon' AND key = ANY(%s)",
        [list(keys)],
    )


def remaining_of(row: Inference) -> dict[str, float | None]:
    """What the asker and their department have left now, and the block after the request."""
    user, department = quotas.user_key(row.user_id), quotas.department_key(row.department_id or 0)
    with connection.cursor() as cursor:
        cursor.execute(*remaining_query([user, department]))
        left: dict[str, int] = dict(cursor.fetchall())
    return {
        "user": left.get(user, 0) / quotas.MICRO,
        "department": left.get(department, 0) / quotas.MICRO,
        "block": block_left(row.receipt),
    }


def answer_of(row: Inference) -> str:
    """The stored answer in clear."""
    return crypto.unseal("answer", row.pk.bytes, bytes(row.answer)).decode() if row.answer is not None else ""


def result_of(row: Inference) -> dict[str, Any]:
    """The dictionary of a DONE frame."""
    privacy = claim(row.kind, row.receipt, row.epsilon_micro, row.delta)
    privacy["chosen"] = chosen_of(row.kind, row.pk, row.request)
    privacy["remaining"] = remaining_of(row)
    return {
        "id": str(row.pk),
        "model": row.model,
        "created": int(row.created_at.timestamp()),
        "answer": answer_of(row),
        "finish_reason": row.finish_reason or "stop",
        "usage": [row.prompt_tokens, row.completion_tokens],
        "node": {"id": row.node.pk, "name": row.node.name} if row.node else None,
        "privacy": privacy,
    }
