"""A record moves no other row, bit for bit, in the real engine: every row's logits are written down inside it.

What decides a row's bits besides its own tokens is the shape of the batch: which kernel multiplies so many rows, and
how attention cuts the work. A group's shape does not depend on what is in a record (fixed length, members admitted and
decoded together), so two runs are compared that had the same shape in every step. Ordinary requests come when they
come; where they run beside, a run is repeated until its shape is the other's. See docs/adr/0016.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from benchmarks.decoding.server import engine
from federation.engine.group import KEY, GroupArguments, Role
from federation.node.model import SERVED_NAME, prepare_model
from federation.node.prompts import GroupPrompts, PromptBuilder
from privacy.dp.text_plan import plan_text
from tests.engine.digests import FILE, digest_of
from tests.flows.harness import CACHE

pytestmark = pytest.mark.engine

QUESTION = "Which side effect did velorapine cause?"
CONTEXTS = 8
TOKENS = 4
TRIES = 8
REPLACED = 3
NOTES = [
    f"Patient {index}, {40 + index} years. Velorapine 40 mg for {index + 2} weeks, then a dry cough. Dose reduced."
    for index in range(CONTEXTS)
]
OTHERS = {"another note": "Marsh, 33. Purple fingernails, sent to Zurich.", "nothing": "", "too much": "cough! " * 400}


@dataclass(frozen=True)
class Seen:
    """What one group's rows looked like: ``logits[i]`` are the digests of row i (0 is public), step after step."""

    logits: list[list[str]]
    shape: list[list[tuple[int, int, int]]]


class Observed:
    """An engine whose logits processor writes down what it sees, and never draws."""

    def __init__(self, url: str, file: Path, prompts: PromptBuilder) -> None:
        self.url, self.file, self.prompts = url, file, prompts

    def rows(self, notes: Sequence[str], question: str = QUESTION) -> GroupPrompts:
        return self.prompts.group(question, notes, CONTEXTS)

    def _body(self, rows: GroupPrompts, gid: str, role: Role) -> dict[str, Any]:
        plan, marker = plan_text(epsilon=10, contexts=64, max_tokens=TOKENS), self.prompts.marker()
        # The end token is reserved: every run has all of its steps.
        reserved = tuple(sorted({*self.prompts.reserved(), self.prompts.end_token}))
        arguments = GroupArguments.of_plan(
            plan, gid=gid, role=role, n=CONTEXTS + 1, marker=marker, shared=rows.shared, reserved=reserved
        )
        return {
            "model": SERVED_NAME,
            "prompt": rows.public if role == "public" else rows.private,
            "max_tokens": TOKENS,
            "temperature": 0,
            "stop_token_ids": [marker],
            "vllm_xargs": {KEY: arguments.encode()},
        }

    async def _send(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> None:
        async with session.post(f"{self.url}/v1/completions", json=body) as response:
            assert response.status == 200
            assert {choice["finish_reason"] for choice in (await response.json())["choices"]} == {"length"}

    async def groups(self, session: aiohttp.ClientSession, *given: GroupPrompts) -> list[Seen]:
        """Has the groups decoded at once."""
        self.file.write_text("")
        bodies = [
            self._body(rows, gid, role)
            for rows, gid in [(rows, secrets.token_hex(16)) for rows in given]
            for role in ("private", "public")
        ]
        await asyncio.gather(*(self._send(session, body) for body in bodies))
        lines = defaultdict(list)
        for text in self.file.read_text().splitlines():
            line = json.loads(text)
            lines[line["prompt"]].append(line)
        found = []
        for rows in given:
            own = [lines[digest_of(prompt)] for prompt in (rows.public, *rows.private)]
            assert all(len(steps) >= TOKENS for steps in own), "a row was not seen"
            shape = [[(step["row"], step["rows"], step["produced"]) for step in steps] for steps in own]
            found.append(Seen([[step["logits"] for step in steps] for steps in own], shape))
        return found

    @asynccontextmanager
    async def chats(self, session: aiohttp.ClientSession, count: int) -> AsyncIterator[None]:
        """Ordinary requests that decode beside whatever happens inside."""

        async def chat(number: int, begun: asyncio.Event) -> None:
            body = {"model": SERVED_NAME, "prompt": f"{number} times the heart is", "max_tokens": 1500, "stream": True}
            async with session.post(f"{self.url}/v1/completions", json={**body, "ignore_eos": True}) as response:
                async for _ in response.content:
                    begun.set()

        events = [asyncio.Event() for _ in range(count)]
        running = [asyncio.create_task(chat(number, event)) for number, event in enumerate(events)]
        try:
            await asyncio.gather(*(event.wait() for event in events))
            yield
        finally:
            for task in running:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    folder = tmp_path_factory.mktemp("observed")
    model = prepare_model(CACHE / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FILE, str(folder / "rows.jsonl"))
        options = ["--logits-processors", "tests.engine.observed:ObservedLogits"]
        with engine(model, folder / "log", options) as url:
            yield Observed(url, folder / "rows.jsonl", PromptBuilder(model))


def replaced(note: str) -> list[str]:
    return [note if index == REPLACED else usual for index, usual in enumerate(NOTES)]


def differing(one: Seen, other: Seen) -> set[int]:
    """Rows with another bit in any step; the public row is 0."""
    return {row for row, (a, b) in enumerate(zip(one.logits, other.logits, strict=True)) if a != b}


async def test_a_record_moves_no_other_row_of_its_group(observed: Observed, session: aiohttp.ClientSession) -> None:
    usual = observed.rows(NOTES)
    await observed.groups(session, usual)  # the shared beginning is in the cache from here on
    (first,), (again,) = await observed.groups(session, usual), await observed.groups(session, usual)
    assert first.shape == again.shape and not differing(first, again)
    for name, note in OTHERS.items():
        (changed,) = await observed.groups(session, observed.rows(replaced(note)))
        assert changed.shape == first.shape, name
        assert differing(first, changed) == {REPLACED + 1}, name


@pytest.mark.parametrize("count", [1, 3])
async def test_nor_beside_ordinary_requests(observed: Observed, session: aiohttp.ClientSession, count: int) -> None:
    usual, other = observed.rows(NOTES), observed.rows(replaced(OTHERS["another note"]))
    async with observed.chats(session, count):
        (first,) = await observed.groups(session, usual)
        for _ in range(TRIES):
            (changed,) = await observed.groups(session, other)
            if changed.shape == first.shape:
                break
        assert changed.shape == first.shape, "no two runs of one shape"
        assert differing(first, changed) == {REPLACED + 1}


async def test_nor_of_another_group(observed: Observed, session: aiohttp.ClientSession) -> None:
    mine, others = observed.rows(NOTES), observed.rows(replaced(OTHERS["too much"]))
    yours = observed.rows([f"{note} No other complaint." for note in NOTES], "What was reduced?")
    await observed.groups(session, mine, yours)
    seen = [await observed.groups(session, mine, yours) for _ in range(TRIES)]
    for _ in range(TRIES):
        changed = await observed.groups(session, others, yours)
        same = next((s for s in seen if [g.shape for g in s] == [g.shape for g in changed]), None)
        if same is not None:
            break
    assert same is not None, "no two runs of one shape"
    assert differing(same[0], changed[0]) == {REPLACED + 1}
    assert not differing(same[1], changed[1])
