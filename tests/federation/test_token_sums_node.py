"""One node's part in a text of several hospitals: its sums, what it refuses, how a session ends and what it costs."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from pytest_django import Settings

from federation import receipts
from federation.engine.serve import BLOCK_TOKENS
from federation.models import NodeCall
from federation.node import blocks, calls, search, service, token_sums
from federation.node.calls import Message
from federation.node.demo_records import build
from federation.node.ingest import ingest
from federation.node.model import prepare_model
from federation.node.models import Patient
from federation.node.prompts import PromptBuilder
from federation.node.scoring import ScoringClient
from privacy.dp.across_text import TextAcrossPlan, plan_text_across
from privacy.dp.decoding import UNITS
from privacy.models import Reservation, ReservationState, Scope
from tests.federation.keys import ring
from tests.federation.messages import actor, payload
from tests.flows.harness import CACHE
from tests.node.likely import MODEL, Likely, document, log_probabilities
from tests.privacy.ledger.books import audit

pytestmark = pytest.mark.django_db(transaction=True)

PLAN = plan_text_across(hospitals=2, epsilon=3.0, contexts=40, max_tokens=4)
QUESTION = "Which side effect did patients on velorapine develop?"
ME, PEER = "northfield", "lakeside"
ROSTER = [[name, ring().identity(name).public.key_id] for name in (PEER, ME)]


@pytest.fixture(autouse=True)
def node(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    settings.NODE_ID = settings.HOSPITAL_ID = ME
    settings.IDENTITY_DIR, settings.WRITE_TOGETHER = ring().folder(ME), True
    monkeypatch.setattr(service, "SLOT_SECONDS", 0.01)
    yield
    token_sums._sessions.clear()


@pytest.fixture(scope="module")
def prompts() -> PromptBuilder:
    return PromptBuilder(prepare_model(CACHE / "model"))


@pytest.fixture
def engine() -> Iterator[Likely]:
    found = Likely()
    yield found
    found.close()


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    build.build_small(folder, ME)
    return folder


@pytest.fixture
def patients(records: Path, settings: Settings) -> None:
    ingest(records)


@pytest.fixture
def block(db: None, settings: Settings) -> Iterator[Scope]:
    yield blocks.create(ME, ME, epsilon=10.0, delta=1e-5)
    audit()


@dataclass
class Text:
    """What the coordinator would send about one text. ``heard`` is the node's last word."""

    engine: Likely
    prompts: PromptBuilder
    plan: TextAcrossPlan = PLAN
    id: uuid.UUID = field(default_factory=uuid.uuid4)
    changes: dict[str, Any] = field(default_factory=dict)

    def message(self, phase: str, **across: Any) -> Message:
        body = payload(
            messages=[{"role": "user", "content": QUESTION}],
            parameters=json.loads(json.dumps(self.plan.to_event())),
            across={"phase": phase, "roster": ROSTER, **across},
        )
        return calls.parse(str(self.id), body | self.changes)

    async def events(self, message: Message) -> AsyncIterator[dict[str, Any]]:
        async with aiohttp.ClientSession() as session:
            client = ScoringClient(self.engine.url, MODEL, session, prompts=self.prompts)
            async with aclosing(token_sums.answer(message, client)) as events:  # type: ignore[type-var]
                async for event in events:
                    yield event

    async def say(self, phase: str, **across: Any) -> dict[str, Any]:
        return [event async for event in self.events(self.message(phase, **across))][-1]

    def tell(self, phase: str, **across: Any) -> dict[str, Any]:
        return async_to_sync(self.say)(phase, **across)

    def begin(self) -> list[int]:
        """Offer and first sums; returns the candidates of the first token."""
        assert self.tell("offer")["type"] == "offer"
        ids: list[int] = self.tell("public", tokens=[])["ids"]
        assert self.tell("sums", tokens=[], candidates=ids)["type"] == "step"
        return ids


@pytest.fixture
def text(engine: Likely, prompts: PromptBuilder) -> Text:
    return Text(engine, prompts)


