"""The coordinator's SQL steps as the request path calls them, on Django's connection: for the tests of admission."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import psycopg
from django.db import connection
from psycopg.types.json import Jsonb

from accounts import policy, principals
from accounts.models import Membership, User
from compliance.models import Event
from federation import admission, asks
from federation.admission import Credential, Prepared
from federation.asks import Ask, PrivacyOptions

MODEL = "smollm2-135m-instruct"
_FINISH = (
    "SELECT inference_finish(%s::uuid[], %s::smallint[], %s::text[], %s::text[], %s::jsonb[], %s::bytea[],"
    " %s::jsonb[], %s::int[], %s::int[], %s::text[], %s::text[], %s::bigint[])"
)


def ask(question: str = "why?", **privacy: Any) -> Ask:
    found = asks.make(
        model=MODEL,
        messages=[{"role": "user", "content": question}],
        privacy=PrivacyOptions(**privacy),
        channel="api",
        stream=True,
    )
    return found if found.purpose else replace(found, purpose="TREAT")


def cohort(epsilon: float = 3.0, **privacy: Any) -> Ask:
    return ask(kind="cohort.text", epsilon=epsilon, contexts=128, max_tokens=8, **privacy)


def token_of(user: User) -> bytes:
    return principals.token_digest(principals.issue_token(Membership.objects.get(user=user, active=True), "test"))


def prepared(user: User, wish: Ask | None = None, *, token: bytes | None = None) -> Prepared:
    """What :func:`federation.admission.prepare` hands to admission, on this connection."""
    wish = wish or ask()
    credential = Credential(user_id=user.pk) if token is None else Credential(token=token)
    actor = admission.load_actor(Credential(user_id=user.pk))
    principal = actor.principal
    decision = policy.decide(
        policy.PolicyRequest(
            principal.role,
            wish.kind.value,
            wish.purpose,
            principal.hospital or "",
            principal.department or "",
            True,
            True,
        )
    )
    payload = msgspec.json.encode({"messages": wish.messages, "temperature": 0.0, "max_tokens": wish.max_tokens})
    return Prepared(uuid.uuid4(), credential, actor, wish, decision, payload, hashlib.sha256(payload).digest())


def run(sql: str, parameters: list[Any], *, binary: bool | None = None) -> list[tuple[Any, ...]]:
    """One statement through psycopg itself, inside Django's transaction."""
    connection.ensure_connection()
    cursor: psycopg.Cursor[Any] = psycopg.Cursor(connection.connection)
    return cursor.execute(sql, parameters, binary=binary).fetchall()


def admit(*items: Prepared) -> list[tuple[int, uuid.UUID | None]]:
    sql, parameters = admission.statement(list(items), "replies")
    return [(row[0], row[1]) for row in run(sql, parameters, binary=True)]


def claim(*ids: uuid.UUID, lease: float = 10.0) -> dict[uuid.UUID, int]:
    """Attempt by id of the rows that this call took."""
    return {row[0]: row[1] for row in run("SELECT * FROM inference_claim(%s::uuid[], %s::real)", [list(ids), lease])}


def route(row: uuid.UUID, attempt: int, node: str) -> None:
    run("SELECT inference_route(%s::uuid[], %s::smallint[], %s::text[], 'greedy')", [[row], [attempt], [node]])


@dataclass
class End:
    """One row's end. ``charged`` False gives everything back."""

    id: uuid.UUID
    attempt: int = 1
    state: str = "done"
    reason: str = ""
    charged: bool = True
    answer: bytes | None = b"sealed"
    receipt: dict[str, Any] | None = None


def finish(*ends: End) -> set[uuid.UUID]:
    """Ids of the rows that this call ended."""
    columns = [
        [e.id for e in ends],
        [e.attempt for e in ends],
        [e.state for e in ends],
        [e.reason for e in ends],
        [Jsonb({}) for _ in ends],
        [e.answer if e.state == "done" else None for e in ends],
        [Jsonb(e.receipt) if e.receipt else None for e in ends],
        [11 for _ in ends],
        [5 for _ in ends],
        ["stop" if e.state == "done" else "" for e in ends],
        ["settled" if e.charged else "released" for e in ends],
        [None if e.charged else 0 for e in ends],
    ]
    return {row[0] for row in run(_FINISH, columns)}


def events(subject: uuid.UUID) -> list[str]:
    """``kind:outcome`` of a request's evidence, in the order in which it was written."""
    rows = Event.objects.filter(subject=subject).order_by("seq").values_list("kind", "outcome")
    return [f"{kind}:{outcome}" for kind, outcome in rows]
