"""What ends a node's part in a text of several hospitals, and what stays charged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async

from federation.models import NodeCall
from federation.node import calls, token_sums
from federation.node.prompts import PromptBuilder
from privacy.dp.across_text import plan_text_across
from privacy.models import Scope
from tests.federation.keys import ring
from tests.federation.writing.text import PLAN, QUESTION, ROSTER, Text, over, refused, used, whole
from tests.node.likely import Likely, document

pytestmark = pytest.mark.django_db(transaction=True)


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
