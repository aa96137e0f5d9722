"""One node's part in a sum of several hospitals: what it gives, what it refuses, how it ends and what it costs."""

from __future__ import annotations

import base64
import json
import shutil
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone
from pytest_django import Settings

from compliance.models import Event
from fdrouter.errors import InvalidParameter
from federation import receipts, sealing
from federation.models import NodeCall
from federation.node import across, blocks, calls, peers, service, votes
from federation.node.demo_records import build
from federation.node.ingest import ingest
from federation.secagg import masks
from privacy.dp.across_plans import AcrossPlan, plan_count_across
from privacy.dp.cohort_plans import plan_count
from privacy.models import Reservation, ReservationState, Scope
from tests.federation.keys import NODES, ring
from tests.federation.messages import actor, payload
from tests.federation.sums import CHOICE, COUNT, OPTIONS, QUESTIONS, ROSTER, Peers, Sum, refused, run, summed, tell
from tests.privacy.ledger.books import audit, race

pytestmark = pytest.mark.django_db(transaction=True)


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
def patients(records: Path, settings: Settings) -> None:
    ingest(records)


@pytest.fixture
def block(settings: Settings) -> Iterator[Scope]:
    yield blocks.create(settings.NODE_ID, settings.HOSPITAL_ID, epsilon=10.0, delta=1e-5)
    audit()


def used(block: Scope) -> int:
    block.refresh_from_db()
    return block.used


# --- what a node gives ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("plan", [COUNT, CHOICE], ids=["count", "choice"])
def test_the_sum_holds_the_numbers_of_the_node_and_its_noise(
    me: str, patients: None, block: Scope, plan: AcrossPlan
) -> None:
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


def test_the_same_sum_again_has_the_very_same_share_for_nothing(hillcrest: str, block: Scope) -> None:
    wish = Sum()
    told, others = run(wish, hillcrest)
    paid = used(block)
    again = tell(wish.message("sum", Peers(wish.session, hillcrest).for_me()))
    assert (again["text"], again["receipt"]) == (told["text"], told["receipt"]) and used(block) == paid
    assert summed(again, others) == summed(told, others)


def test_two_sums_of_one_question_have_nothing_in_common(hillcrest: str, block: Scope) -> None:
    """Another session is another release: noise, masks and charge are new, also where the question is the same."""
    (one, _), (two, _) = run(Sum(), hillcrest), run(Sum(), hillcrest)
    assert json.loads(one["text"])["share"] != json.loads(two["text"])["share"]
    assert used(block) == 2 * COUNT.nano_at(3.4)
    assert "repeat_of" not in two["receipt"]["body"]["mechanism"]


def test_no_share_is_seen_alone(me: str, block: Scope) -> None:
    """Without one peer's share what the coordinator holds is nowhere near a number of patients."""
    told, others = run(Sum(CHOICE), me)
    missing = sorted(set(NODES) - {me})[0]
    cells = [0] * CHOICE.cells
    rest = masks.from_text(json.loads(told["text"])["share"])
    for name, words in others.shares(cells).items():
        if name != missing:
            rest = rest + words
    assert all(2**40 < int(word) < 2**64 - 2**40 for word in rest)


# --- what a node refuses ----------------------------------------------------------------------------------------------
OTHER_KEYS = [[name, key if name != "lakeside" else "0" * 16] for name, key in ROSTER]


@pytest.mark.parametrize(
    "roster",
    [
        ROSTER[:2],
        [*ROSTER, ["stranger", "1" * 16]],
        [*ROSTER[:2], ["stranger", ring().identity("strange-node").public.key_id]],
        OTHER_KEYS,
        list(reversed(ROSTER)),
        [*ROSTER[1:], ROSTER[1]],
        [[name, "2" * 16] if name == "hillcrest" else [name, key] for name, key in ROSTER],
        [["alpha", "3" * 16], *ROSTER[1:]],
        None,
        [],
        ["hillcrest", "lakeside", "northfield"],
        [["hillcrest"], ["lakeside"], ["northfield"]],
        {"hillcrest": "a"},
    ],
    ids=[
        "two", "one more", "unknown", "other keys", "order", "twice", "not my keys", "not me", "none", "empty", "names",
        "short", "no list",
    ],
)  # fmt: skip
def test_a_roster_of_anybody_but_pinned_peers_is_refused(hillcrest: str, block: Scope, roster: Any) -> None:
    refused(tell(Sum().message("offer", roster=roster)))
    assert used(block) == 0 and not NodeCall.objects.exists()


