"""One node's part in a sum of several hospitals. Its two peers are played by the same pure code and their own keys."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.utils import timezone
from pytest_django import Settings

from compliance.models import Event
from federation import receipts, sealing
from federation.models import NodeCall
from federation.node import across, blocks, calls, peers, service, votes
from federation.node.calls import Message
from federation.node.demo_records import build
from federation.node.ingest import ingest
from federation.secagg import masks, session
from federation.secagg.masks import Words
from federation.secagg.session import Session
from privacy.dp.across_plans import AcrossPlan, plan_choice_across, plan_count_across
from privacy.dp.cohort_plans import plan_count
from privacy.models import Reservation, ReservationState, Scope
from tests.federation.keys import NODES, ring
from tests.federation.messages import actor, payload
from tests.privacy.ledger.books import audit

pytestmark = pytest.mark.django_db(transaction=True)

COUNT = plan_count_across(hospitals=3, epsilon=1.0)
CHOICE = plan_choice_across(options=3, hospitals=3, epsilon=1.0)
OPTIONS = ("dry cough", "rash", "nausea")
QUESTIONS = {
    COUNT: "How many patients on velorapine had a dry cough?",
    CHOICE: "Which side effect did patients on velorapine develop?",
}
ROSTER = [[name, ring().identity(name).public.key_id] for name in sorted(NODES)]


@pytest.fixture(autouse=True)
def short_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "SLOT_SECONDS", 0.01)


@pytest.fixture(params=NODES)
def me(request: pytest.FixtureRequest, settings: Settings) -> str:
    """Each node in turn: the first of the roster only gives seeds, the last only gets some."""
    name: str = request.param
    settings.NODE_ID = settings.HOSPITAL_ID = name
    settings.IDENTITY_DIR = ring().folder(name)
    return name


@pytest.fixture
def hillcrest(settings: Settings) -> str:
    settings.NODE_ID = settings.HOSPITAL_ID = "hillcrest"
    settings.IDENTITY_DIR = ring().folder("hillcrest")
    return "hillcrest"


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    build.build_small(folder, "northfield")
    return folder


@pytest.fixture
def block(records: Path, settings: Settings) -> Iterator[Scope]:
    ingest(records)
    yield blocks.create(settings.NODE_ID, settings.HOSPITAL_ID, epsilon=10.0, delta=1e-5)
    audit()


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


def used(block: Scope) -> int:
    block.refresh_from_db()
    return block.used


# --- what a node gives ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("plan", [COUNT, CHOICE], ids=["count", "choice"])
def test_the_sum_holds_the_numbers_of_the_node_and_its_noise(me: str, block: Scope, plan: AcrossPlan) -> None:
    wish = Sum(plan)
    told, others = run(wish, me)
    found = summed(told, others)
    true = votes.votes(QUESTIONS[plan], OPTIONS, [1]) if plan.options else [votes.count(QUESTIONS[plan], [1])]
    assert max(true) >= 40
    assert all(abs(noisy - exact) <= 6 * plan.sigma for noisy, exact in zip(found, true, strict=True))
    assert json.loads(told["text"])["words"][0] == "velorapine"
    assert used(block) == plan.nano_at(3.4) > 0
    body = told["receipt"]["body"]
    assert (body["mechanism"]["name"], body["mechanism"]["parameters"]["hospitals"]) == (plan.name, 3)
    assert receipts.covers(told["receipt"], ring().identity(me).public, message_id=str(wish.id), answer=told["text"])
    assert str(true[0]) not in told["text"].split("words")[1]


def test_an_offer_reserves_and_reads_nothing(me: str, block: Scope) -> None:
    wish = Sum()
    told = tell(wish.message("offer"))
    assert told["type"] == "offer" and set(told["seeds"]) == set(wish.session.takers(me))
    assert Reservation.objects.get(pk=wish.id).state == ReservationState.RESERVED
    assert b"seed" not in bytes(NodeCall.objects.get(pk=wish.id).answer or b"")


def test_an_offer_again_is_the_same_offer(hillcrest: str, block: Scope) -> None:
    wish = Sum()
    told, again = tell(wish.message("offer")), tell(wish.message("offer"))
    seeds = []
    for offer in (told, again):
        others = Peers(wish.session, hillcrest)
        others.take(offer)
        seeds.append({pair: seed for pair, seed in others.seeds.items() if pair[0] == hillcrest})
    assert seeds[0] == seeds[1] and len(seeds[0]) == 2
    assert used(block) == COUNT.nano_at(3.4)
