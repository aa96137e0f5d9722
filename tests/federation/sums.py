"""Sums of several hospitals as a node hears of them, and its two peers, played by the same pure code."""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import dataclass, field
from typing import Any

from asgiref.sync import async_to_sync

from federation import sealing
from federation.node import across, calls
from federation.node.calls import Message
from federation.secagg import masks
from federation.secagg.masks import Words
from federation.secagg.session import Session
from privacy.dp.across_plans import AcrossPlan, plan_choice_across, plan_count_across
from tests.federation.keys import NODES, ring
from tests.federation.messages import payload

COUNT = plan_count_across(hospitals=3, epsilon=1.0)
CHOICE = plan_choice_across(options=3, hospitals=3, epsilon=1.0)
OPTIONS = ("dry cough", "rash", "nausea")
QUESTIONS = {
    COUNT: "How many patients on velorapine had a dry cough?",
    CHOICE: "Which side effect did patients on velorapine develop?",
}
ROSTER = [[name, ring().identity(name).public.key_id] for name in sorted(NODES)]


@dataclass
class Sum:
    """What the coordinator would send about one session."""

    plan: AcrossPlan = COUNT
    id: uuid.UUID = field(default_factory=uuid.uuid4)
    changes: dict[str, Any] = field(default_factory=dict)

    def message(self, phase: str, seeds: dict[str, str] | None = None, **across: Any) -> Message:
        options = list(OPTIONS) if self.plan.options else []
        body = payload(
            "cohort.choice" if self.plan.options else "cohort.count",
            messages=[{"role": "user", "content": QUESTIONS[self.plan]}],
            parameters=json.loads(json.dumps(self.plan.to_event())),
            options=options,
            across={"phase": phase, "roster": ROSTER, "seeds": seeds or {}, **across},
        )
        return calls.parse(str(self.id), body | self.changes)

    @property
    def session(self) -> Session:
        return across.agreed(self.message("offer"))


def tell(message: Message) -> dict[str, Any]:
    """The last event of a message."""

    async def run() -> list[dict[str, Any]]:
        return [event async for event in across.answer(message)]

    return async_to_sync(run)()[-1]


@dataclass
class Peers:
    """The other two hospitals of a session: their seeds for each other and for the node, and their shares."""

    session: Session
    me: str
    seeds: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.session.names:
            if name != self.me:
                self.seeds |= {(name, to): seed for to, seed in masks.fresh_seeds(self.session, name).items()}

    def for_me(self) -> dict[str, str]:
        """Their seeds for the node, sealed and signed."""
        return {giver: self.seal(giver) for giver in self.session.givers(self.me)}

    def seal(self, giver: str, *, signer: str | None = None, **changes: Any) -> str:
        contents = {"session": self.session.digest, "seed": base64.b64encode(self.seeds[giver, self.me]).decode()}
        sender = ring().identity(signer or giver)
        number = f"across/{changes.pop('of', self.session.digest)}"
        return sealing.seal(sender, ring().identity(self.me).public, number, contents | changes).decode()

    def take(self, offer: dict[str, Any]) -> None:
        """Opens the node's seeds, as each peer would."""
        for taker, envelope in offer["seeds"].items():
            mine = ring().identity(self.me).public
            _, contents = sealing.unseal(ring().identity(taker), mine, envelope.encode())
            assert contents["session"] == self.session.digest
            self.seeds[self.me, taker] = base64.b64decode(contents["seed"])

    def shares(self, values: list[int]) -> dict[str, Words]:
        return {name: self.share(name, values) for name in self.session.names if name != self.me}

    def share(self, name: str, values: list[int]) -> Words:
        given = {to: seed for (giver, to), seed in self.seeds.items() if giver == name}
        got = {giver: seed for (giver, to), seed in self.seeds.items() if to == name}
        return masks.share(self.session, name, values, given, got)


def run(wish: Sum, me: str) -> tuple[dict[str, Any], Peers]:
    """Both phases; the node's answer, and the peers."""
    others = Peers(wish.session, me)
    others.take(tell(wish.message("offer")))
    return tell(wish.message("sum", others.for_me())), others


def summed(told: dict[str, Any], others: Peers) -> list[int]:
    found = json.loads(told["text"])
    assert found["session"] == others.session.digest
    cells = [0] * others.session.length
    return masks.total(others.session, {**others.shares(cells), others.me: masks.from_text(found["share"])})


def refused(told: dict[str, Any], code: str = "invalid_parameter", *, charged: bool = False) -> str:
    assert (told["type"], told["code"], told["charged"]) == ("error", code, charged), told
    return str(told["details"].get("why", ""))
