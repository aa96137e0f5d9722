"""A small network for the portal's tests: two hospitals with people, nodes, charged requests and evidence."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.test import Client
from django.utils import timezone

from accounts import principals
from accounts.models import Hospital, Role, User
from accounts.principals import Principal
from fdrouter import evidence
from federation.models import Inference, Node
from privacy import ledger, quotas
from tests.accounts import people

PORTAL = (
    "/portal/",
    "/portal/ledger",
    "/portal/blocks",
    "/portal/requests",
    "/portal/events",
    "/portal/events.csv",
    "/portal/charges.csv",
    "/portal/grants",
    "/portal/reports",
)
SignIn = Callable[[User], Client]
SECRET = b"never shown: metoprolol and a cough"


@dataclass(frozen=True)
class Network:
    """Everybody by what they are."""

    officer: User
    auditor: User
    lakeside_officer: User
    clinician: User
    neighbour: User
    operator: User
    outsider: User

    @property
    def principal(self) -> Principal:
        return principals.for_user(self.officer.pk)


def node(hospital: Hospital, *, seen: bool = True, used: int = 2_000_000_000) -> Node:
    block = {"epsilon": 10.0, "delta": 1e-5, "alpha": 3.4, "cap": 6_060_000_000, "used": used}
    block |= {"epsilon_spent": 5.25, "epsilon_left": 4.75, "plain_sum": 12.5}
    now = timezone.now()
    return Node.objects.create(
        id=hospital.code,
        hospital=hospital,
        name=f"{hospital.name} node",
        url="https://localhost:8443",
        served_models=["m"],
        last_seen_at=now if seen else now - timedelta(hours=1),
        status={"healthy": seen, "block": block, "checked_at": now.isoformat()},
    )


def build() -> Network:
    """People and nodes, without any request."""
    north, lake = people.hospital(), people.hospital("lakeside", "Lakeside Medical Center")
    node(north)
    node(lake, seen=False)
    return Network(
        officer=people.person("officer", Role.PRIVACY_OFFICER, network=True),
        auditor=people.person("auditor", Role.AUDITOR, network=True),
        lakeside_officer=people.person("lakeside.officer", Role.PRIVACY_OFFICER, at=lake),
        clinician=people.person("clinician", works_in=people.department("cardiology", north)),
        neighbour=people.person("neighbour", works_in=people.department("emergency", lake)),
        operator=people.person("operator", Role.NODE_OPERATOR, at=north),
        outsider=people.person("outsider", None),
    )


def ask(
    user: User,
    *,
    kind: str = "cohort.text",
    epsilon: float = 1.5,
    answered_by: str = "northfield",
    state: str = "done",
    reason: str = "",
    at: datetime | None = None,
) -> Inference:
    """One request as it stands after its end, paid through the real ledger, with the evidence of its course."""
    who = principals.for_user(user.pk)
    key, moment = uuid.uuid4(), at or timezone.now()
    private = kind == "cohort.text"
    micro = quotas.micro(epsilon) if private else 0
    ledger.reserve(ledger.Request(id=key, charges=quotas.scopes_for(who).charges(micro)))
    ended = state not in ("queued", "dispatched")
    if ended:
        ledger.release(key) if state == "failed" else ledger.settle(key)
    row = Inference.objects.create(
        id=key,
        user=user,
        membership_id=who.membership_id,
        department_id=who.department_id,
        kind=kind,
        model="m",
        purpose="TREAT",
        channel="web",
        stream=True,
        hospitals=[answered_by],
        epsilon_micro=micro,
        delta=1e-5 if private else 0.0,
        request_digest=bytes(32),
        request=SECRET,
        answer=SECRET if state == "done" else None,
        state=state,
        reason=reason,
        lease=moment,
        reply_to="here",
        node_id=answered_by,
        receipt=receipt(key, answered_by, epsilon if private else None) if state == "done" else None,
        created_at=moment,
        finished_at=moment if ended else None,
    )
    _record("policy.decision", who, row, outcome="allowed")
    _record("request.submit", who, row)
    if ended:
        kinds = {"done": "request.finish", "failed": "request.fail", "cancelled": "request.cancel"}
        _record(kinds[state], who, row, outcome=reason or "ok", hospital=answered_by)
    return row


def receipt(key: uuid.UUID, name: str, epsilon: float | None) -> dict[str, Any]:
    mechanism = {"name": "group_text", "epsilon": epsilon, "nano_rdp_spent": 340_000_000} if epsilon else None
    body = {"version": 1, "node": name, "mechanism": mechanism}
    return {"body": body, "digest": hashlib.sha256(key.bytes).hexdigest(), "signatures": {}}


def _record(kind: str, who: Principal, row: Inference, outcome: str = "ok", hospital: str | None = None) -> None:
    evidence.record(
        evidence.Event(
            kind=kind,
            outcome=outcome,
            actor_id=who.user_id,
            subject=row.pk,
            hospital=hospital or who.hospital,
            department=who.department,
            purpose="TREAT",
        )
    )


def busy() -> Network:
    """The network after a day: answers from both hospitals, a failure, one under way."""
    network = build()
    ask(network.clinician, epsilon=1.5)
    ask(network.clinician, epsilon=2.0, answered_by="lakeside")
    ask(network.clinician, kind="chart")
    ask(network.clinician, epsilon=1.0, state="failed", reason="no_node")
    ask(network.neighbour, epsilon=3.25, answered_by="lakeside")
    ask(network.neighbour, kind="general", answered_by="lakeside")
    ask(network.neighbour, epsilon=0.5, answered_by="lakeside", state="dispatched")
    evidence.record(evidence.Event(kind="session.sign_in", outcome="failed", actor_id=network.neighbour.pk))
    return network