@pytest.fixture
def another(engine: Likely, prompts: PromptBuilder) -> Callable[..., Text]:
    return lambda **values: Text(engine, prompts, **values)


def used(block: Scope) -> int:
    block.refresh_from_db()
    return block.used


def whole(block: Scope) -> int:
    return PLAN.nano_at(block.alpha or 0)


def refused(told: dict[str, Any], code: str = "invalid_parameter", *, charged: bool) -> None:
    assert (told["type"], told["code"], told["charged"]) == ("error", code, charged), told


def over(text: Text) -> None:
    """Nothing more is given for this session, whatever is asked."""
    for phase in ("sums", "public", "finish"):
        told = text.tell(phase, tokens=[], candidates=[105])
        assert (told["type"], told["code"]) == ("error", "conflict")
    assert NodeCall.objects.get(pk=text.id).state == "failed"


# --- what a node gives ------------------------------------------------------------------------------------------------
def test_a_hospital_that_did_not_say_so_takes_no_part(text: Text, block: Scope, settings: Settings) -> None:
    settings.WRITE_TOGETHER = False
    told = text.tell("offer")
    assert (told["code"], told["charged"]) == ("invalid_parameter", False)
    assert "does not write texts together" in told["details"]["why"]


def test_hospitals_that_the_operator_has_not_pinned_are_refused(text: Text, block: Scope) -> None:
    """A coordinator could invent them, so that this hospital alone fills the sums."""
    for roster in ([ROSTER[0], ["zenith", "ab" * 32]], [["aaa", ROSTER[0][1]], ROSTER[1]]):
        told = text.tell("offer", roster=[list(member) for member in roster])
        assert (told["type"], told["code"], told["charged"]) == ("error", "invalid_parameter", False)


def test_an_offer_reserves_and_reads_nothing(text: Text, block: Scope, engine: Likely) -> None:
    told = text.tell("offer")
    assert told["type"] == "offer" and len(told["session"]) == 64
    assert used(block) == whole(block) and not engine.heard
    assert Reservation.objects.get(pk=text.id).state == ReservationState.RESERVED
    public = text.tell("public", tokens=[])
    assert public["text"].startswith("In our records") and len(public["ids"]) > 100
    refused(text.tell("abort"), "cancelled", charged=False)
    assert used(block) == 0


@pytest.mark.parametrize("contexts", [40, 200], ids=["full", "with empty slots"])
def test_the_sums_are_those_of_its_best_patients(
    another: Callable[..., Text], patients: None, block: Scope, engine: Likely, contexts: int
) -> None:
    plan = plan_text_across(hospitals=2, epsilon=3.0, contexts=contexts, max_tokens=4)
    text = another(plan=plan)
    hits = search.top_patients(QUESTION, [1], limit=plan.slots)
    assert len(hits) == plan.slots if contexts == 40 else 20 < len(hits) < plan.slots
    rows = text.prompts.group(QUESTION, [hit.excerpt for hit in hits], plan.slots, block=BLOCK_TOKENS)
    text.tell("offer")
    written: list[int] = []
    for _ in range(2):
        public = text.tell("public", tokens=written)
        expected = log_probabilities([*rows.public, *written])
        assert public["values"] == pytest.approx(expected[public["ids"]].tolist())
        told = text.tell("sums", tokens=written, candidates=public["ids"])
        of_rows = np.array([log_probabilities([*row, *written])[public["ids"]] for row in rows.private[: len(hits)]])
        assert told["sums"] == plan.mechanism.parts(expected[public["ids"]], of_rows).sum(axis=0).tolist()
        written = [*written, public["ids"][3]]


