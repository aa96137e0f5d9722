"""One node's part in a text of several hospitals: its sums, its offers, and what it costs."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pytest_django import Settings

from federation import receipts
from federation.engine.serve import BLOCK_TOKENS
from federation.models import NodeCall
from federation.node import blocks, calls, search, token_sums
from federation.node.models import Patient
from privacy.dp.across_text import plan_text_across
from privacy.dp.decoding import UNITS
from privacy.models import Reservation, ReservationState, Scope
from tests.federation.keys import ring
from tests.federation.messages import actor, payload
from tests.federation.writing.text import ME, PLAN, QUESTION, ROSTER, Text, over, refused, used, whole
from tests.node.likely import Likely, document, log_probabilities

pytestmark = pytest.mark.django_db(transaction=True)


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
