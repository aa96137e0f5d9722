"""Counts, votes and words at a node: paid before anything is read, told with their error, free the second time."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from asgiref.sync import async_to_sync
from pytest_django import Settings

from fdrouter.errors import InvalidParameter
from federation import gateway, inference, receipts
from federation.models import NodeCall
from federation.node import blocks, calls, cohorts, search, service
from federation.node.calls import Message
from federation.node.cohorts import NONE
from federation.node.demo_records import build
from federation.node.engine import EngineClient
from federation.node.ingest import ingest
from privacy import statement
from privacy.dp.cohort_plans import Plan, plan_choice, plan_count, plan_keywords
from privacy.dp.text_plan import plan_text
from privacy.models import Reservation, ReservationState, Scope
from tests.federation.keys import ring
from tests.federation.messages import PLAN, actor, payload
from tests.privacy.ledger.books import audit

NOBODY_LISTENS = "http://127.0.0.1:1"
KEYWORDS = plan_keywords(epsilon=1.0)
OPTIONS = ("dry cough", "rash", "nausea")
PLANS: dict[str, Plan] = {
    "cohort.count": plan_count(epsilon=1.0),
    "cohort.choice": plan_choice(options=3, epsilon=1.0),
    "cohort.keywords": KEYWORDS,
}

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def node(settings: Settings) -> None:
    settings.NODE_ID = settings.HOSPITAL_ID = "northfield"
    settings.IDENTITY_DIR = ring().folder("northfield")


@pytest.fixture(autouse=True)
def short_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "SLOT_SECONDS", 0.01)


@pytest.fixture
def block(node: None, tmp_path: Path) -> Scope:
    build.build_small(tmp_path, "northfield")
    ingest(tmp_path)
    return blocks.create("northfield", "northfield", epsilon=10.0, delta=1e-5)


def message(
    kind: str, question: str = "Which side effect did patients on velorapine develop?", **changes: Any
) -> Message:
    options = list(OPTIONS) if kind == "cohort.choice" else []
    parameters = json.loads(json.dumps(PLANS[kind].to_event()))
    body = payload(kind, messages=[{"role": "user", "content": question}], parameters=parameters, options=options)
    digest = hashlib.sha256(f"{kind} {question}".encode()).hexdigest()
    return calls.parse(str(uuid.uuid4()), body | {"request_digest": digest} | changes)


def answer(wish: Message) -> list[dict[str, Any]]:
    async def run() -> list[dict[str, Any]]:
        async with aiohttp.ClientSession() as session:
            return [event async for event in service.answer(wish, EngineClient(NOBODY_LISTENS, "m", session))]

    return async_to_sync(run)()


def used(block: Scope) -> int:
    block.refresh_from_db()
    return block.used


def test_a_choice_is_told_with_its_numbers_and_their_error(block: Scope) -> None:
    wish = message("cohort.choice")
    last = answer(wish)[-1]
    assert last["type"] == "answer"
    numbers = {name: int(n) for name, n in re.findall(r"- (.+): about (\d+) records", last["text"])}
    assert last["text"].startswith("Said most often: dry cough.")
    assert set(numbers) == {*OPTIONS, NONE} and 40 <= numbers["dry cough"] <= 85
    assert f"at most {PLANS['cohort.choice'].parameters['band']}, in 95 of 100" in last["text"]
    mechanism = last["receipt"]["body"]["mechanism"]
    assert (mechanism["name"], mechanism["epsilon"], mechanism["adjacency"]) == ("choice", 1.0, "swap")
    assert used(block) == PLANS["cohort.choice"].nano_at(3.4) > 0
    audit()


def test_a_count_is_told_with_its_band_and_costs_a_pure_epsilon(block: Scope) -> None:
    last = answer(message("cohort.count", "How many patients on velorapine had a dry cough?"))[-1]
    found = re.match(r"About (\d+) records match\. The noise leaves (\d+) to (\d+), in 95 of 100 cases\.", last["text"])
    assert "all of these words: velorapine, dry, cough" in last["text"]
    assert found and 45 <= int(found[1]) <= 80
    assert last["receipt"]["body"]["mechanism"]["delta"] == 0.0
    assert used(block) == PLANS["cohort.count"].nano_at(3.4)


def test_a_question_that_matches_nobody_is_answered_and_paid_like_any(block: Scope) -> None:
    last = answer(message("cohort.count", "How many patients take quuxoline?"))[-1]
    assert last["type"] == "answer" and used(block) == PLANS["cohort.count"].nano_at(3.4)
    assert "About" in last["text"]


def test_keywords_that_reached_nobody_are_given_back(block: Scope) -> None:
    wish = message("cohort.keywords")
    last = answer(wish)[-1]
    assert (last["type"], last["code"], last["charged"]) == ("error", "engine_unreachable", False)
    assert Reservation.objects.get(pk=wish.id).state == ReservationState.RELEASED
    assert used(block) == 0
    question = "Which side effect did patients on velorapine develop?"
    assert len(cohorts.keywords(question, KEYWORDS, [1])) == KEYWORDS.picks


def test_the_same_request_again_has_the_stored_answer_for_nothing(block: Scope) -> None:
    first, again = message("cohort.choice"), message("cohort.choice", actor=actor(id=99))
    told, before = answer(first)[-1], used(block)
    repeat = answer(again)[-1]
    assert repeat["text"] == told["text"] and used(block) == before
    assert repeat["receipt"]["body"]["mechanism"]["repeat_of"] == str(first.id)
    assert gateway.Answer(receipt=repeat["receipt"]).repeated and not gateway.Answer(receipt=told["receipt"]).repeated
    assert receipts.is_valid(
        repeat["receipt"],
        ring().identity("northfield").public,
        message_id=str(again.id),
        request_digest=again.request_digest,
    )
    assert not Reservation.objects.filter(pk=again.id).exists()
    third = answer(message("cohort.choice"))[-1]
    assert third["receipt"]["body"]["mechanism"]["repeat_of"] == str(first.id), "always the one that was paid"


def test_who_may_not_ask_gets_no_stored_answer_either(block: Scope) -> None:
    answer(message("cohort.choice"))
    last = answer(message("cohort.choice", actor=actor(role="nurse")))[-1]
    assert (last["type"], last["code"], last["charged"]) == ("error", "policy_denied", False)


def test_another_question_option_or_cost_is_another_release(block: Scope) -> None:
    answer(message("cohort.choice"))
    before = used(block)
    answer(message("cohort.choice", "Which side effect did patients on zintoralol develop?"))
    assert used(block) == 2 * before


@pytest.mark.parametrize(
    ("kind", "question", "changes"),
    [
        ("cohort.count", "How many patients do we have?", {}),
        ("cohort.count", "How many patients on velorapine had no cough?", {}),
        ("cohort.count", "How many velorapine patients didn't cough?", {}),
        ("cohort.choice", "Which side effect does velorapine cause?", {"options": ["rash", "no", "nausea"]}),
        ("cohort.choice", "Which side effect does velorapine cause?", {"options": ["rash", "rashes", "nausea"]}),
        ("cohort.keywords", "What about the patients?", {}),
    ],
)
def test_what_records_cannot_answer_is_refused_unread_and_unpaid(
    block: Scope, kind: str, question: str, changes: dict[str, Any]
) -> None:
    wish = message(kind, question, **changes)
    last = answer(wish)[-1]
    assert (last["type"], last["code"], last["charged"]) == ("error", "invalid_parameter", False)
    told = {"code": last["code"], "id": "1", "state": "failed", "details": last["details"]}
    shown = inference.failure(told)
    assert shown["message"] == last["details"]["why"] != InvalidParameter.default_message
    assert "why" not in shown["details"]
    assert used(block) == 0 and not NodeCall.objects.exists()


def test_time_comes_in_slots(block: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "SLOT_SECONDS", 0.5)
    begun = time.monotonic()
    answer(message("cohort.count", "How many patients take quuxoline?"))
    assert time.monotonic() - begun >= 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {"parameters": PLANS["cohort.count"].to_event()},
        {"parameters": PLAN.to_event()},
        {"parameters": {**PLANS["cohort.choice"].to_event(), "sigma": 0.001}},
        {"parameters": {**PLANS["cohort.choice"].to_event(), "epsilon": 0.1}},
        {"parameters": {}},
        {"options": ["only one"]},
        {"options": []},
    ],
    ids=["count", "text", "less noise", "smaller claim", "none", "one option", "no option"],
)
def test_a_plan_that_does_not_fit_is_refused_before_anything_is_read(changes: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError, InvalidParameter)):
        message("cohort.choice", **changes)


def test_a_statement_adds_up_what_was_paid_and_a_second_accountant_agrees(block: Scope) -> None:
    for kind in PLANS:
        answer(message(kind))
    block.refresh_from_db()
    paid = statement.of(block)
    assert paid.requests == 2 and paid.plain_sum == pytest.approx(2.0), "the third was given back"
    assert sum(line.nano for line in paid.lines) == block.used
    assert 1.0 < paid.composed <= 2.0
    second = statement.second_opinion(paid, 3.4, 1e-5)
    assert second is not None and 0.9 < second <= paid.composed + 1e-6


def test_another_question_under_the_same_digest_is_no_repeat(block: Scope) -> None:
    """The coordinator's digest alone decides nothing: a node says nothing again that was asked otherwise."""
    first = message("cohort.count", "How many patients on velorapine had a dry cough?")
    answer(first)
    one = used(block)
    for change in (
        {"messages": [{"role": "user", "content": "How many patients on zintoralol had a slow pulse?"}]},
        {"parameters": json.loads(json.dumps(plan_count(epsilon=0.4).to_event()))},
        {"purpose": "HRESCH"},
    ):
        other = message("cohort.count", "How many patients on velorapine had a dry cough?", **change)
        assert other.request_digest == first.request_digest and calls.released_before(other) is None
    last = answer(message("cohort.count", "How many  patients on velorapine had a dry cough?\n"))[-1]
    assert used(block) == 2 * one  # its own digest is another, so it is a new question to the coordinator
    same = message("cohort.count", "How many patients on velorapine had a dry cough?")
    assert answer(same)[-1]["receipt"]["body"]["mechanism"]["repeat_of"] and last["type"] == "answer"


def test_who_leaves_during_the_search_has_paid(block: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a search takes depends on records, so whether it had ended must not decide what is charged."""
    plan = plan_text(epsilon=3.0)
    body = payload("cohort.text", parameters=json.loads(json.dumps(plan.to_event())))
    wish = calls.parse(str(uuid.uuid4()), body)
    searching = threading.Event()

    def slow(*args: Any, **options: Any) -> list[Any]:
        searching.set()
        time.sleep(0.6)
        return []

    async def up(self: EngineClient) -> bool:
        return True

    monkeypatch.setattr(search, "top_patients", slow)
    monkeypatch.setattr(EngineClient, "healthy", up)

    async def leave() -> None:
        async with aiohttp.ClientSession() as session:

            async def ask() -> None:
                async for _ in service.answer(wish, EngineClient(NOBODY_LISTENS, "m", session)):
                    pass

            asking = asyncio.create_task(ask())
            await asyncio.to_thread(searching.wait, 10)
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asking

    async_to_sync(leave)()
    assert Reservation.objects.get(pk=wish.id).state == ReservationState.SETTLED
    assert used(block) == plan.nano_at(3.4)
