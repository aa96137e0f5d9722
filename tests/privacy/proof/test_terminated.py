"""A database session that ends between any two statements leaves the books as they were before or as they are after.

``tests/privacy/ledger`` kills the process; here the database goes away under it, at every statement of what a node does
for one call. And S, what a block has paid, never falls but by settling tokens that were not sampled, or by releasing
what reached no model.
"""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction
from pytest_django import Settings

from compliance.models import Event
from fdrouter.errors import NodeFailed
from federation.models import NodeCall
from federation.node import blocks, calls
from federation.node.calls import Message, Outcome
from privacy import ledger
from privacy.dp import accounting
from privacy.dp.cohort_plans import plan_count
from privacy.models import Entry, EntryKind, Reservation, Scope
from tests.federation.keys import ring
from tests.federation.messages import PLAN, message
from tests.privacy.ledger import books
from tests.privacy.ledger.books import audit
from tests.privacy.proof.sessions import ended_after, falls, journal, own_backend, terminate

pytestmark = pytest.mark.django_db(transaction=True)

TOKENS = 3
OUTCOME = Outcome("In our records, it rains.", "stop", 200, TOKENS)
COUNT = plan_count(epsilon=1.0)
WIDE = 100.0  # epsilon of a block that pays for many calls
ALPHA = accounting.block_cap(WIDE, 1e-5).alpha


@pytest.fixture
def block(settings: Settings) -> Scope:
    settings.NODE_ID = settings.HOSPITAL_ID = "northfield"
    settings.IDENTITY_DIR = ring().folder("northfield")
    return blocks.create("northfield", "northfield", epsilon=WIDE, delta=1e-5)


def text() -> Message:
    return message(request_digest=uuid.uuid4().hex * 2)


def count() -> Message:
    return message("cohort.count", parameters=COUNT.to_event(), request_digest=uuid.uuid4().hex * 2)


def cost(wish: Message, tokens: int | None = None) -> int:
    """What the call's plan costs a block, or the first ``tokens`` tokens of a text."""
    assert wish.plan is not None
    return wish.plan.nano_at(ALPHA) if tokens is None else accounting.nano_rdp_up(PLAN.rho_of(tokens), ALPHA)


def state(wish: Message) -> tuple[int, str | None, str | None, int]:
    """What the call has paid, its state, its reservation's, and how many rows of evidence there are."""
    paid = sum(Entry.objects.filter(reservation=wish.id).values_list("amount", flat=True))
    call = NodeCall.objects.filter(pk=wish.id).values_list("state", flat=True).first()
    reservation = Reservation.objects.filter(pk=wish.id).values_list("state", flat=True).first()
    return paid, call, reservation, Event.objects.filter(subject=wish.id).count()


def each_break(prepare: Callable[[], Message], action: Callable[[Message], Any]) -> Iterator[tuple[Message, bool]]:
    """The action, ended after each of its statements in turn, a fresh call each; and once, last, to its end."""
    for statements in range(200):
        wish = prepare()
        ended = ended_after(statements, lambda wish=wish: action(wish))  # type: ignore[misc]
        yield wish, ended
        if not ended:
            assert statements > 3, "nothing was ended"
            return
    raise AssertionError("the action never came to its end")


@pytest.mark.parametrize("make", [text, count])
def test_a_call_begins_wholly_or_not_at_all(block: Scope, make: Callable[[], Message]) -> None:
    for wish, ended in each_break(make, calls.begin):
        if ended:
            assert state(wish) == (0, None, None, 0)
            calls.begin(wish)  # the coordinator sends it again
        assert state(wish) == (cost(wish), "running", "reserved", 2)
        calls.fail(wish, NodeCall.objects.get(pk=wish.id), "cancelled", data_seen=False)
        audit()
    block.refresh_from_db()
    assert block.used == 0