def test_a_peer_that_is_not_pinned_is_named(hillcrest: str, block: Scope, tmp_path: Path, settings: Settings) -> None:
    home = tmp_path / "home"
    shutil.copytree(ring().folder("hillcrest"), home)
    (home / "peers" / "lakeside.json").unlink()
    settings.IDENTITY_DIR = home
    assert "does not know lakeside" in refused(tell(Sum().message("offer")))
    settings.IDENTITY_DIR = ring().folder("hillcrest")
    assert tell(Sum().message("offer"))["type"] == "offer"


def test_a_peer_whose_keys_changed_in_between_ends_the_sum(
    hillcrest: str, block: Scope, tmp_path: Path, settings: Settings
) -> None:
    home = tmp_path / "home"
    shutil.copytree(ring().folder("hillcrest"), home)
    settings.IDENTITY_DIR = home
    wish = Sum()
    offer = tell(wish.message("offer"))
    assert offer["type"] == "offer"
    document = json.loads((ring().folder("strange-node") / "public.json").read_text())
    peers.pin({**document, "name": "lakeside"}, replace=True)
    refused(tell(wish.message("sum", {})), charged=True)
    assert Reservation.objects.get(pk=wish.id).state == ReservationState.RESERVED
    refused(tell(wish.message("abort")), "cancelled")
    assert used(block) == 0, "what was not summed is given back"


@pytest.mark.parametrize("change", ["fewer", "more noise", "another kind"])
def test_a_plan_that_is_not_for_this_roster_is_refused(hillcrest: str, block: Scope, change: str) -> None:
    plan = plan_count_across(hospitals=4, epsilon=1.0) if change == "fewer" else COUNT
    wish = Sum(COUNT)
    if change == "fewer":
        wish.changes = {"parameters": json.loads(json.dumps(plan.to_event()))}
        assert "another number" in refused(tell(wish.message("offer")))
        return
    wish.changes = (
        {"parameters": {**plan.to_event(), "sigma": 0.5}}
        if change == "more noise"
        else {"parameters": json.loads(json.dumps(CHOICE.to_event())), "options": list(OPTIONS)}
    )
    with pytest.raises((ValueError, InvalidParameter)):
        wish.message("offer")


def test_a_plan_for_a_sum_is_never_answered_alone_and_the_other_way_round() -> None:
    """A hospital's own part of the noise is less than the claim: outside a sum it must not be used."""
    body = payload("cohort.count", parameters=json.loads(json.dumps(COUNT.to_event())))
    with pytest.raises(ValueError, match="another way"):
        calls.parse(str(uuid.uuid4()), body)
    alone = json.loads(json.dumps(plan_count(epsilon=1.0).to_event()))
    with pytest.raises(ValueError, match="another way"):
        calls.parse(str(uuid.uuid4()), payload("cohort.count", parameters=alone, across={"phase": "offer"}))
    with pytest.raises(ValueError, match="another way"):
        calls.parse(str(uuid.uuid4()), payload("general", across={"phase": "offer"}))


@pytest.mark.parametrize("phase", [None, "", "reveal", 3])
def test_another_step_is_refused(hillcrest: str, block: Scope, phase: Any) -> None:
    refused(tell(Sum().message(phase)))


def test_policy_is_the_nodes_own(hillcrest: str, block: Scope) -> None:
    wish = Sum(changes={"actor": actor(role="nurse")})
    refused(tell(wish.message("offer")), "policy_denied")
    assert used(block) == 0 and NodeCall.objects.get(pk=wish.id).state == "failed"
    refused(tell(wish.message("sum")), "conflict")


