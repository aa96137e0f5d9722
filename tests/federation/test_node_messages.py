"""What a node takes for a message: the coordinator's, for this node, now, and with a plan that adds up."""

from __future__ import annotations

import time
import uuid
from typing import Any

import pytest
from pytest_django import Settings

from fdrouter.errors import DomainError
from federation import sealing
from federation.node import calls, service
from federation.sealing import BadEnvelope
from privacy.dp.cohort_plans import plan_of
from privacy.dp.text_plan import plan_text
from tests.federation.keys import ring
from tests.federation.messages import PLAN, actor, payload


@pytest.fixture(autouse=True)
def node(settings: Settings) -> None:
    settings.NODE_ID = settings.HOSPITAL_ID = "northfield"
    settings.IDENTITY_DIR = ring().folder("northfield")


def envelope(
    contents: dict[str, Any], *, sender: str = "coordinator", to: str = "northfield", of: str | None = None
) -> bytes:
    return sealing.seal(ring().identity(sender), ring().identity(to).public, of or str(uuid.uuid4()), contents)


def test_a_message_of_the_coordinator_is_opened() -> None:
    message_id = str(uuid.uuid4())
    found = service.open_message(envelope(payload(), of=message_id))
    assert (str(found.id), found.kind, found.plan) == (message_id, "cohort.text", PLAN)
    assert found.actor == payload()["actor"]


@pytest.mark.parametrize(
    "times", [(-400, -100), (100, 400), (-400, -1)], ids=["long ago", "in the future", "just over"]
)
def test_a_message_is_good_for_a_while(times: tuple[int, int]) -> None:
    now = int(time.time())
    with pytest.raises(BadEnvelope, match="expired"):
        service.open_message(envelope(payload(issued_at=now + times[0], expires_at=now + times[1])))


def test_a_clock_may_be_a_little_off() -> None:
    service.open_message(envelope(payload(issued_at=int(time.time()) + 30)))


@pytest.mark.parametrize(
    ("sender", "to"), [("lakeside", "northfield"), ("stranger", "northfield"), ("coordinator", "lakeside")]
)
def test_a_message_of_somebody_else_or_for_somebody_else_is_refused(sender: str, to: str) -> None:
    with pytest.raises(BadEnvelope):
        service.open_message(envelope(payload(), sender=sender, to=to))


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 1.0},
        {"delta": 1e-6},
        {"clip": PLAN.clip * 2},
        {"tau": PLAN.tau / 2},
        {"push": PLAN.push * 2},
        {"rho_per_token": PLAN.rho_per_token / 10},
        {"contexts": 64},
        {"max_tokens": 96},
        {"max_tokens": PLAN.max_tokens - 1},
        {"adjacency": "add_remove"},
        {"top_k": 10**9},
        {"epsilon": True},
        {"contexts": None},
    ],
    ids=str,
)
def test_a_plan_that_does_not_add_up_is_refused(change: dict[str, Any]) -> None:
    """A cost that is smaller than what would be released, or a mechanism larger than what is paid."""
    with pytest.raises(DomainError):
        calls.parse(str(uuid.uuid4()), payload(parameters=PLAN.to_event() | change))
    with pytest.raises(BadEnvelope):
        service.open_message(envelope(payload(parameters=PLAN.to_event() | change)))


def test_a_plan_for_other_neighbours_is_refused_though_it_adds_up() -> None:
    """It would cost a quarter of what retrieval of the best records under swap really costs."""
    cheap = plan_text(epsilon=3.0, adjacency="add_remove", contexts=64, max_tokens=20)
    assert plan_of(cheap.to_event()) == cheap
    with pytest.raises(ValueError, match="neighbours"):
        calls.parse(str(uuid.uuid4()), payload(parameters=cheap.to_event()))
    with pytest.raises(BadEnvelope):
        service.open_message(envelope(payload(parameters=cheap.to_event())))


@pytest.mark.parametrize(
    "name", sorted(set(PLAN.to_event()) - {"event", "mechanism", "unit", "rho", "reserved_epsilon"})
)
def test_every_number_of_the_plan_is_needed(name: str) -> None:
    event = PLAN.to_event()
    del event[name]
    with pytest.raises(BadEnvelope):
        service.open_message(envelope(payload(parameters=event)))


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "gossip"},
        {"kind": None},
        {"messages": "text"},
        {"messages": [{}]},
        {"messages": []},
        {"messages": [{"role": "system", "content": "a"}]},
        {"max_tokens": "many"},
        {"temperature": None},
        {"request_digest": "not hex"},
        {"request_digest": "ab"},
        {"actor": None},
        {"actor": []},
        {"actor": {"id": 7, "role": "attending"}},
        {"actor": actor(id="x")},
        {"issued_at": "now"},
        {"expires_at": None},
        {"parameters": None},
    ],
    ids=str,
)
def test_a_malformed_message_is_refused_before_anything_is_written(change: dict[str, Any]) -> None:
    with pytest.raises(BadEnvelope):
        service.open_message(envelope(payload() | change))


@pytest.mark.parametrize("name", sorted(set(payload()) - {"patient"}))
def test_every_field_of_a_message_is_needed(name: str) -> None:
    contents = payload()
    del contents[name]
    with pytest.raises(BadEnvelope):
        service.open_message(envelope(contents))


def test_a_message_whose_id_is_no_uuid_is_refused() -> None:
    with pytest.raises(BadEnvelope):
        service.open_message(envelope(payload(), of="../../etc/passwd"))