@pytest.mark.parametrize("make", [text, count])
def test_a_call_is_settled_wholly_or_stays_charged_in_full(block: Scope, make: Callable[[], Message]) -> None:
    for wish, ended in each_break(lambda: begun(make), lambda wish: calls.finish(wish, row(wish), OUTCOME)):
        left = cost(wish, TOKENS) if make is text else cost(wish)
        if ended:
            assert state(wish) == (cost(wish), "running", "reserved", 2), "the answer is lost, the charge is not"
            calls.finish(wish, row(wish), OUTCOME)
        assert state(wish) == (left, "done", "settled", 4)
        with pytest.raises(NodeFailed):
            calls.finish(wish, row(wish), OUTCOME)
        assert state(wish)[0] == left
        audit()


@pytest.mark.parametrize("seen", [True, False])
def test_a_failure_is_recorded_wholly_and_gives_nothing_back_that_was_read(block: Scope, seen: bool) -> None:
    def fail(wish: Message) -> None:
        calls.fail(wish, row(wish), "node_failed", data_seen=seen)

    for wish, ended in each_break(lambda: begun(text), fail):
        if ended:
            assert state(wish) == (cost(wish), "running", "reserved", 2)
            fail(wish)
        assert state(wish) == ((cost(wish), "failed", "settled", 4) if seen else (0, "failed", "released", 4))
        audit()


def begun(make: Callable[[], Message]) -> Message:
    wish = make()
    calls.begin(wish)
    return wish


def row(wish: Message) -> NodeCall:
    return NodeCall.objects.get(pk=wish.id)


def test_what_a_block_has_paid_falls_only_by_tokens_not_sampled(block: Scope) -> None:
    """Every change of S, noted by the database itself, through all ends that a call can have."""
    with journal():
        first, second, third, fourth, fifth = (begun(make) for make in (text, text, text, count, count))
        calls.finish(first, row(first), OUTCOME)
        calls.fail(second, row(second), "node_failed", data_seen=True)
        calls.fail(third, row(third), "engine_unreachable", data_seen=False)
        calls.finish(fourth, row(fourth), OUTCOME)
        assert calls.give_up_interrupted() == 1 and row(fifth).code == "interrupted"
        overdue = books.request((block, 5))
        ledger.reserve(overdue, seconds=-1)
        assert ledger.expire() == {overdue.id}
        seen = falls()
        unsampled = cost(first) - cost(first, TOKENS)
        assert [(scope, amount) for _, scope, amount in seen] == [(block.pk, unsampled), (block.pk, cost(third))]
    audit()


def test_sessions_ended_at_random_lose_nothing_and_give_nothing_back(block: Scope) -> None:
    """Four sessions reserve and settle while a fifth ends them as it likes; S follows the entries at every moment."""
    done, backends, guard = threading.Event(), {}, threading.Lock()
    acknowledged: dict[uuid.UUID, int] = {}

    def work(number: int) -> None:
        draw = random.Random(number)
        while not done.is_set():
            wish, amount = books.request((block, 9)), draw.choice([None, 0, 4, 9])
            try:
                with guard:
                    backends[number] = own_backend()
                with transaction.atomic():
                    ledger.reserve(wish)
                acknowledged[wish.id] = 9
                with transaction.atomic():
                    ledger.settle(wish.id, amount)
                acknowledged[wish.id] = 9 if amount is None else amount
            except DatabaseError:
                connection.close()
        connection.close()

    with journal():
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        until, draw, ended = time.monotonic() + 3, random.Random(0), 0
        while time.monotonic() < until:
            time.sleep(draw.uniform(0.0, 0.03))
            with guard:
                victim = draw.choice([*backends.values()] or [0])
            terminate(victim)
            ended += 1
        done.set()
        for thread in threads:
            thread.join(30)
        fallen = {(at, scope): amount for at, scope, amount in falls()}
    assert ended > 20 and len(acknowledged) > 20
    refunds = Entry.objects.filter(kind=EntryKind.REFUND, reservation__state="settled")
    assert fallen == {(entry.at, entry.scope_id): -entry.amount for entry in refunds}
    for reservation, told in acknowledged.items():
        assert books.kept(reservation, block) in (told, *((0, 4) if told == 9 else ())), "a lost answer, a kept charge"
        assert Reservation.objects.filter(pk=reservation).exists()
    audit()
