"""The ledger's audit: silent about honest books, and it names what somebody with the database's powers altered."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from federation.node import blocks
from privacy import ledger, quotas
from privacy.dp.cohort_plans import Plan, plan_choice, plan_count
from privacy.dp.text_plan import TextPlan, plan_text
from privacy.ledger import Charge, Request
from privacy.models import Entry, Reservation, Scope
from privacy.statement import Statement, second_opinion
from privacy.verify import verify
from tests.accounts import people

pytestmark = pytest.mark.django_db
PLANS: tuple[Plan, ...] = (plan_count(epsilon=0.5), plan_choice(options=3, epsilon=1.0), plan_text(epsilon=3.0))


def pay(plan: Plan, charges: list[Charge]) -> uuid.UUID:
    request = Request(id=uuid.uuid4(), charges=charges, event=plan.to_event())
    assert ledger.reserve(request)
    return request.id


@pytest.fixture
def books() -> Scope:
    """A block and a person's quotas, with requests that ended in every way."""
    block = blocks.create("northfield", "northfield", epsilon=10.0, delta=1e-5)
    person = quotas.scopes_for(people.principal(people.person("ada", works_in=people.department("emergency"))))
    for plan in PLANS:
        paid = pay(plan, [blocks.charge(block, plan)])
        ledger.settle(paid, blocks.spent(block, plan, 5))
        pay(plan, list(person.charges(quotas.micro(plan.epsilon))))
    with_curve = uuid.uuid4()
    blocks.pay(with_curve, PLANS[2], [block])
    ledger.release(with_curve)
    ledger.release(pay(PLANS[0], [blocks.charge(block, PLANS[0])]))
    pay(PLANS[1], [blocks.charge(block, PLANS[1])])
    block.refresh_from_db()
    return block


def test_honest_books_balance_and_two_accountants_agree(books: Scope) -> None:
    found = verify()
    assert found.faults == () and found.reservations == 9
    (report,) = found.blocks
    assert report.statement.requests == 4
    assert report.statement.plain_sum == pytest.approx(0.5 + 1.0 + 3.0 + 1.0)
    assert 0 < report.statement.composed < report.statement.plain_sum
    # Of a text's tokens that accountant knows the pure epsilon alone, so its figure is a bound from above.
    assert report.second is not None and report.second >= report.statement.composed
    figures = Statement(tuple(line for line in report.statement.lines if not isinstance(line.plan, TextPlan)), 0, 0, 3)
    exact = second_opinion(figures, 3.4, 1e-5)
    assert exact is not None and exact < 0.5 + 1.0 + 1.0


def test_an_empty_ledger_balances() -> None:
    assert verify().faults == ()


def test_the_command_prints_totals(books: Scope) -> None:
    out = StringIO()
    call_command("ledger", "verify", stdout=out)
    assert "block:northfield:1" in out.getvalue() and "every figure follows" in out.getvalue()


def alter(statement: str, *values: Any) -> None:
    """What the append-only triggers refuse, done by somebody who can switch them off."""
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # or the tables have pending events
        for table in ("privacy_entry", "privacy_scope", "privacy_reservation", "privacy_curve"):
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        cursor.execute("ALTER TABLE privacy_scope DROP CONSTRAINT IF EXISTS scope_not_overspent")
        cursor.execute(statement, values)
        assert cursor.rowcount


def lower_a_charge(block: Scope) -> None:
    entry = Entry.objects.filter(scope=block, kind="reserve").order_by("seq")[0]
    alter("UPDATE privacy_entry SET amount = amount - 1 WHERE seq = %s", entry.pk)
    alter("UPDATE privacy_scope SET used = used - 1 WHERE id = %s", block.pk)


def claim_less(block: Scope) -> None:
    row = Reservation.objects.filter(entries__scope=block, event__mechanism="choice").first()
    assert row is not None
    alter("UPDATE privacy_reservation SET event = event || '{\"epsilon\": 0.5}' WHERE id = %s", row.pk)


@pytest.mark.parametrize(
    ("deed", "named"),
    [
        (lambda b: alter("UPDATE privacy_scope SET used = used - 5 WHERE id = %s", b.pk), "entries add up to"),
        (lower_a_charge, "its event costs"),
        (claim_less, "its event costs -1"),
        (lambda b: alter("UPDATE privacy_scope SET cap = cap * 2 WHERE id = %s", b.pk), "is not the filter's"),
        (lambda b: alter("UPDATE privacy_scope SET alpha = 5.0 WHERE id = %s", b.pk), "is not the filter's"),
        (lambda b: alter("UPDATE privacy_reservation SET state = 'expired' WHERE state = 'settled'"), "given back"),
        (lambda b: alter("DELETE FROM privacy_entry WHERE kind = 'refund'"), "entries add up to"),
        (lambda b: alter("UPDATE privacy_scope SET used = cap + 1 WHERE id = %s", b.pk), "used of"),
        (lambda b: alter("UPDATE privacy_curve SET nano[3] = nano[3] - 1"), "is not its event's"),
        (lambda b: alter("UPDATE privacy_curve SET grid = 'orders-0'"), "which is not known"),
    ],
    ids=["used", "charge", "claim", "cap", "order", "state", "refund", "overspent", "curve", "grid"],
)
def test_an_altered_ledger_is_found_out(books: Scope, deed: Callable[[Scope], None], named: str) -> None:
    deed(books)
    faults = verify().faults
    assert any(named in fault for fault in faults), faults


def test_a_text_that_gave_back_a_part_of_a_token_is_found_out(books: Scope) -> None:
    paid = uuid.uuid4()
    blocks.pay(paid, PLANS[2], [books])
    ledger.settle(paid, blocks.spent(books, PLANS[2], 7) - 1)
    assert [fault for fault in verify().faults if "no number of its tokens" in fault]


def test_the_command_fails_for_an_altered_ledger(books: Scope) -> None:
    alter("UPDATE privacy_scope SET used = used - 5 WHERE id = %s", books.pk)
    with pytest.raises(CommandError, match="do not add up"):
        call_command("ledger", "verify", stdout=StringIO(), stderr=StringIO())
