"""Admission: who asks, may they, can they pay. One SQL call for a micro-batch decides, reserves, queues and records."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import msgspec
import psycopg
from django.conf import settings
from django.db import transaction
from psycopg.types.json import Jsonb

from accounts import policy, principals
from accounts.models import CareRelation, Hospital
from accounts.principals import Principal
from fdrouter import crypto
from fdrouter.errors import DomainError, NotFound, PolicyDenied
from fdrouter.evidence import Event, record
from federation import across, offers
from federation.asks import Ask
from federation.database import in_thread
from federation.models import Kind
from federation.offers import Wish
from privacy import ledger, quotas
from privacy.quotas import QuotaScopes

ADMITTED, REPEAT, STALE, NOT_TRIED = 0, -1, -2, -3
_SQL = (
    "SELECT verdict, existing FROM inference_admit(%b::uuid[], %b::bytea[], %b::bigint[], %b::bigint[], %b::text[],"
    " %b::text[], %b::jsonb[], %b, %b::int[], %b::bigint[], %b::bigint[], %b::jsonb, %b::bytea[], %b::bytea[],"
    " %b::text, %b::real)"
)
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Credential:
    """Who asks: a bearer token's digest, or a signed-in user's id."""

    token: bytes | None = None
    user_id: int | None = None


@dataclass(frozen=True, slots=True)
class Actor:
    """A principal with the scopes that pay for them."""

    principal: Principal
    scopes: QuotaScopes


@dataclass(slots=True)
class Prepared:
    """A request with everything that admission needs."""

    id: uuid.UUID
    credential: Credential
    actor: Actor
    ask: Ask
    decision: policy.Decision
    payload: bytes
    digest: bytes

    @property
    def epsilon_micro(self) -> int:
        return quotas.micro(self.ask.plan.epsilon) if self.ask.plan else 0


def load_actor(credential: Credential) -> Actor:
    """Reads the person from the database.

    Raises:
        Unauthenticated: the token or account is not valid.
    """
    if credential.token is not None:
        principal = principals.for_token(credential.token)
    else:
        principal = principals.for_user(credential.user_id or 0)
    return Actor(principal, quotas.scopes_for(principal))


class Actors:
    """The people seen lately. An entry may be outdated: admission compares its version inside the transaction."""

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._found: OrderedDict[Credential, Actor] = OrderedDict()

    async def get(self, credential: Credential, *, fresh: bool = False) -> Actor:
        if not fresh and (actor := self._found.get(credential)) is not None:
            self._found.move_to_end(credential)
            return actor
        self._found.pop(credential, None)
        actor = await in_thread(load_actor)(credential)
        self._found[credential] = actor
        if len(self._found) > self._size:
            self._found.popitem(last=False)
        return actor


def in_care(principal: Principal, patient: str) -> bool:
    """Whether the patient is in the care of the person's department, as far as the coordinator knows."""
    return CareRelation.objects.filter(
        department_id=principal.department_id or 0, patient_reference=patient, ended_at__isnull=True
    ).exists()


async def decide(actor: Actor, ask: Ask) -> policy.Decision:
    """The policy's decision. Chart requests are tied to the person's own hospital."""
    principal = actor.principal
    home = principal.hospital or ""
    care = False
    if ask.kind is Kind.CHART:
        care = await in_thread(in_care)(principal, ask.patient)
    return policy.decide(
        policy.PolicyRequest(
            role=principal.role,
            kind=ask.kind.value,
            purpose=ask.purpose,
            hospital=home,
            department=principal.department or "",
            same_hospital=not ask.hospitals or ask.hospitals == (home,),
            in_care=care,
        )
    )


def record_denial(actor: Actor, ask: Ask, decision: policy.Decision) -> None:
    """Writes the evidence of a refusal by policy."""
    principal = actor.principal
    with transaction.atomic():
        record(
            Event(
                kind="policy.decision",
                outcome="denied",
                actor_id=principal.user_id,
                hospital=principal.hospital,
                department=principal.department,
                purpose=ask.purpose,
                details={
                    "kind": ask.kind.value,
                    "policies": decision.policies,
                    "policy_digest": decision.policy_digest,
                },
            )
        )


def refuse(prepared: Prepared, scope_id: int) -> DomainError:
    """Writes the evidence of a refusal by a quota and returns the error that names it."""
    charges = {c.scope_id: c.amount for c in prepared.actor.scopes.charges(prepared.epsilon_micro)}
    error = ledger.refusal(scope_id, charges.get(scope_id, 0))
    principal = prepared.actor.principal
    with transaction.atomic():
        record(
            Event(
                kind="ledger.reserve",
                outcome=error.code,
                actor_id=principal.user_id,
                hospital=principal.hospital,
                department=principal.department,
                purpose=prepared.ask.purpose,
                details={"scope": scope_id, "kind": prepared.ask.kind.value, "epsilon_micro": prepared.epsilon_micro},
            )
        )
    ask = prepared.ask
    wish = Wish(kind=ask.kind, plan=ask.plan, question=ask.question, options=ask.options, hospitals=ask.hospitals)
    return offers.extend(error, principal, wish)


