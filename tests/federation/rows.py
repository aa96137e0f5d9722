"""Nodes and sealed requests as they lie in the database, for the tests of pages and selectors."""

from __future__ import annotations

import hashlib
import json
import uuid
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from accounts import principals
from accounts.models import Hospital, Membership, User
from fdrouter import crypto
from federation.models import Inference, Kind, Node
from privacy import ledger, quotas

RECEIPT: dict[str, Any] = {
    "body": {"version": 1, "node": "northfield", "mechanism": {"name": "token_decoding", "adjacency": "swap"}},
    "digest": "ab" * 32,
    "signatures": {"ed25519": "c2lnbmVk"},
}


def node(at: Hospital, *, seen: timedelta = timedelta(seconds=1), **values: Any) -> Node:
    block = {"epsilon": 10.0, "delta": 1e-5, "epsilon_left": 6.5, "epsilon_spent": 4.5, "plain_sum": 4.8}
    block |= {"used": 10**10, "cap": 4 * 10**10, "alpha": 3.4}
    status = {"healthy": True, "engine": "ok", "patients_band": "400-500", "running": 0, "block": block}
    defaults: dict[str, Any] = {
        "name": at.name,
        "url": "https://127.0.0.1:8443",
        "served_models": ["smollm2-135m-instruct"],
        "last_seen_at": timezone.now() - seen,
        "status": status,
    }
    return Node.objects.create(id=at.pk, hospital=at, **{**defaults, **values})


def request(
    user: User,
    question: str,
    answer: str | None = "It depends.",
    *,
    kind: Kind = Kind.GENERAL,
    state: str = "done",
    epsilon: float = 0.0,
    created_at: datetime | None = None,
    **values: Any,
) -> Inference:
    """A request with its contents sealed and its quotas charged, as admission and finishing leave it behind."""
    principal = principals.for_user(user.pk)
    row_id, moment, cost = uuid.uuid4(), created_at or timezone.now(), quotas.micro(epsilon)
    charges = quotas.scopes_for(principal).charges(cost)
    ledger.reserve(ledger.Request(id=row_id, owner=quotas.user_key(user.pk), charges=charges))
    if state == "done":
        ledger.settle(row_id)
    elif state == "cancelled":
        ledger.release(row_id)
    payload = json.dumps({"messages": [{"role": "user", "content": question}], "temperature": 0.0}).encode()
    row: dict[str, Any] = {
        "membership": Membership.objects.get(user=user, active=True),
        "department_id": principal.department_id,
        "model": "smollm2-135m-instruct",
        "purpose": "TREAT",
        "channel": "web",
        "stream": True,
        "epsilon_micro": cost,
        "delta": 1e-5 if cost else 0.0,
        "request_digest": hashlib.sha256(payload).digest(),
        "request": crypto.seal("request", row_id.bytes, payload),
        "answer": crypto.seal("answer", row_id.bytes, answer.encode()) if answer is not None else None,
        "lease": moment,
        "reply_to": "test",
        "created_at": moment,
        "finished_at": None if state in ("queued", "dispatched") else moment + timedelta(seconds=4),
    }
    return Inference.objects.create(id=row_id, user=user, kind=kind, state=state, **{**row, **values})
