"""A node's transactions: begin a call (policy, reservation), end it (settlement, receipt). All short, all durable."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from accounts import policy
from fdrouter import crypto
from fdrouter.errors import Conflict, DomainError, IdempotencyConflict, NodeFailed, PolicyDenied
from fdrouter.evidence import Event, record
from federation import identity, receipts, sealing
from federation.models import ACROSS, CHECKED, MECHANISMS, Kind, NodeCall, NodeCallState
from federation.node import blocks, search
from federation.node.model import model_digest
from privacy import claims, ledger
from privacy.dp.across_plans import AcrossPlan
from privacy.dp.across_text import TextAcrossPlan
from privacy.dp.bounds import ADJACENCY
from privacy.dp.cohort_plans import ChoicePlan, Plan, plan_of
from privacy.dp.confident_plans import ConfidentChoicePlan
from privacy.dp.text_plan import TextPlan
from privacy.models import Reservation, ReservationState

#: How an answer ends whose check did not pass: the histogram was not released.
WITHHELD = "withheld"


@dataclass(frozen=True, slots=True)
class Message:
    """An opened and checked message. ``across``: what ``federation.node.across`` needs for a sum, or ``token_sums``."""

    id: uuid.UUID
    kind: Kind
    model: str
    messages: list[dict[str, str]]
    max_tokens: int
    temperature: float
    request_digest: str
    purpose: str
    patient: str
    actor: dict[str, Any]
    plan: Plan | None
    options: tuple[str, ...] = ()
    across: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call gave. ``released``: which publications it is made from, and what those have paid."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    released: dict[str, Any] | None = None


def parse(message_id: str, payload: dict[str, Any]) -> Message:
    """The payload as a message.

    Raises:
        InvalidParameter, PushTooSmall: the plan does not add up. KeyError, TypeError, ValueError: malformed.
    """
    kind = Kind(payload["kind"])
    digest, actor = str(payload["request_digest"]), payload["actor"]
    messages = [{"role": str(m["role"]), "content": str(m["content"])} for m in payload["messages"]]
    if len(bytes.fromhex(digest)) != 32 or not any(m["role"] == "user" for m in messages):
        raise ValueError("malformed")
    options = tuple(str(option) for option in payload.get("options") or ())
    return Message(
        id=uuid.UUID(message_id),
        kind=kind,
        model=str(payload["model"]),
        messages=messages,
        max_tokens=int(payload["max_tokens"]),
        temperature=float(payload["temperature"]),
        request_digest=digest,
        purpose=str(payload["purpose"]),
        patient=str(payload.get("patient") or ""),
        actor={"id": int(actor["id"]), **{name: actor[name] for name in ("role", "hospital", "department")}},
        plan=_plan(kind, payload["parameters"], options) if kind.is_cohort else None,
        options=options,
        across=_across(payload),
    )


def _plan(kind: Kind, parameters: dict[str, Any], options: tuple[str, ...]) -> Plan:
    plan = plan_of(parameters)
    checked = CHECKED if isinstance(plan, ConfidentChoicePlan) else MECHANISMS
    mechanisms = ACROSS if isinstance(plan, AcrossPlan | TextAcrossPlan) else checked
    if parameters["mechanism"] != mechanisms.get(kind):
        raise ValueError("the plan is for another kind")
    if plan.event.adjacency != ADJACENCY or plan.event.unit != "patient":
        raise ValueError("the plan is for other neighbours than the block's")
    if isinstance(plan, ChoicePlan | ConfidentChoicePlan | AcrossPlan) and len(options) != plan.options:
        raise ValueError("the plan is for another number of options")
    return plan


def _across(payload: dict[str, Any]) -> dict[str, Any] | None:
    """A hospital's part of the noise may be little: a plan across hospitals is never answered outside a sum."""
    across, parameters = payload.get("across"), payload.get("parameters") or {}
    if (across is not None) != (parameters["mechanism"] in ACROSS.values() if parameters else False):
        raise ValueError("the plan is for another way of answering")
    return dict(across) if across is not None else None


def _decide(message: Message) -> policy.Decision:
    """The node's own decision, on its own record of who cares for whom."""
    hospital = settings.HOSPITAL_ID
    department = str(message.actor["department"] or "")
    request = policy.PolicyRequest(
        role=str(message.actor["role"]),
        kind=message.kind.value,
        purpose=message.purpose,
        hospital=hospital,
        department=department,
        same_hospital=message.actor["hospital"] == hospital,
        in_care=message.kind is Kind.CHART and search.in_care(message.patient, department),
    )
    return policy.decide(request)


