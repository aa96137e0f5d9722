"""What the public model answers without records, with records and no privacy, and by private decoding.

The engine is the node's own (vLLM with the plug-in); each text is decoded by the node's own client.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.utility.questions import Closed, Counted, Worded
from federation.node.demo_records.facts import Question
from federation.node.engine import EngineClient, GroupFailed, GroupSummary, Timeouts
from federation.node.model import SERVED_NAME
from federation.node.prompts import PromptBuilder
from privacy.dp.text_plan import plan_text

AT_ONCE = 24
SHOWN = 6  # records that the model reads at once when nothing is private: more do not fit its attention
PATIENT = Timeouts(read=600.0, total=900.0)  # what is measured is whether an answer is right, not when it comes
TOKENS = 24  # as long as a private text may be
SYSTEM = "You are a clinical assistant. Answer in one short sentence."


@dataclass(frozen=True, slots=True)
class Spoken:
    """One text for one question to one hospital: whether it says the planted answer, and how it reads."""

    question: str
    hospital: str
    right: bool
    whole: bool
    text: str


class Model:
    """Asks a running engine. Use as ``async with``."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._prompts = PromptBuilder(folder)
        self._busy = asyncio.Semaphore(AT_ONCE)

    async def __aenter__(self) -> Model:
        self._session = aiohttp.ClientSession()
        self._client = EngineClient(self._url, SERVED_NAME, self._session, prompts=self._prompts, timeouts=PATIENT)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._session.close()

    async def say(self, user: str, system: str = SYSTEM) -> str:
        """The model's answer at temperature 0."""
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        async with self._busy:
            parts = self._client.chat(messages, max_tokens=TOKENS, temperature=0.0)
            return "".join([part async for part in parts if isinstance(part, str)])

    # --- without records --------------------------------------------------------------------------------------------
    async def choose(self, questions: Sequence[Closed]) -> list[float]:
        """1.0 where the right answer is the likeliest one for the model, by the mean of its tokens' log-probability."""
        scores = await asyncio.gather(*(self._score(q.text, option) for q in questions for option in q.options))
        found, place = [], 0
        for question in questions:
            mine = scores[place : place + len(question.options)]
            place += len(question.options)
            found.append(float(mine.index(max(mine)) == question.truth))
        return found

    async def _score(self, question: str, option: str) -> float:
        tokenizer = self._prompts.tokenizer
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        head = tokenizer(text, add_special_tokens=False).input_ids
        tail = tokenizer(option[0].upper() + option[1:], add_special_tokens=False).input_ids
        body = {"model": SERVED_NAME, "prompt": [*head, *tail], "max_tokens": 1, "prompt_logprobs": 0}
        async with self._busy, self._session.post(f"{self._url}/v1/completions", json=body) as response:
            response.raise_for_status()
            rows = (await response.json())["choices"][0]["prompt_logprobs"][len(head) :]
        logs = [float(row[str(token)]["logprob"]) for token, row in zip(tail, rows, strict=True)]
        return sum(logs) / len(logs)

    async def name(self, questions: Sequence[Worded]) -> list[float]:
        """1.0 where the model's own sentence holds an accepted word."""
        texts = await asyncio.gather(*(self.say(question.text) for question in questions))
        return [float(holds(text, q.accepted)) for text, q in zip(texts, questions, strict=True)]

    async def number(self, questions: Sequence[Counted], hospital: str) -> list[float]:
        """1.0 where the first number that the model says is within a tenth of the truth at this hospital."""
        texts = await asyncio.gather(*(self.say(question.text) for question in questions))
        return [float(near(text, q.truth[hospital])) for text, q in zip(texts, questions, strict=True)]

    # --- texts ------------------------------------------------------------------------------------------------------
    async def public_text(self, question: Question) -> Spoken:
        return spoken(question, "", await self.say(question.text))

    async def open_text(self, question: Question, hospital: str, excerpts: Sequence[str]) -> Spoken:
        """With the best records in the prompt and no privacy at all."""
        records = "\n".join(f"- {text}" for text in excerpts[:SHOWN])
        return spoken(question, hospital, await self.say(f"Patient records:\n{records}\n\nQuestion: {question.text}"))

    async def private_text(
        self, question: Question, hospital: str, excerpts: Sequence[str], epsilon: float
    ) -> Spoken | None:
        """One privately decoded answer; None when the engine gave the group up.

        Raises:
            PushTooSmall: the records could not be heard at this epsilon.
        """
        plan = plan_text(epsilon=epsilon)
        parts: list[str] = []
        try:
            async for part in self._client.decode_group(question.text, excerpts[: plan.contexts], plan):
                if not isinstance(part, GroupSummary):
                    parts.append(part)
        except GroupFailed:
            return None
        return spoken(question, hospital, "".join(parts))


def holds(text: str, accepted: frozenset[str] | Sequence[str]) -> bool:
    """Whether one of the words stands in the text (word beginnings, any case)."""
    return any(re.search(rf"\b{re.escape(word)}", text, re.IGNORECASE) for word in accepted)


def near(text: str, truth: int) -> bool:
    """Whether the first number in the text is within a tenth of the truth."""
    told = re.search(r"\d[\d,]*", text)
    return told is not None and abs(int(told[0].replace(",", "")) - truth) <= 0.1 * truth


def spoken(question: Question, hospital: str, text: str) -> Spoken:
    """``right``: the planted effect; ``whole``: what resolved it too. Words of the question itself do not count."""
    said = [holds(text, [word for word in words if word not in question.text]) for words in question.terms]
    return Spoken(question.id, hospital, said[0], all(said), " ".join(text.split()))


def by_hospital(tallies: Mapping[str, Any], question: str) -> dict[str, list[str]]:
    """The excerpts of the patients that each hospital retrieves for a question, best first."""
    return {name: told["text"][question]["excerpts"] for name, told in tallies.items()}