def test_every_row_is_computed_alike_whoever_is_in_it(
    another: Callable[..., Text], patients: None, block: Scope, engine: Likely
) -> None:
    """The same number of rows of the same length in every step, each with one salt of its own all along."""
    text = another(plan=plan_text_across(hospitals=2, epsilon=3.0, contexts=200, max_tokens=4))
    ids = text.begin()
    first = list(engine.rows)
    text.tell("public", tokens=ids[:1])
    text.tell("sums", tokens=ids[:1], candidates=ids[:9])
    second = engine.rows[len(first) :]
    assert len(first) == len(second) == text.plan.slots + 1
    assert len({len(body["prompt"]) for body in first}) == len({len(body["prompt"]) for body in second}) == 1
    salts = [{body["cache_salt"]: body["prompt"] for body in step} for step in (first, second)]
    assert len(salts[0]) == len(first) and set(salts[0]) == set(salts[1])
    assert all(salts[1][salt] == [*prompt, ids[0]] for salt, prompt in salts[0].items())
    assert len(first[0]["prompt"]) % BLOCK_TOKENS == 1, "all but the last token of a row fill whole blocks"
    public = next(body for body in engine.heard if "logprob_token_ids" not in body)
    assert sum(body["prompt"] == public["prompt"] for body in first) > 1, "empty slots are computed, too"


def test_a_session_shares_no_salt_with_another(
    another: Callable[..., Text], patients: None, block: Scope, engine: Likely
) -> None:
    another().begin()
    first = {body["cache_salt"] for body in engine.rows}
    another().begin()
    assert len({body["cache_salt"] for body in engine.rows}) == 2 * len(first)


def test_another_record_moves_its_own_row_alone(
    another: Callable[..., Text], patients: None, block: Scope, engine: Likely
) -> None:
    plan = plan_text_across(hospitals=2, epsilon=3.0, contexts=200, max_tokens=4)
    ids = list(range(100, 164))
    sums, asked = [], []
    for change in (False, True):
        if change:
            patient = Patient.objects.get(reference=search.top_patients(QUESTION, [1], limit=5)[2].reference)
            lines = [patient.lines[0], "Velorapine: the patient developed a side effect nobody else has."]
            Patient.objects.filter(pk=patient.pk).update(lines=lines)
        text, before = another(plan=plan), len(engine.rows)
        text.tell("offer")
        sums.append(text.tell("sums", tokens=[], candidates=ids)["sums"])
        asked.append(sorted(body["prompt"] for body in engine.rows[before:]))
    left, right = ([p for p in asked[n] if p not in asked[1 - n]] for n in (0, 1))
    assert len(left) == len(right) == 1 and left != right
    moved = [abs(a - b) for a, b in zip(*sums, strict=True)]
    assert 0 < max(moved) <= 2 * UNITS


def test_a_hospital_without_such_patients_gives_zeros_for_the_same_price(
    text: Text, block: Scope, engine: Likely
) -> None:
    text.tell("offer")
    several = iter(range(1, 1000))
    engine.reply = lambda body: document({105: -float(next(several)), 106: -1.0})
    told = text.tell("sums", tokens=[], candidates=[105, 106])
    assert told["sums"] == [0, 0], "whatever the engine makes of a slot that nobody is in"
    assert used(block) == whole(block) and len(engine.rows) == PLAN.slots + 1