def _event(message: Message, kind: str, outcome: str = "ok", **details: Any) -> Event:
    return Event(
        kind=kind,
        outcome=outcome,
        actor_id=message.actor.get("id"),
        subject=message.id,
        hospital=settings.HOSPITAL_ID,
        department=message.actor.get("department"),
        purpose=message.purpose,
        details=details,
    )


def begin(message: Message, *, repeat_of: NodeCall | None = None) -> NodeCall:
    """Remembers the call, decides and reserves, in one transaction. Nothing has been read yet.

    Raises:
        PolicyDenied, BlockExhausted: refused; the refusal is on record, nothing is charged.
        Conflict: the same message is here already; see :func:`repeated`.
    """
    refusal: DomainError | None = None
    with transaction.atomic():
        try:
            with transaction.atomic():
                call = NodeCall.objects.create(
                    id=message.id,
                    request_digest=bytes.fromhex(message.request_digest),
                    state=NodeCallState.RUNNING,
                    repeat_of=repeat_of,
                )
        except IntegrityError:
            raise Conflict from None
        decision = _decide(message)
        outcome = "allowed" if decision.allowed else "denied"
        digest, policies = decision.policy_digest, list(decision.policies)
        record(_event(message, "policy.decision", outcome, policies=policies, policy_digest=digest))
        try:
            if not decision.allowed:
                raise PolicyDenied(policies=policies)
            if message.plan is not None:
                _reserve(message, message.plan)
        except DomainError as error:
            refusal = error
            record(_event(message, "request.fail", error.code))
            _end(call, NodeCallState.FAILED, code=error.code)
    if refusal is not None:
        raise refusal
    return call


def _reserve(message: Message, plan: Plan) -> None:
    claims.sheet(plan.to_event()["mechanism"])
    paying = blocks.pay(message.id, plan)
    charged = {scope.key: blocks.charge(scope, plan).amount for scope in paying}
    record(_event(message, "ledger.reserve", nano_rdp=charged, epsilon=plan.epsilon))


def _end(call: NodeCall, state: NodeCallState, **values: Any) -> bool:
    values |= {"state": state, "finished_at": timezone.now()}
    return bool(NodeCall.objects.filter(pk=call.pk, state=NodeCallState.RUNNING).update(**values))


def finish(message: Message, call: NodeCall, outcome: Outcome) -> dict[str, Any]:
    """Settles what was released, signs the receipt and stores both; returns the receipt.

    Raises:
        NodeFailed: the call was ended elsewhere (a restart gave it up); its charge stands.
    """
    with transaction.atomic():
        NodeCall.objects.select_for_update().get(pk=call.pk)  # before the ledger, as `fail` does
        block, kept = None, {}
        if message.plan is not None:
            withheld = outcome.finish_reason == WITHHELD
            kept = blocks.settle(message.id, message.plan, outcome.completion_tokens, withheld=withheld)
            record(_event(message, "ledger.settle", nano_rdp=kept))
            block = blocks.chief([key for key in kept])
        return _store(message, call, outcome, _receipt_body(message, outcome, block, kept))


def _store(message: Message, call: NodeCall, outcome: Outcome, body: dict[str, Any]) -> dict[str, Any]:
    receipt = receipts.issue(identity.load(settings.IDENTITY_DIR), body)
    stored = _end(
        call,
        NodeCallState.DONE,
        answer=crypto.seal("node-answer", message.id.bytes, outcome.text.encode()),
        receipt={**receipt, "outcome": [outcome.finish_reason, outcome.prompt_tokens, outcome.completion_tokens]},
    )
    if not stored:
        raise NodeFailed
    record(_event(message, "node.receipt", receipt_digest=receipt["digest"], tokens=outcome.completion_tokens))
    return receipt


def finish_again(message: Message, call: NodeCall, earlier: NodeCall) -> tuple[Outcome, dict[str, Any]]:
    """Answers from an earlier release: nothing is settled, and the receipt says so, and when the release was made.

    Raises:
        NodeFailed: the call was ended elsewhere.
    """
    outcome, _ = stored_answer(earlier)
    with transaction.atomic():
        body = _receipt_body(message, outcome, blocks.chief(), {})
        body["mechanism"] = (earlier.receipt or {})["body"]["mechanism"] | {"nano_rdp_spent": 0, "blocks": {}}
        body["mechanism"] |= {"repeat_of": str(earlier.pk), "released_at": (earlier.receipt or {})["body"]["at"]}
        return outcome, _store(message, call, outcome, body)


