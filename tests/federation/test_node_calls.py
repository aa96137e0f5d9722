"""A node's calls: decided and paid before anything is read, settled for what was sampled, answered once."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from asgiref.sync import async_to_sync
from django.db import transaction
from pytest_django import Settings

from compliance.models import Event
from fdrouter.errors import (
    BlockExhausted,
    Conflict,
    IdempotencyConflict,
    InvalidParameter,
    NodeFailed,
    PolicyDenied,
)
from federation import receipts
from federation.models import NodeCall
from federation.node import blocks, calls, service
from federation.node.calls import Message, Outcome
from federation.node.engine import EngineClient
from federation.node.models import CareAssignment, Patient
from privacy import ledger
from privacy.dp import accounting
from privacy.models import Reservation, Scope
from tests.federation.keys import ring
from tests.federation.messages import PLAN, actor, message
from tests.privacy.ledger.books import audit, leave, race

OUTCOME = Outcome("In our records, it rains.", "stop", 200, 5)
NOBODY_LISTENS = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def node(settings: Settings) -> None:
    settings.NODE_ID = settings.HOSPITAL_ID = "northfield"
    settings.IDENTITY_DIR = ring().folder("northfield")


@pytest.fixture
def block(db: None) -> Scope:
    return blocks.create("northfield", "northfield", epsilon=10.0, delta=1e-5)


def used(block: Scope) -> int:
    block.refresh_from_db()
    return block.used


def events(subject: uuid.UUID) -> list[str]:
    rows = Event.objects.filter(subject=subject).order_by("seq").values_list("kind", "outcome")
    return [f"{kind}:{outcome}" for kind, outcome in rows]


def cost(tokens: int) -> int:
    return accounting.nano_rdp_up(PLAN.rho_of(tokens), 3.4)


# --- begin -----------------------------------------------------------------------------------------------------------


def test_a_block_is_opened_once_with_a_frozen_order(block: Scope) -> None:
    again = blocks.create("northfield", "northfield", epsilon=3.0, delta=1e-6)
    assert again.pk == block.pk
    again.refresh_from_db()
    assert (again.epsilon, again.alpha, again.resets) == (10.0, 3.4, False)
    assert abs(again.cap / 1e9 - 6.06) < 0.01


def test_begin_decides_and_reserves_the_whole_plan(block: Scope) -> None:
    wish = message()
    call = calls.begin(wish)
    assert (call.pk, call.state) == (wish.id, "running")
    assert used(block) == cost(PLAN.max_tokens) >= PLAN.rho * 3.4 * 1e9
    assert Reservation.objects.get(pk=wish.id).event == json.loads(json.dumps(PLAN.to_event()))
    assert events(wish.id) == ["policy.decision:allowed", "ledger.reserve:ok"]
    audit()


@pytest.mark.parametrize("kind", ["general", "chart"])
def test_other_kinds_are_not_charged_to_the_block(kind: str, block: Scope) -> None:
    patient = Patient.objects.create(source_id="1", reference="nf-1", digest=bytes(32))
    CareAssignment.objects.create(patient=patient, department="cardiology")
    wish = message(kind)
    calls.begin(wish)
    assert used(block) == 0 and not Reservation.objects.exists()
    assert events(wish.id) == ["policy.decision:allowed"]


def test_the_same_message_twice_is_a_conflict_and_paid_once(block: Scope) -> None:
    wish = message()
    calls.begin(wish)
    with pytest.raises(Conflict):
        calls.begin(wish)
    assert used(block) == cost(PLAN.max_tokens)
    assert NodeCall.objects.count() == 1
    assert events(wish.id) == ["policy.decision:allowed", "ledger.reserve:ok"]


@pytest.mark.django_db(transaction=True)
def test_the_same_message_from_many_connections_is_paid_once(block: Scope) -> None:
    wish = message()

    def begin() -> str:
        try:
            calls.begin(wish)
        except Conflict:
            return "conflict"
        return "begun"

    assert sorted(race([begin] * 6)) == ["begun", *["conflict"] * 5]
    assert used(block) == cost(PLAN.max_tokens)
    audit()


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("cohort.text", {"actor": actor(role="nurse")}),
        ("cohort.text", {"actor": actor(role="researcher")}),
        ("cohort.text", {"actor": actor(role="administrator")}),
        ("cohort.text", {"actor": actor(role='attending", permit')}),
        ("cohort.text", {"purpose": "MARKETING"}),
        ("general", {"actor": actor(role="auditor", department=None, hospital=None)}),
        ("chart", {}),
    ],
    ids=["nurse", "researcher", "administrator", "injection", "purpose", "auditor", "not in care"],
)
def test_a_denial_is_recorded_and_not_charged(kind: str, changes: dict[str, Any], block: Scope) -> None:
    """The node decides for itself, whatever the coordinator has decided."""
    wish = message(kind, **changes)
    with pytest.raises(PolicyDenied):
        calls.begin(wish)
    assert used(block) == 0 and not Reservation.objects.exists()
    call = NodeCall.objects.get(pk=wish.id)
    assert (call.state, call.code) == ("failed", "policy_denied")
    assert events(wish.id) == ["policy.decision:denied", "request.fail:policy_denied"]


@pytest.mark.parametrize("changes", [{"actor": actor(hospital="lakeside")}, {"actor": actor(department="oncology")}])
def test_a_chart_is_for_the_care_team_of_this_hospital(changes: dict[str, Any], block: Scope) -> None:
    patient = Patient.objects.create(source_id="1", reference="nf-1", digest=bytes(32))
    CareAssignment.objects.create(patient=patient, department="cardiology")
    calls.begin(message("chart"))
    with pytest.raises(PolicyDenied):
        calls.begin(message("chart", **changes))


def test_an_exhausted_block_is_recorded_and_not_charged(block: Scope) -> None:
    leave(block, cost(PLAN.max_tokens) - 1)
    before = used(block)
    wish = message()
    with pytest.raises(BlockExhausted) as refused:
        calls.begin(wish)
    assert refused.value.details["needed"] == cost(PLAN.max_tokens)
    assert used(block) == before and not Reservation.objects.filter(pk=wish.id).exists()
    assert events(wish.id) == ["policy.decision:allowed", "request.fail:block_exhausted"]
    assert NodeCall.objects.get(pk=wish.id).code == "block_exhausted"
    calls.begin(message("general"))


@pytest.mark.django_db
def test_without_a_block_nothing_is_answered_from_records() -> None:
    with pytest.raises(BlockExhausted, match="no privacy block"):
        calls.begin(message())


@pytest.mark.django_db(transaction=True)
def test_many_calls_at_once_exhaust_the_block_exactly(block: Scope) -> None:
    leave(block, 3 * cost(PLAN.max_tokens))
    before = used(block)
    wishes = [message() for _ in range(8)]

    def begin(wish: Message) -> Callable[[], bool]:
        def run() -> bool:
            try:
                calls.begin(wish)
            except BlockExhausted:
                return False
            return True

        return run

    assert sum(race([begin(wish) for wish in wishes])) == 3
    assert used(block) == before + 3 * cost(PLAN.max_tokens)
    audit()


# --- finish ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [0, 1, 5, PLAN.max_tokens])
def test_finish_settles_the_tokens_that_were_sampled(tokens: int, block: Scope) -> None:
    wish = message()
    call = calls.begin(wish)
    receipt = calls.finish(wish, call, replace(OUTCOME, completion_tokens=tokens))
    assert used(block) == cost(tokens)
    assert Reservation.objects.get(pk=wish.id).state == "settled"
    body = receipt["body"]
    assert (body["tokens"], body["mechanism"]["rho_spent"]) == (tokens, PLAN.rho_of(tokens))
    assert body["block"]["used"] == cost(tokens)
    audit()


def test_more_tokens_than_planned_are_refused_and_the_whole_plan_stays_charged(block: Scope) -> None:
    wish = message()
    call = calls.begin(wish)
    with pytest.raises(InvalidParameter):
        calls.finish(wish, call, replace(OUTCOME, completion_tokens=PLAN.max_tokens + 1))
    assert calls.fail(wish, call, "node_failed", data_seen=True)
    assert used(block) == cost(PLAN.max_tokens)


def test_the_receipt_is_signed_for_this_request_and_answer(block: Scope) -> None:
    wish = message()
    receipt = calls.finish(wish, calls.begin(wish), OUTCOME)
    public = ring().identity("northfield").public
    assert receipts.is_valid(receipt, public, message_id=str(wish.id), request_digest="ab" * 32)
    assert receipts.covers(receipt, public, message_id=str(wish.id), answer=OUTCOME.text)
    mechanism = receipt["body"]["mechanism"]
    assert (mechanism["name"], mechanism["unit"], mechanism["adjacency"]) == ("token_decoding", "patient", "swap")
    assert (mechanism["epsilon"], mechanism["delta"], mechanism["rho_reserved"]) == (3.0, 1e-5, PLAN.rho)
    assert OUTCOME.text not in json.dumps(receipt)
    assert events(wish.id)[2:] == ["ledger.settle:ok", "node.receipt:ok"]


def test_a_general_receipt_claims_no_mechanism(block: Scope) -> None:
    wish = message("general")
    body = calls.finish(wish, calls.begin(wish), OUTCOME)["body"]
    assert (body["mechanism"], body["block"]) == (None, None)
    assert body["answer_sha256"] == hashlib.sha256(OUTCOME.text.encode()).hexdigest()


def test_the_stored_answer_is_sealed_and_comes_again_at_no_cost(block: Scope) -> None:
    wish = message()
    receipt = calls.finish(wish, calls.begin(wish), OUTCOME)
    before, recorded = used(block), Event.objects.count()
    call = calls.repeated(wish)
    assert b"rains" not in bytes(call.answer or b"")
    assert calls.stored_answer(call) == (OUTCOME, receipt)
    assert (used(block), Event.objects.count()) == (before, recorded)


def test_another_request_under_the_same_id_is_refused(block: Scope) -> None:
    wish = message()
    calls.begin(wish)
    with pytest.raises(IdempotencyConflict):
        calls.repeated(message(message_id=wish.id, request_digest="cd" * 32))


def test_a_call_ends_once(block: Scope) -> None:
    wish = message()
    call = calls.begin(wish)
    calls.finish(wish, call, OUTCOME)
    with pytest.raises(NodeFailed), transaction.atomic():
        calls.finish(wish, call, replace(OUTCOME, completion_tokens=1))
    assert calls.fail(wish, call, "cancelled", data_seen=False), "what was answered stays charged"
    assert used(block) == cost(5)
    assert NodeCall.objects.get(pk=wish.id).state == "done"


# --- fail ------------------------------------------------------------------------------------------------------------


def test_a_failure_before_any_record_was_read_gives_everything_back(block: Scope) -> None:
    wish = message()
    assert not calls.fail(wish, calls.begin(wish), "node_failed", data_seen=False)
    assert used(block) == 0
    assert Reservation.objects.get(pk=wish.id).state == "released"
    assert events(wish.id)[2:] == ["ledger.release:ok", "request.fail:node_failed"]
    audit()


def test_a_failure_after_a_model_may_have_seen_records_keeps_the_whole_charge(block: Scope) -> None:
    wish = message()
    assert calls.fail(wish, calls.begin(wish), "node_failed", data_seen=True)
    assert used(block) == cost(PLAN.max_tokens)
    assert Reservation.objects.get(pk=wish.id).state == "settled"
    assert events(wish.id)[2:] == ["ledger.settle:ok", "request.fail:node_failed"]
    audit()


def test_a_call_fails_once(block: Scope) -> None:
    wish = message()
    call = calls.begin(wish)
    calls.fail(wish, call, "node_failed", data_seen=True)
    recorded = events(wish.id)
    assert calls.fail(wish, call, "cancelled", data_seen=False), "no second end may give a charge back"
    assert used(block) == cost(PLAN.max_tokens)
    assert events(wish.id) == recorded
    assert NodeCall.objects.get(pk=wish.id).code == "node_failed"


def test_what_a_restart_finds_running_is_given_up_and_stays_charged(block: Scope) -> None:
    lost, finished, other = message(), message(), message("general")
    lost_call = calls.begin(lost)
    calls.finish(finished, calls.begin(finished), OUTCOME)
    calls.begin(other)
    assert calls.give_up_interrupted() == 2
    assert used(block) == cost(PLAN.max_tokens) + cost(5)
    assert NodeCall.objects.get(pk=lost.id).code == "interrupted"
    assert NodeCall.objects.get(pk=finished.id).state == "done"
    assert events(lost.id)[-1] == "request.fail:interrupted"
    assert calls.give_up_interrupted() == 0
    with pytest.raises(NodeFailed), transaction.atomic():
        calls.finish(lost, lost_call, OUTCOME)
    assert used(block) == cost(PLAN.max_tokens) + cost(5), "a late answer changes nothing"
    audit()


# --- the whole answer, with an engine that is down -------------------------------------------------------------------


def answer(wish: Message) -> list[dict[str, Any]]:
    async def run() -> list[dict[str, Any]]:
        async with aiohttp.ClientSession() as session:
            engine = EngineClient(NOBODY_LISTENS, "smollm2-135m-instruct", session)
            return [event async for event in service.answer(wish, engine)]

    return async_to_sync(run)()


@pytest.mark.django_db(transaction=True)
def test_a_finished_call_is_answered_again_without_an_engine_and_for_nothing(block: Scope) -> None:
    wish = message()
    receipt = calls.finish(wish, calls.begin(wish), OUTCOME)
    before = used(block)
    told = answer(wish)
    assert [event["type"] for event in told] == ["delta", "answer"]
    assert (told[-1]["text"], told[-1]["receipt"], told[-1]["completion_tokens"]) == (OUTCOME.text, receipt, 5)
    assert used(block) == before


@pytest.mark.django_db(transaction=True)
def test_a_refusal_is_told_as_not_charged(block: Scope) -> None:
    leave(block, 1)
    (told,) = answer(message())
    assert (told["type"], told["code"], told["charged"], told["broken"]) == ("error", "block_exhausted", False, False)
    (told,) = answer(message(actor=actor(role="nurse")))
    assert (told["code"], told["charged"]) == ("policy_denied", False)
    json.dumps(told)


@pytest.mark.django_db(transaction=True)
def test_a_reused_id_gets_no_answer_of_another_request(block: Scope) -> None:
    wish = message()
    calls.finish(wish, calls.begin(wish), OUTCOME)
    (told,) = answer(message(message_id=wish.id, request_digest="cd" * 32))
    assert (told["type"], told["code"]) == ("error", "idempotency_conflict")


@pytest.mark.django_db(transaction=True)
def test_an_engine_that_is_down_fails_the_call_and_leaves_none_open(block: Scope) -> None:
    wish = message("general")
    told = answer(wish)
    assert (told[-1]["type"], told[-1]["charged"], told[-1]["broken"]) == ("error", False, True)
    assert NodeCall.objects.get(pk=wish.id).state == "failed"
    assert answer(wish)[-1]["type"] == "error", "and a repeat hears that it failed"


@pytest.mark.django_db(transaction=True)
def test_an_asker_who_leaves_leaves_no_call_open(block: Scope) -> None:
    """After the first event the iterator is closed, as when the connection breaks."""
    patient = Patient.objects.create(source_id="1", reference="nf-1", digest=bytes(32))
    CareAssignment.objects.create(patient=patient, department="cardiology")
    wish = message("chart")

    async def run() -> dict[str, Any]:
        async with aiohttp.ClientSession() as session:
            stream = service.answer(wish, EngineClient(NOBODY_LISTENS, "smollm2-135m-instruct", session))
            first = await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]
            return first

    assert async_to_sync(run)()["type"] == "progress"
    call = NodeCall.objects.get(pk=wish.id)
    assert (call.state, call.code) == ("failed", "cancelled")
    assert ledger.expire() == set()
