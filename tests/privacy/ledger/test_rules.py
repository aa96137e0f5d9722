"""The ledger's rules, one by one, on one connection."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from django.db import DataError, IntegrityError, connection, transaction
from django.utils import timezone

from fdrouter.errors import BlockExhausted, InvalidParameter, QuotaSpent
from privacy import ledger
from privacy.ledger import REPEATED, RESERVED, Charge, Request
from privacy.models import Entry, EntryKind, Reservation, ReservationState, Scope, ScopeKind, Unit
from tests.privacy.ledger.books import audit, block, kept, next_day, quota, request, used

pytestmark = pytest.mark.django_db


def test_reserving_charges_every_scope_and_remembers_the_event() -> None:
    mine, ours = quota(10), quota(20, kind=ScopeKind.DEPARTMENT)
    wish = Request(id=uuid.uuid4(), charges=[Charge(mine.pk, 4), Charge(ours.pk, 5)], event={"rho": 0.25})
    assert ledger.reserve(wish, seconds=60)
    assert (used(mine), used(ours)) == (4, 5)
    row = Reservation.objects.get(pk=wish.id)
    assert (row.state, row.event, row.ended_at) == (ReservationState.RESERVED, {"rho": 0.25}, None)
    assert timedelta(seconds=50) < row.expires_at - timezone.now() <= timedelta(seconds=60)
    audit([mine, ours])


def test_a_scope_can_be_spent_to_the_last_unit_and_not_one_more() -> None:
    scope = block(10)
    assert ledger.reserve(request((scope, 10)))
    with pytest.raises(BlockExhausted) as refused:
        ledger.reserve(request((scope, 1)))
    assert refused.value.details["used"] == refused.value.details["cap"] == 10
    assert refused.value.details["needed"] == 1
    audit([scope])


def test_a_refusal_charges_no_scope_at_all() -> None:
    rich, poor = quota(100), quota(3, kind=ScopeKind.DEPARTMENT)
    wish = request((rich, 5), (poor, 5))
    with pytest.raises(QuotaSpent) as refused:
        ledger.reserve(wish)
    assert refused.value.details["scope"] == ScopeKind.DEPARTMENT
    assert refused.value.details["key"] == poor.key
    assert (used(rich), used(poor)) == (0, 0)
    assert not Reservation.objects.filter(pk=wish.id).exists()
    assert not Entry.objects.filter(scope__in=[rich, poor]).exists()


def test_a_refusal_names_the_first_scope_that_cannot_pay_in_id_order() -> None:
    first, second = quota(1), quota(1, unit=Unit.REQUESTS)
    assert ledger.reserve_many([request((second, 2), (first, 2))]) == [first.pk]


def test_a_batch_is_served_in_order_until_the_money_is_gone() -> None:
    mine, ours = quota(10), block(100)
    batch = [request((mine, amount), (ours, 1)) for amount in (4, 5, 3, 1, 1)]
    verdicts = ledger.reserve_many(batch)
    assert verdicts == [RESERVED, RESERVED, mine.pk, RESERVED, mine.pk]
    assert (used(mine), used(ours)) == (10, 3)
    audit([mine, ours])


def test_a_batch_with_a_refusal_leaves_nothing_of_its_first_attempt() -> None:
    """The quick way charges the whole batch first; when that does not fit its traces must be gone."""
    mine, ours = quota(3), quota(50)
    ledger.reserve_many([request((ours, 7)), request((mine, 4), (ours, 7)), request((ours, 7))])
    assert (used(mine), used(ours)) == (0, 14)
    audit([mine, ours])


@pytest.mark.parametrize("amount", [2**63 - 1, 2**62])
def test_an_absurd_amount_is_refused_and_not_an_overflow(amount: int) -> None:
    scope, other = block(10), block(2**63 - 1)
    assert ledger.reserve(request((scope, 3)))
    assert ledger.reserve_many([request((scope, amount)), request((scope, 7))]) == [scope.pk, RESERVED]
    verdicts = ledger.reserve_many([request((other, 2**63 - 1)), request((other, 2**63 - 1))])
    assert verdicts == [RESERVED, other.pk]
    audit([scope, other])


def test_a_key_is_paid_once() -> None:
    scope = quota(100)
    assert ledger.reserve(request((scope, 4), key="k"))
    assert not ledger.reserve(request((scope, 4), key="k"))
    assert ledger.reserve(request((scope, 4), key="k", owner="user:2")), "another person's key is another key"
    assert used(scope) == 8


def test_a_key_is_paid_once_when_it_comes_twice_in_one_batch() -> None:
    scope = quota(100)
    batch = [request((scope, 1), key="a"), request((scope, 1)), request((scope, 1), key="a"), request((scope, 1))]
    assert ledger.reserve_many(batch) == [RESERVED, RESERVED, REPEATED, RESERVED]
    assert used(scope) == 3
    audit([scope])


def _expire(reservation: uuid.UUID) -> bool:
    return reservation in ledger.expire()


@pytest.mark.parametrize("ended", ["settled", "released", "expired"])
def test_a_key_stays_paid_however_its_reservation_ended(ended: str) -> None:
    scope = quota(100)
    wish = request((scope, 4), key="k")
    ledger.reserve(wish, seconds=-1 if ended == "expired" else None)
    assert {"settled": ledger.settle, "released": ledger.release, "expired": _expire}[ended](wish.id)
    assert not ledger.reserve(request((scope, 4), key="k"))


def test_a_refused_key_may_try_again() -> None:
    scope = quota(3)
    with pytest.raises(QuotaSpent):
        ledger.reserve(request((scope, 4), key="k"))
    assert ledger.reserve(request((scope, 3), key="k"))


@pytest.mark.parametrize(("spent", "left"), [(None, 8), (8, 8), (3, 3), (0, 0), (99, 8), (-5, 0)])
def test_settling_keeps_what_was_spent_and_never_moves_more_than_was_reserved(spent: int | None, left: int) -> None:
    scope = block(10)
    wish = request((scope, 8))
    ledger.reserve(wish)
    assert ledger.settle(wish.id, spent)
    assert used(scope) == kept(wish.id, scope) == left
    audit([scope])


def test_settling_caps_each_line_by_itself() -> None:
    small, large = quota(10), block(100)
    wish = request((small, 2), (large, 50))
    ledger.reserve(wish)
    ledger.settle(wish.id, 20)
    assert (used(small), used(large)) == (2, 20)


@pytest.mark.parametrize("second", ["settle", "release", "expire"])
@pytest.mark.parametrize("first", ["settle", "release", "expire"])
def test_a_reservation_ends_once(first: str, second: str) -> None:
    scope = block(10)
    wish = request((scope, 8))
    ledger.reserve(wish, seconds=-1)
    ends = {
        "settle": lambda: ledger.settle(wish.id, 3),
        "release": lambda: ledger.release(wish.id),
        "expire": lambda: bool(ledger.expire()),
    }
    assert ends[first]()
    before, entries = used(scope), Entry.objects.count()
    assert not ends[second]()
    assert (used(scope), Entry.objects.count()) == (before, entries)
    assert before == {"settle": 3, "release": 0, "expire": 8}[first]


def test_ending_what_never_was_does_nothing() -> None:
    assert not ledger.settle(uuid.uuid4())
    assert not ledger.release(uuid.uuid4())


def test_expiry_takes_overdue_ones_alone_oldest_first_and_spares_those_named() -> None:
    scope = block(100)
    wishes = [request((scope, 1)) for _ in range(4)]
    for wish, seconds in zip(wishes, (-30, -20, -10, 60), strict=True):
        ledger.reserve(wish, seconds=seconds)
    assert ledger.expire(limit=1) == {wishes[0].id}
    assert ledger.expire(exclude=Reservation.objects.filter(pk=wishes[1].id)) == {wishes[2].id}
    assert ledger.expire() == {wishes[1].id}
    assert used(scope) == 4
    audit([scope])


def test_a_new_day_starts_with_the_first_charge() -> None:
    scope = quota(10)
    yesterday = request((scope, 9))
    ledger.reserve(yesterday)
    with pytest.raises(QuotaSpent):
        ledger.reserve(request((scope, 9)))
    next_day(scope)
    assert ledger.reserve(request((scope, 8)))
    assert used(scope) == 8
    assert Entry.objects.get(scope=scope, kind=EntryKind.RESET).amount == -9
    audit([scope])


def test_a_day_without_use_leaves_no_entry_when_it_ends() -> None:
    scope = quota(10)
    next_day(scope)
    assert ledger.reserve(request((scope, 1)))
    assert not Entry.objects.filter(scope=scope, kind=EntryKind.RESET).exists()
    audit([scope])


def test_what_goes_back_after_midnight_does_not_swell_the_new_day() -> None:
    scope = quota(10)
    yesterday = request((scope, 9))
    ledger.reserve(yesterday)
    next_day(scope)
    ledger.reserve(request((scope, 2)))
    assert ledger.release(yesterday.id)
    assert used(scope) == 2, "yesterday's refund belongs to yesterday"
    audit([scope])


def test_what_goes_back_before_the_new_day_has_begun_is_still_counted() -> None:
    scope = quota(10)
    yesterday = request((scope, 9))
    ledger.reserve(yesterday)
    next_day(scope)
    ledger.release(yesterday.id)
    assert used(scope) == 0
    assert ledger.reserve(request((scope, 10)))
    audit([scope])


def test_a_block_never_starts_again() -> None:
    scope = block(10)
    ledger.reserve(request((scope, 10)))
    Scope.objects.filter(pk=scope.pk).update(time_zone="Pacific/Kiritimati")
    with pytest.raises(BlockExhausted):
        ledger.reserve(request((scope, 1)))
    with pytest.raises(IntegrityError), transaction.atomic():
        Scope.objects.filter(pk=scope.pk).update(resets=True, period="2026-01-01")


@pytest.mark.parametrize("charges", [[(0, -1)], [(0, 1), (0, 1)]], ids=["negative", "same scope twice"])
def test_a_malformed_charge_is_refused(charges: list[tuple[int, int]]) -> None:
    scope = block(10)
    with pytest.raises(InvalidParameter):
        ledger.reserve(request(*[(scope, amount) for _, amount in charges]))
    assert used(scope) == 0


def test_a_charge_to_no_scope_is_refused_and_not_free() -> None:
    scope = block(10)
    missing = Request(id=uuid.uuid4(), charges=[Charge(scope.pk, 1), Charge(scope.pk + 10**6, 5)])
    with pytest.raises(IntegrityError), transaction.atomic():
        ledger.reserve(missing)
    assert used(scope) == 0
    assert not Reservation.objects.filter(pk=missing.id).exists()


def _sql(text: str, *values: int) -> None:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(text, values)


def test_the_database_refuses_overspending_and_negative_use_by_anybody() -> None:
    scope = block(10)
    for statement in (
        "UPDATE privacy_scope SET used = 11 WHERE id = %s",
        "UPDATE privacy_scope SET used = -1 WHERE id = %s",
    ):
        with pytest.raises(IntegrityError, match="scope_not_overspent"):
            _sql(statement, scope.pk)
    ledger.reserve(request((scope, 5)))
    for statement in (
        "UPDATE privacy_scope SET cap = 4 WHERE id = %s",
        "UPDATE privacy_scope SET cap = cap + 1 WHERE id = %s",
        "UPDATE privacy_scope SET epsilon = 99 WHERE id = %s",
        "UPDATE privacy_scope SET delta = 0.1 WHERE id = %s",
        "UPDATE privacy_scope SET alpha = 2 WHERE id = %s",
        "UPDATE privacy_scope SET key = 'another' WHERE id = %s",
        "UPDATE privacy_scope SET kind = 'user' WHERE id = %s",
    ):
        with pytest.raises(IntegrityError, match="is frozen"):
            _sql(statement, scope.pk)


def test_a_retired_block_pays_for_nothing_and_stays_retired() -> None:
    spent, fresh = block(10), block(10)
    _sql("UPDATE privacy_scope SET retired_at = now() WHERE id = %s", spent.pk)
    with pytest.raises(BlockExhausted, match="retired"):
        ledger.reserve(request((spent, 1)))
    verdicts = ledger.reserve_many([request((spent, 1)), request((fresh, 1)), request((fresh, 1), (spent, 1))])
    assert verdicts == [spent.pk, 0, spent.pk]
    assert (used(spent), used(fresh)) == (0, 1)
    for statement in (
        "UPDATE privacy_scope SET retired_at = NULL WHERE id = %s",
        "UPDATE privacy_scope SET retired_at = now() + interval '1 h' WHERE id = %s",
    ):
        with pytest.raises(IntegrityError, match="is frozen"):
            _sql(statement, spent.pk)


def test_lines_of_different_units_are_settled_each_by_its_own() -> None:
    first, second, third = block(100), block(100), block(100)
    paid = request((first, 40), (second, 60), (third, 20))
    ledger.reserve(paid)
    assert ledger.settle(paid.id, {first.pk: 10, second.pk: 90})
    assert (used(first), used(second), used(third)) == (10, 60, 20)
    assert not ledger.settle(paid.id, {first.pk: 0})
    assert used(first) == 10
    refunds = Entry.objects.filter(reservation_id=paid.id, kind="refund").values_list("scope", "amount")
    assert list(refunds) == [(first.pk, -30)]


def test_a_settlement_below_zero_gives_back_what_was_charged_and_no_more() -> None:
    scope = block(100)
    ledger.reserve(request((scope, 30)))
    paid = request((scope, 40))
    ledger.reserve(paid)
    assert ledger.settle(paid.id, {scope.pk: -50})
    assert used(scope) == 30


def test_the_database_refuses_a_negative_charge_that_would_refill_a_scope() -> None:
    scope = block(10)
    ledger.reserve(request((scope, 5)))
    with pytest.raises(DataError):
        _sql(
            "SELECT ledger_reserve(ARRAY[gen_random_uuid()], ARRAY[''], ARRAY[NULL]::text[], ARRAY[NULL]::jsonb[],"
            " interval '1 min', ARRAY[1], ARRAY[%s]::bigint[], ARRAY[-5]::bigint[])",
            scope.pk,
        )
    assert used(scope) == 5


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE privacy_entry SET amount = 0",
        "DELETE FROM privacy_entry",
        "UPDATE privacy_entry SET amount = 0 WHERE false",
        "TRUNCATE privacy_entry",
    ],
)
def test_entries_are_append_only(statement: str) -> None:
    scope = block(10)
    ledger.reserve(request((scope, 5)))
    _sql("SET CONSTRAINTS ALL IMMEDIATE")  # else TRUNCATE stops at checks that wait for the commit
    with pytest.raises(IntegrityError, match="append-only"):
        _sql(statement)
    assert Entry.objects.filter(scope=scope).count() == 1


def test_a_replica_session_cannot_slip_past_the_append_only_rule() -> None:
    ledger.reserve(request((block(10), 5)))
    with pytest.raises(IntegrityError, match="append-only"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute("DELETE FROM privacy_entry")


def test_a_reservation_belongs_to_its_transaction() -> None:
    scope = block(10)
    wish = request((scope, 5))
    with pytest.raises(RuntimeError, match="the action failed"), transaction.atomic():
        ledger.reserve(wish)
        raise RuntimeError("the action failed")
    assert used(scope) == 0
    assert not Reservation.objects.filter(pk=wish.id).exists()