def test_a_finished_text_is_settled_at_its_tokens_and_signed(text: Text, patients: None, block: Scope) -> None:
    ids = text.begin()
    text.tell("sums", tokens=ids[:1], candidates=ids)
    told = text.tell("finish", tokens=ids[:2])
    assert told["type"] == "answer" and told["finish_reason"] == "length" and told["completion_tokens"] == 2
    signed = json.loads(told["text"])
    assert signed["tokens"] == ids[:2] and signed["text"] == text.prompts.written("In our records,", ids[:2])
    body = told["receipt"]["body"]
    assert body["mechanism"]["name"] == "text_across" and body["tokens"] == 2
    assert body["mechanism"]["rho_spent"] == PLAN.rho_of(2)
    assert receipts.covers(told["receipt"], ring().identity(ME).public, message_id=str(text.id), answer=told["text"])
    assert used(block) == -(-whole(block) // 2) and not token_sums._sessions


def test_what_was_finished_is_said_again_as_it_was(text: Text, patients: None, block: Scope) -> None:
    ids = text.begin()
    told, paid = text.tell("finish", tokens=ids[:1]), used(block)
    again = text.tell("finish", tokens=ids[:1])
    assert (again["text"], again["receipt"]) == (told["text"], told["receipt"]) and used(block) == paid
    refused(text.tell("sums", tokens=ids[:1], candidates=ids), "conflict", charged=True)
    refused(text.tell("offer"), "conflict", charged=True)
    refused(text.tell("abort"), "cancelled", charged=True)


def test_the_end_token_ends_it(text: Text, patients: None, block: Scope) -> None:
    text.tell("offer")
    end = text.prompts.end_token
    text.tell("sums", tokens=[], candidates=[105, end])
    told = text.tell("finish", tokens=[end])
    assert told["finish_reason"] == "stop" and json.loads(told["text"])["text"] == "In our records,"


# --- what ends a session ----------------------------------------------------------------------------------------------
def test_a_token_is_summed_once(text: Text, patients: None, block: Scope) -> None:
    ids = text.begin()
    refused(text.tell("sums", tokens=[], candidates=ids), "conflict", charged=True)
    over(text)
    assert used(block) == whole(block)


def test_a_public_row_of_a_token_that_was_summed_is_out_of_order(text: Text, patients: None, block: Scope) -> None:
    text.begin()
    refused(text.tell("public", tokens=[]), "conflict", charged=True)
    over(text)


WRONG_TOKENS: dict[str, Callable[[list[int]], Any]] = {
    "no candidate": lambda ids: [next(n for n in range(1000) if n not in ids)],
    "two at once": lambda ids: [ids[0], ids[1]],
    "none": lambda ids: None,
    "text": lambda ids: [str(ids[0])],
    "number": lambda ids: [float(ids[0])],
    "nested": lambda ids: [[ids[0]]],
    "not a list": lambda ids: {"0": ids[0]},
}


@pytest.mark.parametrize("phase", ["sums", "public", "finish"])
@pytest.mark.parametrize("case", WRONG_TOKENS)
def test_tokens_that_do_not_follow_end_it(text: Text, patients: None, block: Scope, phase: str, case: str) -> None:
    ids = text.begin()
    refused(text.tell(phase, tokens=WRONG_TOKENS[case](ids), candidates=ids), charged=True)
    over(text)
    assert used(block) == whole(block)


def test_what_was_written_cannot_be_changed(text: Text, patients: None, block: Scope) -> None:
    ids = text.begin()
    text.tell("sums", tokens=ids[:1], candidates=ids)
    refused(text.tell("sums", tokens=[ids[1], ids[2]], candidates=ids), charged=True)
    over(text)


@pytest.mark.parametrize(
    "candidates",
    [None, [], "105", [105, 105], [105, "106"], [105, 106.0], [True], [-1], [10**6], [*range(100, 229)], [[105]],
     [2**70], [105, None]],
    ids=["none", "empty", "text", "twice", "a text", "a float", "truth", "negative", "unknown", "129", "nested", "huge",
         "a none"],
)  # fmt: skip
def test_candidates_that_are_no_tokens_end_it_unread(
    text: Text, patients: None, block: Scope, engine: Likely, candidates: Any
) -> None:
    text.tell("offer")
    refused(text.tell("sums", tokens=[], candidates=candidates), charged=False)
    over(text)
    assert used(block) == 0 and not engine.heard


def test_a_reserved_token_is_no_candidate(text: Text, block: Scope, prompts: PromptBuilder) -> None:
    text.tell("offer")
    refused(text.tell("sums", tokens=[], candidates=[105, prompts.reserved()[0]]), charged=False)


def test_no_more_sums_than_tokens_were_planned(text: Text, patients: None, block: Scope) -> None:
    ids, written = text.begin(), []
    for _ in range(PLAN.max_tokens - 1):
        written.append(ids[2])
        assert text.tell("sums", tokens=written, candidates=ids)["type"] == "step"
    refused(text.tell("sums", tokens=[*written, ids[2]], candidates=ids), charged=True)
    over(text)
    assert used(block) == whole(block)


def test_nothing_is_summed_after_the_end(text: Text, patients: None, block: Scope) -> None:
    text.tell("offer")
    end = text.prompts.end_token
    text.tell("sums", tokens=[], candidates=[105, end])
    refused(text.tell("sums", tokens=[end], candidates=[105]), charged=True)
    over(text)


def test_nothing_is_signed_of_which_nothing_was_written(text: Text, block: Scope) -> None:
    text.tell("offer")
    refused(text.tell("finish", tokens=[]), charged=False)
    over(text)


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "user", "content": "Which side effect did patients on tamurexin develop?"}]},
        {"purpose": "HRESCH"},
        {"request_digest": "cd" * 32},
        {"model": "another"},
        {"parameters": json.loads(json.dumps(plan_text_across(hospitals=2, contexts=64, max_tokens=4).to_event()))},
        {"across": {"roster": [["hillcrest", ring().identity("hillcrest").public.key_id], ROSTER[1]]}},
    ],
    ids=["question", "purpose", "request", "model", "plan", "roster"],
)
def test_what_was_offered_is_what_is_written(
    text: Text, another: Callable[..., Text], patients: None, block: Scope, change: dict[str, Any]
) -> None:
    ids = text.begin()
    if "across" in change:
        told = text.tell("sums", tokens=ids[:1], candidates=ids, **change["across"])
    else:
        told = another(id=text.id, changes=change).tell("sums", tokens=ids[:1], candidates=ids)
    refused(told, charged=True)
    over(text)


