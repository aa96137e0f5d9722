"""What the coordinator would send to a node about a text of several hospitals, and what it costs."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from asgiref.sync import async_to_sync

from federation.models import NodeCall
from federation.node import calls, token_sums
from federation.node.calls import Message
from federation.node.prompts import PromptBuilder
from federation.node.scoring import ScoringClient
from privacy.dp.across_text import TextAcrossPlan, plan_text_across
from privacy.models import Scope
from tests.federation.keys import ring
from tests.federation.messages import payload
from tests.node.likely import MODEL, Likely

PLAN = plan_text_across(hospitals=2, epsilon=3.0, contexts=40, max_tokens=4)
QUESTION = "Which side effect did patients on velorapine develop?"
ME, PEER = "northfield", "lakeside"
ROSTER = [[name, ring().identity(name).public.key_id] for name in (PEER, ME)]


@dataclass
class Text:
    """What the coordinator would send about one text, and the node's last word on it."""

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