def test_a_block_that_cannot_pay_refuses_before_anybody_counts(hillcrest: str) -> None:
    block = blocks.create("hillcrest", "hillcrest", epsilon=0.5, delta=1e-5)
    wish = Sum()
    refused(tell(wish.message("offer")), "block_exhausted")
    refused(tell(wish.message("sum")), "conflict")
    assert used(block) == 0


def test_a_question_that_records_cannot_answer_is_refused_unpaid(hillcrest: str, block: Scope) -> None:
    wish = Sum(changes={"messages": [{"role": "user", "content": "How many patients had no cough?"}]})
    assert "negation" in refused(tell(wish.message("offer")))
    assert used(block) == 0 and not NodeCall.objects.exists()


def test_a_share_needs_an_offer(hillcrest: str, block: Scope) -> None:
    refused(tell(Sum().message("sum")), "conflict")
    assert used(block) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "user", "content": "How many patients on zintoralol had a dry cough?"}]},
        {"purpose": "HRESCH"},
        {"parameters": json.loads(json.dumps(plan_count_across(hospitals=3, epsilon=0.5).to_event()))},
        {"request_digest": "cd" * 32},
    ],
    ids=["question", "purpose", "plan", "request"],
)
def test_what_was_offered_is_what_is_summed(hillcrest: str, block: Scope, change: dict[str, Any]) -> None:
    wish = Sum()
    tell(wish.message("offer"))
    other = Sum(id=wish.id, changes=change)
    told = tell(other.message("sum"))
    assert told["type"] == "error" and told["code"] in ("conflict", "idempotency_conflict")
    told = tell(other.message("offer"))
    assert told["type"] == "error" and told["code"] in ("conflict", "idempotency_conflict")
    assert tell(wish.message("sum", {}))["type"] == "answer", "the offer itself still stands"


# --- seeds ------------------------------------------------------------------------------------------------------------
@pytest.fixture
def northfield(settings: Settings) -> str:
    """The last of the roster: it gives no seed and gets two."""
    settings.NODE_ID = settings.HOSPITAL_ID = "northfield"
    settings.IDENTITY_DIR = ring().folder("northfield")
    return "northfield"


def flipped(envelope: str) -> str:
    document = json.loads(envelope)
    sealed = bytearray(base64.b64decode(document["sealed"]))
    sealed[-1] ^= 1
    return json.dumps({**document, "sealed": base64.b64encode(sealed).decode()})


@pytest.mark.parametrize("case", ["flipped", "garbage", "other signer", "other session", "other id", "short", "swapped",
    "missing", "one more", "none", "coordinator"])  # fmt: skip
def test_a_seed_that_is_not_its_peers_for_this_sum_ends_it_unread_and_unpaid(
    northfield: str, block: Scope, case: str
) -> None:
    wish = Sum()
    others = Peers(wish.session, northfield)
    tell(wish.message("offer"))
    seeds: Any = others.for_me()
    changed: dict[str, Callable[[], str]] = {
        "flipped": lambda: flipped(seeds["lakeside"]),
        "garbage": lambda: "garbage",
        "other signer": lambda: others.seal("lakeside", signer="hillcrest"),
        "other session": lambda: others.seal("lakeside", session="0" * 64),
        "other id": lambda: others.seal("lakeside", of="0" * 64),
        "short": lambda: others.seal("lakeside", seed="AAAA"),
        "swapped": lambda: seeds["hillcrest"],
        "coordinator": lambda: others.seal("lakeside", signer="coordinator"),
    }
    if case in changed:
        seeds["lakeside"] = changed[case]()
    elif case == "one more":
        seeds["northfield"] = seeds["lakeside"]
    else:
        seeds = {"missing": {"hillcrest": seeds["hillcrest"]}, "none": "none"}[case]
    refused(tell(wish.message("sum", seeds)))
    assert used(block) == 0
    refused(tell(wish.message("sum", others.for_me())), "conflict")