@pytest.mark.parametrize("phase", ["", "sum", "reveal"])
def test_another_step_ends_it(text: Text, block: Scope, phase: str) -> None:
    text.tell("offer")
    refused(text.tell(phase, tokens=[]), charged=False)
    over(text)


def test_an_engine_that_fails_ends_it_and_the_cost_stays(
    text: Text, patients: None, block: Scope, engine: Likely
) -> None:
    text.tell("offer")
    engine.reply = lambda body: document({1: -1.0})
    refused(text.tell("sums", tokens=[], candidates=[105, 106]), "node_failed", charged=True)
    engine.reply = lambda body: None
    over(text)
    assert used(block) == whole(block)


def test_a_coordinator_that_leaves_in_the_middle_of_a_step_ends_it(
    text: Text, patients: None, block: Scope, engine: Likely
) -> None:
    async def leave() -> None:
        await text.say("offer")
        asked = asyncio.ensure_future(text.say("sums", tokens=[], candidates=[105, 106]))
        while not engine.rows and not asked.done():
            await asyncio.sleep(0.01)
        assert not asked.done()
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)

    async_to_sync(leave)()
    over(text)
    assert used(block) == whole(block)


def test_two_messages_at_once_end_it_and_one_token_has_at_most_one_sum(
    text: Text, patients: None, block: Scope, engine: Likely
) -> None:
    async def both() -> list[dict[str, Any]]:
        await text.say("offer")
        return list(
            await asyncio.gather(*(text.say("sums", tokens=[], candidates=[105, other]) for other in (106, 107)))
        )

    told = async_to_sync(both)()
    assert sum(event["type"] == "step" for event in told) == 0
    over(text)
    assert used(block) == (whole(block) if engine.rows else 0)


