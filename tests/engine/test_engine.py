"""The group-decoding plug-in and its client against a real vLLM server with the real model."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

import aiohttp
import pytest

from fdrouter.errors import NodeFailed, NodeTimeout
from federation.engine.group import KEY, GroupArguments, Role
from federation.engine.limits import ARRIVAL_SECONDS
from federation.node.engine import EngineClient, EngineRefused, GroupFailed, GroupSummary, Timeouts, Usage
from federation.node.model import SERVED_NAME
from federation.node.prompts import GroupPrompts, PromptBuilder, chart_messages
from privacy.dp.text_plan import TextPlan, plan_text

pytestmark = pytest.mark.engine

QUESTION = "Which side effect did velorapine cause?"
NAMES = "Adams Baker Costa Dietz Evans Fuchs Gomez Hertz Ivanov Jansen Kaya Lopez Moreau Nilsen Ortiz Petrov".split()
SHAPES = (
    "{0}, {1}. Velorapine 40 mg for {2} weeks, then a dry cough. Dose reduced to 20 mg and the cough resolved.",
    "{0}, {1}. Reports a dry cough {2} weeks after starting velorapine 40 mg. Dose reduced to 20 mg, cough gone.",
    "{0}, {1}. Dry cough on velorapine 40 mg in week {2}, chest film normal. Dose reduced to 20 mg with relief.",
)


def notes(count: int) -> list[str]:
    return [SHAPES[i % 3].format(NAMES[i % 16], 40 + i * 7 % 41, 2 + i % 5) for i in range(count)]


def small_plan(tokens: int = 4) -> TextPlan:
    return plan_text(epsilon=10, contexts=24, max_tokens=tokens)


class Group:
    """A group's two requests, sent by hand so that they can be late, missing or broken off."""

    def __init__(self, url: str, session: aiohttp.ClientSession, prompts: PromptBuilder, plan: TextPlan) -> None:
        self.url, self.session, self.prompts, self.plan = url, session, prompts, plan
        self.rows: GroupPrompts = prompts.group(QUESTION, notes(plan.contexts), plan.contexts)
        self.gid = secrets.token_hex(16)

    def body(self, role: Role, **changes: Any) -> dict[str, Any]:
        arguments = GroupArguments.of_plan(
            self.plan,
            gid=self.gid,
            role=role,
            n=self.plan.contexts + 1,
            marker=self.prompts.marker(),
            shared=self.rows.shared,
            reserved=self.prompts.reserved(),
        )
        return {
            "model": SERVED_NAME,
            "prompt": self.rows.public if role == "public" else self.rows.private,
            "max_tokens": self.plan.max_tokens,
            "temperature": 0,
            "stop_token_ids": [self.prompts.marker()],
            "return_token_ids": True,
            "vllm_xargs": {KEY: arguments.encode()},
            **changes,
        }

    async def send(self, body: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
        async with self.session.post(f"{self.url}/v1/completions", json=body) as response:
            return response.status, (await response.json()).get("choices", [])


async def collect(stream: Any) -> tuple[str, Any]:
    text, last = "", None
    async for item in stream:
        if isinstance(item, str):
            text += item
        else:
            last = item
    return text, last


@pytest.fixture
def group(engine_url: str, session: aiohttp.ClientSession, prompts: PromptBuilder) -> Group:
    return Group(engine_url, session, prompts, small_plan())


async def test_chat_streams_and_counts(client: EngineClient) -> None:
    assert await client.healthy()
    text, usage = await collect(client.chat([{"role": "user", "content": "What is hypertension?"}], max_tokens=12))
    assert text
    assert isinstance(usage, Usage)
    assert usage.completion_tokens == 12
    assert usage.finish_reason == "length"


async def test_chart_question_reads_the_record(client: EngineClient) -> None:
    messages = chart_messages("Which drug does the patient take?", "The patient takes velorapine 40 mg every day.")
    text, _ = await collect(client.chat(messages, max_tokens=24, temperature=0.0))
    assert "velorapine" in text.lower()


async def test_all_rows_get_the_same_tokens(group: Group) -> None:
    (status, public), (_, private) = await asyncio.gather(
        group.send(group.body("public")), group.send(group.body("private"))
    )
    assert status == 200
    assert len(private) == group.plan.contexts
    assert 1 <= len(public[0]["token_ids"]) <= group.plan.max_tokens
    assert {tuple(choice["token_ids"]) for choice in private} == {tuple(public[0]["token_ids"])}
    assert not set(public[0]["token_ids"]) & set(group.prompts.reserved())


async def test_group_beside_ordinary_traffic(client: EngineClient) -> None:
    chats = [
        collect(client.chat([{"role": "user", "content": f"Count to {n}."}], max_tokens=10, temperature=0.0))
        for n in range(5, 8)
    ]
    alone = [await collect(client.chat([{"role": "user", "content": "Count to 5."}], max_tokens=10, temperature=0.0))]
    decoded, *beside = await asyncio.gather(collect(client.decode_group(QUESTION, notes(20), small_plan(6))), *chats)
    assert isinstance(decoded[1], GroupSummary)
    assert 1 <= decoded[1].tokens <= 6
    assert decoded[0].startswith("In our records,")
    assert beside[0][0] == alone[0][0]  # a group leaves an ordinary row's tokens alone


async def test_many_groups_and_chats_at_once(client: EngineClient) -> None:
    groups = [collect(client.decode_group(QUESTION, notes(count), small_plan())) for count in (20, 24, 3)]
    chats = [collect(client.chat([{"role": "user", "content": "Hi"}], max_tokens=8)) for _ in range(3)]
    answers = await asyncio.gather(*groups, *chats)
    assert all(isinstance(summary, GroupSummary) for _, summary in answers[:3])
    assert all(isinstance(usage, Usage) for _, usage in answers[3:])


async def test_a_group_that_takes_too_long_is_ended(
    engine_url: str, session: aiohttp.ClientSession, prompts: PromptBuilder, client: EngineClient
) -> None:
    hasty = EngineClient(engine_url, SERVED_NAME, session, prompts=prompts, timeouts=Timeouts(total=0.3))
    with pytest.raises(NodeTimeout):
        await collect(hasty.decode_group(QUESTION, notes(24), small_plan(8)))
    _, summary = await collect(client.decode_group(QUESTION, notes(24), small_plan()))  # nothing of it is in the way
    assert isinstance(summary, GroupSummary)


async def test_a_member_that_leaves_ends_the_group(
    engine_url: str, session: aiohttp.ClientSession, prompts: PromptBuilder
) -> None:
    group = Group(engine_url, session, prompts, plan_text(epsilon=10, contexts=64, max_tokens=48))
    private = asyncio.create_task(group.send(group.body("private")))
    async with session.post(f"{engine_url}/v1/completions", json=group.body("public", stream=True)) as response:
        async for line in response.content:
            if line.startswith(b"data:"):
                break  # the group is decoding; now the public row's client goes away
    status, choices = await asyncio.wait_for(private, 60)
    assert status == 200
    assert {choice["finish_reason"] for choice in choices} == {"abort"}
    assert len({tuple(choice["token_ids"]) for choice in choices}) == 1
    assert len(choices[0]["token_ids"]) < group.plan.max_tokens


async def test_a_half_arrived_group_is_given_up(group: Group) -> None:
    began = time.monotonic()
    status, choices = await asyncio.wait_for(group.send(group.body("public")), ARRIVAL_SECONDS + 30)
    assert status == 200
    assert choices[0]["finish_reason"] == "abort"
    assert not choices[0]["token_ids"]
    assert time.monotonic() - began >= ARRIVAL_SECONDS - 1
    # The late rest cannot join a group that was given up, nor can its name be used again.
    _, late = await group.send(group.body("private"))
    assert {choice["finish_reason"] for choice in late} == {"abort"}


async def test_the_client_reports_a_group_that_failed(
    engine_url: str, session: aiohttp.ClientSession, prompts: PromptBuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("federation.node.engine.secrets.token_hex", lambda _: "0" * 32)
    client = EngineClient(engine_url, SERVED_NAME, session, prompts=prompts)
    with pytest.raises(GroupFailed) as failed:  # the second use of a name is refused by the engine
        for _ in range(2):
            await collect(client.decode_group(QUESTION, notes(4), small_plan()))
    assert failed.value.details["tokens"] == 0


async def test_a_member_that_asks_for_more_is_refused(group: Group) -> None:
    changes: tuple[dict[str, Any], ...] = (
        {"logprobs": 5},
        {"max_tokens": 9},
        {"n": 2},
        {"logit_bias": {"5": 3.0}},
        {"stop_token_ids": []},
        {"vllm_xargs": {KEY: "{}"}},
        {"vllm_xargs": {KEY: "no json"}},
    )
    for change in changes:
        status, _ = await group.send(group.body("public", **change))
        assert status == 400, change
    dearer = GroupArguments.decode(group.body("public")["vllm_xargs"][KEY])
    body = group.body("public")
    body["vllm_xargs"] = {KEY: dearer.encode().replace('"clip":', '"clip":1')}  # a clip ten times as wide
    status, _ = await group.send(body)
    assert status == 400


async def test_closing_the_iterator_frees_the_engine(client: EngineClient) -> None:
    stream = client.decode_group(QUESTION, notes(24), small_plan(8))
    async for _ in stream:
        break
    await stream.aclose()  # type: ignore[attr-defined]
    text, _ = await asyncio.wait_for(collect(client.chat([{"role": "user", "content": "Hi"}], max_tokens=4)), 30)
    assert text


async def test_engine_errors_are_translated(
    session: aiohttp.ClientSession, prompts: PromptBuilder, engine_url: str
) -> None:
    nobody = EngineClient("http://127.0.0.1:9", SERVED_NAME, session, prompts=prompts)
    assert not await nobody.healthy()
    with pytest.raises(NodeFailed):
        await collect(nobody.chat([{"role": "user", "content": "Hi"}]))
    with pytest.raises(NodeFailed):
        await collect(nobody.decode_group(QUESTION, notes(4), small_plan()))
    with pytest.raises(EngineRefused):
        await collect(EngineClient(engine_url, "unknown", session).chat([{"role": "user", "content": "Hi"}]))
    hasty = EngineClient(engine_url, SERVED_NAME, session, timeouts=Timeouts(total=0.05))
    with pytest.raises(NodeTimeout):
        await collect(hasty.chat([{"role": "user", "content": "Hi"}], max_tokens=200))


async def test_the_planted_fact_is_found(client: EngineClient) -> None:
    """At epsilon 10 the side effect comes out in most answers; the odd record's never does."""
    odd = "Marsh, 33. Velorapine 40 mg caused purple fingernails. Velorapine was stopped and she was sent to Zurich."
    plan = plan_text(epsilon=10, contexts=64, max_tokens=20)
    answers = [(await collect(client.decode_group(QUESTION, [odd, *notes(63)], plan)))[0].lower() for _ in range(3)]
    assert sum("cough" in answer for answer in answers) >= 1, answers
    assert not any(word in answer for answer in answers for word in ("purple", "fingernail", "zurich", "marsh"))
