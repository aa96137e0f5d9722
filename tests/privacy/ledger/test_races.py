"""Racing connections: nothing is overspent, nothing lost, everything once, and nobody waits for ever."""

from __future__ import annotations

import random
import uuid
from collections import Counter
from collections.abc import Callable

import pytest
from django.db import connection, transaction

from fdrouter.errors import QuotaSpent
from privacy import ledger
from privacy.ledger import REPEATED, RESERVED, Charge, Request
from privacy.models import Entry, EntryKind, Reservation, ReservationState, Scope, ScopeKind
from tests.privacy.ledger.books import audit, block, kept, next_day, quota, race, request, states, used

pytestmark = pytest.mark.django_db(transaction=True)

CONNECTIONS = 8


def committed(step: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        with transaction.atomic():
            return step()

    return run


def test_eight_connections_spend_a_budget_exactly() -> None:
    scope = block(100)

    def spend() -> int:
        paid = 0
        for _ in range(20):
            with transaction.atomic():
                paid += ledger.reserve_many([request((scope, 1))]) == [RESERVED]
        return paid

    paid = race([spend] * CONNECTIONS)
    assert sum(paid) == 100 == used(scope)
    assert Reservation.objects.count() == 100
    audit()


def test_the_last_unit_goes_to_one_connection() -> None:
    scope = quota(1)
    verdicts = race([committed(lambda: ledger.reserve_many([request((scope, 1))])[0]) for _ in range(CONNECTIONS)])
    assert Counter(verdicts) == {RESERVED: 1, scope.pk: CONNECTIONS - 1}
    audit()


def test_one_key_from_many_connections_is_charged_once() -> None:
    mine, ours = quota(100), quota(100, kind=ScopeKind.DEPARTMENT)
    for nth in range(5):
        wishes = [request((mine, 1), (ours, 1), key=f"key-{nth}") for _ in range(CONNECTIONS)]
        firsts = race([committed(lambda wish=wish: ledger.reserve(wish)) for wish in wishes])  # type: ignore[misc]
        assert firsts.count(True) == 1
        assert used(mine) == used(ours) == nth + 1
    assert Reservation.objects.count() == 5
    audit()


def test_one_key_with_other_scopes_each_time_is_never_charged_twice() -> None:
    """Without a scope in common the unique index decides: the losers fail, and a failure charges nothing."""
    scopes = [quota(10) for _ in range(CONNECTIONS)]

    def attempt(scope: Scope) -> Callable[[], int]:
        def run() -> int:
            try:
                with transaction.atomic():
                    return ledger.reserve_many([request((scope, 1), key="same")])[0]
            except Exception as error:  # noqa: BLE001  (the kind is asserted here)
                assert "reservation_once_per_key" in str(error)
                return REPEATED

        return run

    assert race([attempt(scope) for scope in scopes]).count(RESERVED) == 1
    assert sum(used(scope) for scope in scopes) == 1
    audit()


def test_a_reservation_is_ended_by_one_connection() -> None:
    scope = block(1000)
    for nth in range(10):
        wish = request((scope, 10))
        ledger.reserve(wish, seconds=-1)
        ends = [
            lambda wish=wish: ledger.settle(wish.id),  # type: ignore[misc]
            lambda wish=wish: ledger.settle(wish.id, 4),  # type: ignore[misc]
            lambda wish=wish: ledger.release(wish.id),  # type: ignore[misc]
            lambda: bool(ledger.expire()),
        ] * 2
        random.Random(nth).shuffle(ends)
        assert race([committed(end) for end in ends]).count(True) == 1
        assert Entry.objects.filter(reservation_id=wish.id, kind=EntryKind.REFUND).count() <= 1
        left = kept(wish.id, scope)
        state = states([wish.id]).pop()
        assert (state, left) in {("settled", 10), ("settled", 4), ("released", 0), ("expired", 10)}
    audit()


def test_a_day_is_started_by_one_connection() -> None:
    scope = quota(100)
    ledger.reserve(request((scope, 60)))
    next_day(scope)
    race([committed(lambda: ledger.reserve(request((scope, 5)))) for _ in range(CONNECTIONS)])
    assert used(scope) == 5 * CONNECTIONS
    assert [e.amount for e in Entry.objects.filter(scope=scope, kind=EntryKind.RESET)] == [-60]
    audit()


def test_refunds_of_yesterday_race_with_the_new_day() -> None:
    scope = quota(100)
    old = [request((scope, 10)) for _ in range(CONNECTIONS)]
    for wish in old:
        ledger.reserve(wish)
    next_day(scope)
    back = [committed(lambda wish=wish: ledger.release(wish.id)) for wish in old]  # type: ignore[misc]
    fresh = [committed(lambda: ledger.reserve(request((scope, 7)))) for _ in range(4)]
    race([*back, *fresh])
    assert used(scope) == 28, "whoever came first, the new day holds its own four charges and nothing else"
    audit()


def test_batches_over_the_same_scopes_in_any_order_do_not_deadlock() -> None:
    scopes = [quota(10**6), quota(10**6, kind=ScopeKind.DEPARTMENT), block(10**6), block(300)]

    def work(seed: int) -> Callable[[], int]:
        draw = random.Random(seed)

        def batch() -> list[Request]:
            return [
                request(*((s, draw.randint(0, 5)) for s in draw.sample(scopes, draw.randint(1, len(scopes)))))
                for _ in range(draw.randint(1, 5))
            ]

        def run() -> int:
            mine: list[uuid.UUID] = []
            for _ in range(15):
                wishes = batch()
                with transaction.atomic():
                    verdicts = ledger.reserve_many(wishes)
                mine += [w.id for w, verdict in zip(wishes, verdicts, strict=True) if verdict == RESERVED]
                draw.shuffle(mine)
                ending, mine = mine[:2], mine[2:]
                with transaction.atomic(), connection.cursor() as cursor:
                    spents = [draw.choice([None, 0, 2]) for _ in ending]
                    cursor.execute(
                        "SELECT ledger_close(%s::uuid[], %s::text[], %s::bigint[])",
                        [ending, ["settled"] * len(ending), spents],
                    )
            return len(mine)

        return run

    still_open = race([work(seed) for seed in range(CONNECTIONS)])
    assert Reservation.objects.filter(state=ReservationState.RESERVED).count() == sum(still_open)
    audit()


def test_scopes_named_in_opposite_orders_wait_for_each_other_and_do_not_lock_up() -> None:
    """Deterministic: each connection names the two scopes in its own order, again and again."""
    first, second = block(10**6), block(10**6)

    def work(order: tuple[Scope, Scope]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(60):
                with transaction.atomic():
                    ledger.reserve(request(*((scope, 1) for scope in order)))

        return run

    race([work((first, second)), work((second, first))] * 2)
    assert used(first) == used(second) == 240
    audit()


def test_a_refusal_reads_figures_that_are_committed() -> None:
    scope = quota(3)

    def attempt() -> str:
        try:
            with transaction.atomic():
                ledger.reserve(Request(id=uuid.uuid4(), charges=[Charge(scope.pk, 2)]))
        except QuotaSpent as error:
            return f"{error.details['used']} of {error.details['cap']}"
        return "paid"

    answers = race([attempt] * CONNECTIONS)
    assert Counter(answers) == {"paid": 1, "2 of 3": CONNECTIONS - 1}