# --- time -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("begun", [False, True])
def test_a_session_that_nobody_goes_on_with_ends(
    text: Text, patients: None, block: Scope, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    """Unread it costs nothing, afterwards all of it."""
    monkeypatch.setattr(token_sums, "IDLE_SECONDS", 0.3)

    async def wait() -> None:
        await text.say("offer")
        if begun:
            await text.say("sums", tokens=[], candidates=[105, 106])
        assert text.id in token_sums._sessions
        while text.id in token_sums._sessions:
            await asyncio.sleep(0.05)
        while (await sync_to_async(NodeCall.objects.get)(pk=text.id)).state == "running":
            await asyncio.sleep(0.05)

    async_to_sync(wait)()
    assert NodeCall.objects.get(pk=text.id).code == "node_timeout"
    over(text)
    assert used(block) == (whole(block) if begun else 0)


def test_a_session_that_lasts_too_long_ends(
    text: Text, patients: None, block: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = text.begin()
    monkeypatch.setattr(token_sums._sessions[text.id], "until", 0.0)
    refused(text.tell("sums", tokens=ids[:1], candidates=ids), "conflict", charged=True)
    over(text)


def test_a_restart_ends_all_sessions_and_the_cost_stays(text: Text, patients: None, block: Scope) -> None:
    text.begin()
    token_sums._sessions.clear()  # the memory of the process
    assert calls.give_up_interrupted() == 1
    over(text)
    refused(text.tell("offer"), "conflict", charged=True)
    assert used(block) == whole(block)


def test_no_record_is_kept_in_memory_after_the_end(text: Text, patients: None, block: Scope) -> None:
    text.begin()
    session = token_sums._sessions[text.id]
    assert session.rows and "velorapine" not in repr(session).lower().replace(QUESTION.lower(), "")
    text.tell("abort")
    assert not session.rows and not session.salts


# --- offers -----------------------------------------------------------------------------------------------------------
def test_the_same_offer_again_is_the_same_until_a_record_was_read(text: Text, patients: None, block: Scope) -> None:
    told = text.tell("offer")
    assert text.tell("offer") == told and used(block) == whole(block)
    text.tell("sums", tokens=[], candidates=[105])
    refused(text.tell("offer"), "conflict", charged=True)
    over(text)


def test_policy_and_block_decide_before_anything(another: Callable[..., Text], engine: Likely, db: None) -> None:
    small = blocks.create(ME, ME, epsilon=0.5, delta=1e-5)
    refused(another().tell("offer"), "block_exhausted", charged=False)
    refused(another(changes={"actor": actor(role="nurse")}).tell("offer"), "policy_denied", charged=False)
    assert used(small) == 0 and not engine.heard


@pytest.mark.parametrize(
    "roster",
    [ROSTER[:1], [*ROSTER, ["zeta", "1"]], ROSTER[::-1], [ROSTER[1], ROSTER[1]], [ROSTER[0], [ME, "other keys"]],
     [ROSTER[0], ["zeta", "1"]], None, [], ["lakeside", "northfield"], [["lakeside"], ["northfield"]], "x"],
    ids=["one", "three", "order", "twice", "other keys", "not me", "none", "empty", "names", "short", "text"],
)  # fmt: skip
def test_a_roster_that_is_not_of_the_plan_with_this_node_is_refused(text: Text, block: Scope, roster: Any) -> None:
    refused(text.tell("offer", roster=roster), charged=False)
    assert used(block) == 0 and not NodeCall.objects.exists()


def test_a_question_that_is_too_long_or_an_engine_that_is_down_costs_nothing(
    another: Callable[..., Text], block: Scope, engine: Likely
) -> None:
    long = [{"role": "user", "content": "why " * 400}]
    refused(another(changes={"messages": long}).tell("offer"), charged=False)
    engine.close()
    refused(another().tell("offer"), "engine_unreachable", charged=False)
    assert used(block) == 0


def test_a_node_writes_only_so_many_texts_at_once(another: Callable[..., Text], block: Scope) -> None:
    plan = plan_text_across(hospitals=2, epsilon=1.0, contexts=200, max_tokens=4)
    for _ in range(token_sums.MOST_SESSIONS):
        assert another(plan=plan).tell("offer")["type"] == "offer"
    refused(another(plan=plan).tell("offer"), "dependency_unavailable", charged=False)
    assert used(block) == token_sums.MOST_SESSIONS * plan.nano_at(block.alpha or 0)


def test_a_plan_for_several_is_never_answered_alone_and_the_other_way_round() -> None:
    body = payload(parameters=json.loads(json.dumps(PLAN.to_event())))
    with pytest.raises(ValueError, match="another way"):
        calls.parse(str(uuid.uuid4()), body)
    with pytest.raises(ValueError, match="another way"):
        calls.parse(str(uuid.uuid4()), payload(across={"phase": "offer", "roster": ROSTER}))
    with pytest.raises(ValueError, match="another kind"):
        calls.parse(str(uuid.uuid4()), body | {"kind": "cohort.count", "across": {"phase": "offer"}})