def test_seeds_of_an_earlier_sum_cannot_be_played_again(northfield: str, block: Scope) -> None:
    first, second = Sum(), Sum()
    _, others = run(first, northfield)
    tell(second.message("offer"))
    refused(tell(second.message("sum", others.for_me())))


def test_the_coordinator_cannot_read_what_it_passes_on(hillcrest: str, block: Scope) -> None:
    offer = tell(Sum().message("offer"))
    mine = ring().identity("hillcrest").public
    for taker, envelope in offer["seeds"].items():
        sealing.unseal(ring().identity(taker), mine, envelope.encode())
        for reader in {"coordinator", *NODES} - {taker}:
            with pytest.raises(sealing.BadEnvelope):
                sealing.unseal(ring().identity(reader), mine, envelope.encode())


# --- ends -------------------------------------------------------------------------------------------------------------
def test_a_sum_that_does_not_come_about_is_given_back(hillcrest: str, block: Scope) -> None:
    wish = Sum()
    tell(wish.message("offer"))
    refused(tell(wish.message("abort")), "cancelled")
    assert used(block) == 0 and Reservation.objects.get(pk=wish.id).state == ReservationState.RELEASED
    assert NodeCall.objects.get(pk=wish.id).answer is None, "its seeds are gone"
    refused(tell(wish.message("sum", {})), "conflict")
    refused(tell(wish.message("abort")), "conflict")


def test_who_gave_a_share_stays_charged_whatever_comes(hillcrest: str, block: Scope) -> None:
    wish = Sum()
    run(wish, hillcrest)
    refused(tell(wish.message("abort")), "cancelled", charged=True)
    assert used(block) == COUNT.nano_at(3.4)


def test_an_offer_that_nobody_comes_back_for_is_given_up(hillcrest: str, block: Scope) -> None:
    lost, fresh = Sum(), Sum()
    tell(lost.message("offer"))
    assert across.give_up_stale() == 0
    past = timezone.now() - timedelta(seconds=across.OFFER_SECONDS + 1)
    NodeCall.objects.filter(pk=lost.id).update(started_at=past)
    tell(fresh.message("offer"))
    assert Reservation.objects.get(pk=lost.id).state == ReservationState.RELEASED
    assert used(block) == COUNT.nano_at(3.4), "the fresh one's"
    refused(tell(lost.message("sum", {})), "conflict")
    kinds = Event.objects.filter(subject=lost.id).order_by("seq").values_list("kind", "outcome")
    assert list(kinds)[-2:] == [("ledger.release", "ok"), ("request.fail", "node_timeout")]


def test_what_goes_wrong_after_records_were_read_stays_charged(
    hillcrest: str, block: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    wish = Sum()
    others = Peers(wish.session, hillcrest)
    tell(wish.message("offer"))

    def broken(*_: Any) -> int:
        raise RuntimeError("the database went away")

    with monkeypatch.context() as patch:
        patch.setattr(votes, "count", broken)
        with pytest.raises(RuntimeError):
            tell(wish.message("sum", others.for_me()))
    assert used(block) == COUNT.nano_at(3.4)
    refused(tell(wish.message("sum", others.for_me())), "conflict", charged=True)


def test_a_restart_gives_up_offers_and_keeps_their_charge(hillcrest: str, block: Scope) -> None:
    wish = Sum()
    tell(wish.message("offer"))
    assert calls.give_up_interrupted() == 1
    refused(tell(wish.message("sum", {})), "conflict", charged=True)


def test_many_who_ask_for_one_share_at_once_get_one(hillcrest: str, block: Scope) -> None:
    wish = Sum()
    others = Peers(wish.session, hillcrest)
    others.take(tell(wish.message("offer")))

    def ask() -> str:
        told = tell(wish.message("sum", others.for_me()))
        return str(told["text"]) if told["type"] == "answer" else str(told["code"])

    found = race([ask] * 5)
    shares = {text for text in found if text.startswith("{")}
    assert len(shares) == 1 and set(found) <= {*shares, "conflict"}
    assert used(block) == COUNT.nano_at(3.4)
