"""The two arms of the comparison, sent over HTTP the same way: one streamed row, and the others in one held request.

Both get the same prompts, made by the node's own :class:`PromptBuilder`; the group's members carry the arguments of a
plan, the plain rows ignore the end token. The end token is reserved in a group here, so that every answer has its whole
length. Clips are those that a plan of epsilon 3 would have with so few rows: records could not be heard, which is why
the product refuses such plans, but a step does the very same work.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import aiohttp

from federation.engine.group import KEY, GroupArguments, Role
from federation.node.model import SERVED_NAME
from federation.node.prompts import GroupPrompts, PromptBuilder
from privacy.dp.text_plan import plan_text

QUESTION = (
    "{name}: patients of more than sixty years with high blood pressure took velorapine 40 mg once a day, in the "
    "morning, for some weeks. Which side effect did velorapine cause, and what was done about it?"
)
NOTES = (
    "{0}-year-old. Velorapine 40 mg for {1} weeks, then a dry cough. Dose reduced to 20 mg and the cough resolved.",
    "{0}-year-old with a dry cough {1} weeks after starting velorapine 40 mg. Dose reduced to 20 mg, cough gone.",
    "{0}-year-old. Dry cough on velorapine 40 mg in week {1}, chest film normal. Dose reduced to 20 mg with relief.",
)
AHEAD_SECONDS = 0.5  # how long before the streamed row the others start, where only decoding is measured
LONGER = 300  # tokens that they could then go on after it; they are broken off
CHAT_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Timing:
    """One answer's streamed row, in seconds: from the first sending to its first token, and to the end of all rows.

    ``pace`` is its tokens per second after the first one, ``steps`` the seconds between its tokens.
    """

    first: float
    whole: float
    pace: float
    steps: tuple[float, ...]


class Arms:
    """Sends either arm to the engine at ``url``; every answer has ``tokens`` tokens."""

    def __init__(self, url: str, session: aiohttp.ClientSession, prompts: PromptBuilder, tokens: int) -> None:
        self._url, self._session, self._prompts, self._tokens = url, session, prompts, tokens
        self._plan = plan_text(epsilon=3.0)

    def rows(self, contexts: int, name: str) -> GroupPrompts:
        """Prompts about a question that nobody asked before if ``name`` is new."""
        texts = [NOTES[i % 3].format(60 + i, secrets.choice("23456789")) for i in range(contexts)]
        return self._prompts.group(QUESTION.format(name=name), texts, contexts)

    async def group(self, rows: GroupPrompts) -> Timing:
        """One private answer."""
        gid = secrets.token_hex(16)
        return await self._both(self._member(rows, gid, "public"), self._member(rows, gid, "private"))

    async def plain(self, rows: GroupPrompts, *, only_decoding: bool = False) -> Timing:
        """The same rows as ordinary requests. With ``only_decoding`` the streamed row comes last and ends first.

        So no other row's prompt falls between two of its tokens, and all rows decode beside it to the end; what they
        would still write is broken off.
        """
        streamed, held = self._plain(rows.public), self._plain(rows.private)
        if not only_decoding:
            return await self._both(streamed, held)
        held["max_tokens"] += LONGER
        others = asyncio.create_task(self._hold(held))
        await asyncio.sleep(AHEAD_SECONDS)
        began = time.perf_counter()
        times = await self._stream(streamed)
        if others.done():
            raise RuntimeError("the other rows ended first")
        others.cancel()
        await asyncio.wait({others})
        return self._timing(began, times)

    async def warm(self, rows: GroupPrompts) -> None:
        """Has the engine compute the plain arm's prompts, so that it finds them when they come again."""
        await self._hold({**self._plain([rows.public, *rows.private]), "max_tokens": 1})

    async def chatter(self, number: int) -> None:
        """Ordinary requests, one after the other, until cancelled."""
        text = f"Name {number + 3} organs of the human body."
        prompt = self._prompts.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
        )
        while True:
            await self._hold({**self._plain(prompt), "max_tokens": CHAT_TOKENS})

    def _plain(self, prompt: Any) -> dict[str, Any]:
        return {
            "model": SERVED_NAME,
            "prompt": prompt,
            "max_tokens": self._tokens,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": False,
        }

    def _member(self, rows: GroupPrompts, gid: str, role: Role) -> dict[str, Any]:
        plan, marker, contexts = self._plan, self._prompts.marker(), len(rows.private)
        arguments = GroupArguments(
            gid=gid,
            role=role,
            n=contexts + 1,
            tokens=self._tokens,
            contexts=contexts,
            # Swap: a token costs rho = 2 C^2 / (B tau)^2.
            clip=contexts * plan.tau * math.sqrt(plan.rho_per_token / 2) * (1 - 1e-9),
            tau=plan.tau,
            top_k=plan.top_k,
            adjacency="swap",
            rho_per_token=plan.rho_per_token,
            marker=marker,
            shared=rows.shared,
            reserved=tuple(sorted({*self._prompts.reserved(), self._prompts.end_token})),
        )
        body = self._plain(rows.public if role == "public" else rows.private)
        return {**body, "ignore_eos": False, "stop_token_ids": [marker], "vllm_xargs": {KEY: arguments.encode()}}

    async def _both(self, streamed: dict[str, Any], held: dict[str, Any]) -> Timing:
        began = time.perf_counter()
        others = asyncio.create_task(self._hold(held))
        times = await self._stream(streamed)
        await others
        return self._timing(began, times)

    def _timing(self, began: float, times: list[tuple[float, int]]) -> Timing:
        if sum(count for _, count in times) != self._tokens:
            raise RuntimeError(f"an answer of {self._tokens} tokens was broken off")
        (first, at_first), (last, _) = times[0], times[-1]
        steps = tuple(later - earlier for (earlier, _), (later, _) in pairwise(times))
        return Timing(first - began, time.perf_counter() - began, (self._tokens - at_first) / (last - first), steps)

    async def _hold(self, body: dict[str, Any]) -> None:
        async with self._session.post(f"{self._url}/v1/completions", json=body) as response:
            response.raise_for_status()
            choices = (await response.json())["choices"]
        if any(choice["finish_reason"] != "length" for choice in choices):
            raise RuntimeError("a row ended before its length")

    async def _stream(self, body: dict[str, Any]) -> list[tuple[float, int]]:
        """(time, tokens) of each event that brought tokens."""
        found: list[tuple[float, int]] = []
        body = {**body, "stream": True, "return_token_ids": True}
        async with self._session.post(f"{self._url}/v1/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                ids = [token for choice in json.loads(line[6:])["choices"] for token in choice.get("token_ids") or ()]
                if ids:
                    found.append((time.perf_counter(), len(ids)))
        return found