def _receipt_body(
    message: Message, outcome: Outcome, block: dict[str, Any] | None, kept: dict[str, int]
) -> dict[str, Any]:
    """What the receipt says. ``kept``: what each block keeps charged, in its own units, by the block's key."""
    mechanism = None
    if message.plan is not None:
        event = message.plan.to_event()
        mechanism = {
            "name": event["mechanism"],
            "unit": event["unit"],
            "adjacency": event["adjacency"],
            "epsilon": event["epsilon"],
            "delta": event["delta"],
            "parameters": message.plan.parameters,
            "nano_rdp_spent": kept.get(block["key"], 0) if block else 0,
            "blocks": kept,
            **({"withheld": True} if outcome.finish_reason == WITHHELD else {}),
            "claim": claims.sheet(event["mechanism"]).reference,
        }
        if isinstance(message.plan, TextPlan):
            mechanism["rho_reserved"] = message.plan.rho
            mechanism["rho_spent"] = message.plan.rho_of(outcome.completion_tokens)
    paid_before = {"released": outcome.released} if outcome.released else {}
    return paid_before | {
        "message_id": str(message.id),
        "request_digest": message.request_digest,
        "subject": subject(message),
        "hospital": settings.HOSPITAL_ID,
        "kind": message.kind.value,
        "model": message.model,
        "model_digest": model_digest(Path(settings.MODEL_DIR)),
        "mechanism": mechanism,
        "block": block,
        "tokens": outcome.completion_tokens,
        "answer_sha256": hashlib.sha256(outcome.text.encode()).hexdigest(),
        "at": timezone.now().isoformat(timespec="seconds"),
    }


def fail(message: Message, call: NodeCall, code: str, *, data_seen: bool) -> bool:
    """Ends a call without an answer; returns whether it stays charged (it does once a model may have seen data)."""
    with transaction.atomic():
        if not _end(call, NodeCallState.FAILED, code=code):
            return True
        if message.plan is not None:
            if data_seen:
                ledger.settle(message.id)
            else:
                ledger.release(message.id)
            record(_event(message, "ledger.settle" if data_seen else "ledger.release"))
        record(_event(message, "request.fail", code))
    return data_seen and message.plan is not None


def is_charged(message: Message) -> bool:
    """Whether a call that was stored keeps any of its block."""
    if message.plan is None:
        return False
    return Reservation.objects.filter(pk=message.id).exclude(state=ReservationState.RELEASED).exists()


def repeated(message: Message) -> NodeCall:
    """The stored call of a message that came before.

    Raises:
        IdempotencyConflict: the id belongs to a different request.
    """
    call = NodeCall.objects.get(pk=message.id)
    if bytes(call.request_digest).hex() != message.request_digest:
        raise IdempotencyConflict
    return call


def subject(message: Message) -> str:
    """SHA-256 in hex of what is asked of records, by this node's own reading of the message."""
    question = next(m["content"] for m in reversed(message.messages) if m["role"] == "user")
    plan = message.plan.to_event() if message.plan is not None else None
    asked = [message.kind.value, " ".join(question.split()), list(message.options), plan, message.purpose]
    return hashlib.sha256(sealing.canonical(asked)).hexdigest()


def released_before(message: Message) -> NodeCall | None:
    """An earlier answer over records to the very same request, whoever asked: saying it again costs nothing.

    Whether it is the same, the node reads from the message itself (:func:`subject`) beside the coordinator's digest.
    None for kinds without a privacy cost, and for releases of another claim sheet than today's.
    """
    if message.plan is None:
        return None
    today = claims.sheet(message.plan.to_event()["mechanism"]).reference
    same = NodeCall.objects.filter(
        request_digest=bytes.fromhex(message.request_digest),
        state=NodeCallState.DONE,
        repeat_of=None,
        receipt__body__mechanism__claim=today,
        receipt__body__subject=subject(message),
    )
    return same.exclude(pk=message.id).order_by("-finished_at").first()


def stored_answer(call: NodeCall) -> tuple[Outcome, dict[str, Any]]:
    """Answer and receipt of a finished call."""
    receipt = dict(call.receipt or {})
    finish_reason, prompt_tokens, completion_tokens = receipt.pop("outcome")
    text = crypto.unseal("node-answer", call.pk.bytes, call.answer or b"").decode()
    return Outcome(text, finish_reason, prompt_tokens, completion_tokens), receipt


def give_up_interrupted() -> int:
    """At start: calls that an earlier process left running are failed; their charge stands."""
    with transaction.atomic():
        ids = list(NodeCall.objects.filter(state=NodeCallState.RUNNING).values_list("pk", flat=True))
        NodeCall.objects.filter(pk__in=ids, state=NodeCallState.RUNNING).update(
            state=NodeCallState.FAILED, code="interrupted", finished_at=timezone.now()
        )
        for pk in ids:
            ledger.settle(pk)
            record(Event(kind="request.fail", outcome="interrupted", subject=pk, hospital=settings.HOSPITAL_ID))
    return len(ids)
