"""One step of rows asked of the engine: the right numbers in the right places, and nothing shared between rows."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import aiohttp
import numpy as np
import pytest
from asgiref.sync import async_to_sync

from fdrouter.errors import InvalidParameter, NodeFailed
from federation.engine import serve
from federation.node import scoring
from federation.node.engine import EngineRefused, EngineUnreachable
from federation.node.model import prepare_model
from federation.node.prompts import PromptBuilder
from federation.node.scoring import ScoringClient, fresh_salt
from privacy.dp.across_text import MOST_CANDIDATES
from tests.flows.harness import CACHE
from tests.node.likely import MODEL, Likely, document, log_probabilities

ROWS = [[1, 5, 9], [1, 5, 10], [1, 5, 9], [2]]
TOKENS = [40, 7, 300, 12]


@pytest.fixture(scope="module")
def prompts() -> PromptBuilder:
    return PromptBuilder(prepare_model(CACHE / "model"))


@pytest.fixture
def engine() -> Iterator[Likely]:
    found = Likely()
    yield found
    found.close()


@pytest.fixture
def call(engine: Likely, prompts: PromptBuilder) -> Callable[..., Any]:
    """Calls a method of a client of the engine."""

    def call(method: str, *arguments: Any, url: str | None = None) -> Any:
        async def run() -> Any:
            async with aiohttp.ClientSession() as session:
                client = ScoringClient(url or engine.url, MODEL, session, prompts=prompts)
                found: Awaitable[Any] = getattr(client, method)(*arguments)
                return await found

        return async_to_sync(run)()

    return call


def salts(count: int) -> list[str]:
    return [fresh_salt() for _ in range(count)]


def test_every_row_is_asked_for_exactly_these_tokens_in_their_order(engine: Likely, call: Callable[..., Any]) -> None:
    found = call("at", ROWS, TOKENS, salts(4))
    expected = np.array([log_probabilities(row)[TOKENS] for row in ROWS])
    assert found.shape == (4, 4) and np.allclose(found, expected, atol=1e-12)
    assert {(b["path"], b["max_tokens"], b["temperature"], b["stream"]) for b in engine.rows} == {
        ("/v1/completions", 1, 0, False)
    }


def test_no_two_rows_share_a_cache_also_where_their_text_is_the_same(engine: Likely, call: Callable[..., Any]) -> None:
    call("at", ROWS, TOKENS, salts(4))
    used = [body["cache_salt"] for body in engine.rows]
    assert len(set(used)) == len(ROWS) == 4 and all(len(salt) >= 43 for salt in used)


def test_a_salt_for_every_row_is_needed(call: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match="shorter"):
        call("at", ROWS, TOKENS, salts(3))


def test_a_number_that_is_none_stays_none(engine: Likely, call: Callable[..., Any]) -> None:
    engine.reply = lambda body: document({40: None, 7: -1.0, 300: -9999.0, 12: -2.0})
    found = call("at", ROWS[:1], TOKENS, salts(1))
    assert math.isnan(found[0, 0]) and found[0, 1:].tolist() == [-1.0, -9999.0, -2.0]


@pytest.mark.parametrize(
    "told",
    [document({40: -1.0, 7: -1.0, 300: -1.0}), {"choices": []}, {"id": "x"}, {"choices": [{"logprobs": None}]},
     {"choices": [{"logprobs": {"top_logprobs": [{"token_id:x": -1.0}]}}]}, document({40: "much"})],
    ids=["left out", "no choice", "empty", "no numbers", "no id", "text"],
)  # fmt: skip
def test_an_answer_about_anything_else_is_a_failure(engine: Likely, call: Callable[..., Any], told: Any) -> None:
    engine.reply = lambda body: told
    with pytest.raises(NodeFailed):
        call("at", ROWS, TOKENS, salts(4))


def test_one_row_that_fails_fails_the_step(engine: Likely, call: Callable[..., Any]) -> None:
    engine.reply = lambda body: {"choices": []} if body["prompt"] == ROWS[3] else None
    with pytest.raises(NodeFailed):
        call("at", ROWS, TOKENS, salts(4))


def test_an_engine_that_refuses_or_is_not_there(engine: Likely, call: Callable[..., Any]) -> None:
    engine.status = 400
    with pytest.raises(EngineRefused):
        call("at", ROWS, TOKENS, salts(4))
    with pytest.raises(EngineUnreachable):
        call("at", ROWS, TOKENS, salts(4), url="http://127.0.0.1:1")


# --- the public row ---------------------------------------------------------------------------------------------------
def test_the_likeliest_tokens_come_in_their_order_without_reserved_ones(
    engine: Likely, call: Callable[..., Any], prompts: PromptBuilder
) -> None:
    row = log_probabilities([3, 4])
    reserved = prompts.reserved()[2]
    ranked = np.argsort(-row)[:MOST_CANDIDATES].tolist()
    swapped = [reserved if place == 1 else token for place, token in enumerate(ranked)]
    engine.reply = lambda body: document(
        {token: float(row[old]) for token, old in zip(swapped[::-1], ranked[::-1], strict=True)}
    )
    ids, values = call("likeliest", [3, 4], "s")
    assert ids == [ranked[0], *ranked[2:]] and reserved not in ids
    assert values == sorted(values, reverse=True) and len(values) == MOST_CANDIDATES - 1
    assert engine.heard[-1]["logprobs"] == MOST_CANDIDATES == serve.MAX_LOGPROBS


def test_a_public_row_that_came_with_too_little_is_asked_for_again(
    engine: Likely, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "_PAUSE", 0.001)
    told = iter([document({5: -1.0, 0: -9999.0}), document({n: math.nan for n in range(128)})])
    engine.reply = lambda body: next(told, None)
    ids, _ = call("likeliest", [3, 4], "s")
    assert len(engine.heard) == 3 and ids[0] == int(log_probabilities([3, 4]).argmax())
    engine.reply = lambda body: document({5: -1.0})
    with pytest.raises(NodeFailed):
        call("likeliest", [3, 4], "s")


def test_without_a_tokenizer_there_is_nothing_to_ask_with(engine: Likely) -> None:
    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            _ = ScoringClient(engine.url, MODEL, session).prompts

    with pytest.raises(InvalidParameter):
        asyncio.run(run())


@pytest.mark.parametrize("question", ["Why?", "What did patients on velorapine who were over eighty develop later?"])
def test_rows_fill_whole_blocks_but_for_their_last_token(prompts: PromptBuilder, question: str) -> None:
    usual = prompts.group(question, ["A short record."], 2)
    found = prompts.group(question, ["A short record.", "word " * 300], 3, block=32)
    assert {len(row) for row in (found.public, *found.private)} == {found.length}
    assert found.length % 32 == 1 and usual.length <= found.length < usual.length + 32
    assert found.shared == usual.shared and found.private[2] == found.public


def test_what_was_written_reads_on_from_its_beginning(prompts: PromptBuilder) -> None:
    tokens = prompts.tokenizer(" a dry cough", add_special_tokens=False).input_ids
    assert prompts.written("In our records,", tokens) == "In our records, a dry cough"
    assert prompts.written("In our records,", [*tokens, prompts.end_token]) == "In our records, a dry cough"
    assert prompts.written("In our records,", []) == "In our records,"