async def prepare(actors: Actors, credential: Credential, ask: Ask, *, fresh: bool = False) -> Prepared:
    """Decides by policy and lays out the row.

    Raises:
        Unauthenticated, PolicyDenied.
    """
    actor = await actors.get(credential, fresh=fresh)
    if not ask.purpose:
        ask = replace(ask, purpose=policy.usual_purpose(actor.principal.role))
    decision = await decide(actor, ask)
    if not decision.allowed and not fresh:  # a cached post may be outdated: refuse only what the database confirms
        actor = await actors.get(credential, fresh=True)
        decision = await decide(actor, ask)
    if not decision.allowed:
        await in_thread(record_denial)(actor, ask, decision)
        raise PolicyDenied(policies=list(decision.policies), kind=ask.kind.value, purpose=ask.purpose)
    if ask.hospitals and ask.kind is not Kind.GENERAL:
        await in_thread(_check_hospitals)(ask.hospitals)
    if ask.across:
        ask = await in_thread(across.resolve)(ask)
    content: dict[str, Any] = {"messages": ask.messages, "temperature": ask.temperature, "max_tokens": ask.max_tokens}
    if ask.options:
        content["options"] = ask.options
    plan = ask.plan.to_event() if ask.plan else None
    digest = crypto.fingerprint("request", _identity(ask, plan, _encode(content)))
    if ask.chosen:  # after the digest: the same request with its kind named is the same request
        content["chosen"] = ask.chosen.why
    return Prepared(uuid.uuid4(), credential, actor, ask, decision, _encode(content), digest)


def _identity(ask: Ask, plan: dict[str, Any] | None, payload: bytes) -> bytes:
    """What makes a request the same as another one. Of counts and choices no model and no sampling is a part."""
    if ask.kind in (Kind.COHORT_COUNT, Kind.COHORT_CHOICE):
        words = " ".join(ask.question.split())
        return _encode([ask.kind, words, ask.options, ask.hospitals, plan, ask.purpose])
    return _encode([ask.kind, ask.model, ask.hospitals, ask.patient, plan, ask.purpose]) + payload


def _check_hospitals(hospitals: tuple[str, ...]) -> None:
    known = set(Hospital.objects.filter(pk__in=hospitals).values_list("pk", flat=True))
    if missing := [h for h in hospitals if h not in known]:
        raise NotFound("There is no hospital of this id in the network.", field="privacy.hospitals", missing=missing)


def _facts(n: int, item: Prepared) -> dict[str, Any]:
    ask, principal = item.ask, item.actor.principal
    plan = ask.plan
    hospitals = (principal.hospital,) if ask.kind is Kind.CHART else ask.hospitals
    return {
        "n": n,
        "user_id": principal.user_id,
        "department_id": principal.department_id,
        "kind": ask.kind.value,
        "model": ask.model,
        "purpose": ask.purpose,
        "channel": ask.channel,
        "stream": ask.stream,
        "hospitals": list(hospitals),
        "patient_reference": ask.patient,
        "parameters": plan.to_event() if plan else {},
        "epsilon_micro": item.epsilon_micro,
        "delta": plan.delta if plan else 0.0,
        "hospital": principal.hospital,
        "department": principal.department,
        "policies": list(item.decision.policies),
        "policy_digest": item.decision.policy_digest,
        "charges": [[c.scope_id, c.amount] for c in item.actor.scopes.charges(item.epsilon_micro)],
    }


def statement(items: list[Prepared], reply_to: str) -> tuple[str, list[Any]]:
    """The SQL call that admits the batch, and its parameters."""
    requests = [
        ledger.Request(
            id=item.id,
            owner=quotas.user_key(item.actor.principal.user_id),
            idempotency_key=item.ask.idempotency_key,
            charges=item.actor.scopes.charges(item.epsilon_micro),
            event=item.ask.plan.to_event() if item.ask.plan else None,
        )
        for item in items
    ]
    ids, owners, keys, events, nths, scopes, amounts = ledger.columns(requests)
    return _SQL, [
        ids,
        [item.credential.token for item in items],
        [item.actor.principal.membership_id for item in items],
        [item.actor.principal.version for item in items],
        owners,
        keys,
        events,
        timedelta(seconds=settings.RESERVATION_SECONDS),
        nths,
        scopes,
        amounts,
        Jsonb([_facts(n, item) for n, item in enumerate(items, start=1)], dumps=_encode),
        [crypto.seal("request", item.id.bytes, item.payload) for item in items],
        [item.digest for item in items],
        reply_to,
        settings.LEASE_SECONDS,
    ]


async def admit(
    connection: psycopg.AsyncConnection[Any], items: list[Prepared], reply_to: str
) -> list[tuple[int, uuid.UUID | None]]:
    """Verdict and, for a repeat, the id of the row that the key belongs to."""
    sql, parameters = statement(items, reply_to)
    cursor = await connection.execute(sql, parameters, binary=True)
    return [(row[0], row[1]) for row in await cursor.fetchall()]
