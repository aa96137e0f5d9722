"""The ledger against a model of it in a page of Python: any order of steps, the same books."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from privacy import ledger
from privacy.ledger import REPEATED, RESERVED, Charge, Request
from privacy.models import Reservation, Scope, ScopeKind, Unit
from tests.privacy.ledger.books import audit, block, next_day, quota

pytestmark = pytest.mark.django_db

SPENT = st.one_of(st.none(), st.integers(-3, 40))


@dataclass
class Budget:
    """A scope as the model sees it. ``day`` is the day on its row, ``today`` the day on the wall."""

    row: Scope
    cap: int
    used: int = 0
    day: int = 0
    today: int = 0


@dataclass
class Promise:
    """A reservation: what it charged to which budget on which day, and how it ended."""

    lines: list[tuple[Budget, int, int]]
    state: str = "reserved"
    overdue: bool = False
    kept: dict[int, int] = field(default_factory=dict)


class Books(RuleBasedStateMachine):
    """Every rule does one step on the database and in the model; the invariants compare the two."""

    promises: Bundle[uuid.UUID] = Bundle("promises")

    def __init__(self) -> None:
        super().__init__()
        self.outer = transaction.atomic()
        self.outer.__enter__()
        self.budgets: list[Budget] = []
        self.found: dict[uuid.UUID, Promise] = {}
        self.keys: set[str] = set()
        self.salt = uuid.uuid4().hex

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.outer.__exit__(None, None, None)

    @initialize(caps=st.lists(st.integers(0, 40), min_size=3, max_size=3))
    def open(self, caps: list[int]) -> None:
        rows = [block(caps[0]), quota(caps[1]), quota(caps[2], kind=ScopeKind.DEPARTMENT, unit=Unit.REQUESTS)]
        self.budgets = [Budget(row, row.cap) for row in rows]

    @rule(target=promises, data=st.data())
    def reserve_batch(self, data: st.DataObject) -> MultipleResults[uuid.UUID]:
        lines = st.dictionaries(st.integers(0, 2), st.integers(0, 25), max_size=3)
        keys = st.sampled_from([None, None, "a", "b"])
        wishes = data.draw(st.lists(st.tuples(lines, keys), min_size=1, max_size=4))
        batch = [
            Request(
                id=uuid.uuid4(),
                charges=[Charge(self.budgets[nth].row.pk, amount) for nth, amount in wish.items()],
                owner=self.salt,
                idempotency_key=key,
            )
            for wish, key in wishes
        ]
        verdicts = ledger.reserve_many(batch)
        assert verdicts == self._expect(batch)
        admitted = [b.id for b, verdict in zip(batch, verdicts, strict=True) if verdict == RESERVED]
        return multiple(*admitted)

    def _expect(self, batch: list[Request]) -> list[int]:
        by_id = {budget.row.pk: budget for budget in self.budgets}
        for pk in {c.scope_id for request in batch for c in request.charges}:
            if by_id[pk].day < by_id[pk].today:
                by_id[pk].day, by_id[pk].used = by_id[pk].today, 0
        known = set(self.keys)
        verdicts = []
        for request in batch:
            key = request.idempotency_key
            if key is not None and key in known:
                verdicts.append(REPEATED)
                continue
            if key is not None:
                known.add(key)
            short = [c.scope_id for c in request.charges if by_id[c.scope_id].used + c.amount > by_id[c.scope_id].cap]
            verdicts.append(min(short, default=RESERVED))
            if short:
                continue
            if key is not None:
                self.keys.add(key)
            self.found[request.id] = Promise(
                [(by_id[c.scope_id], c.amount, by_id[c.scope_id].day) for c in request.charges]
            )
            for charge in request.charges:
                by_id[charge.scope_id].used += charge.amount
        return verdicts

    def _end(self, promise: Promise, state: str, spent: int | None) -> bool:
        if promise.state != "reserved":
            return False
        promise.state = state
        for budget, amount, day in promise.lines:
            if spent is not None and budget.day == day:
                budget.used -= amount - min(amount, max(spent, 0))
        return True

    @rule(promise=promises, spent=SPENT)
    def settle(self, promise: uuid.UUID, spent: int | None) -> None:
        assert ledger.settle(promise, spent) == self._end(self.found[promise], "settled", spent)

    @rule(promise=promises)
    def release(self, promise: uuid.UUID) -> None:
        assert ledger.release(promise) == self._end(self.found[promise], "released", 0)

    @rule(promise=promises)
    def let_time_pass(self, promise: uuid.UUID) -> None:
        Reservation.objects.filter(pk=promise).update(expires_at=timezone.now() - timedelta(seconds=1))
        self.found[promise].overdue = True

    @rule()
    def expire(self) -> None:
        overdue = {pk for pk, promise in self.found.items() if promise.overdue and promise.state == "reserved"}
        assert ledger.expire() == overdue
        for pk in overdue:
            self._end(self.found[pk], "expired", None)

    @rule(nth=st.integers(1, 2))
    def end_the_day(self, nth: int) -> None:
        next_day(self.budgets[nth].row)
        self.budgets[nth].today = 1

    @invariant()
    def the_books_agree(self) -> None:
        for budget in self.budgets:
            budget.row.refresh_from_db()
            assert budget.row.used == budget.used
        audit(budget.row for budget in self.budgets)
        rows = dict(Reservation.objects.filter(pk__in=self.found).values_list("pk", "state"))
        assert rows == {pk: promise.state for pk, promise in self.found.items()}


def test_any_order_of_steps_keeps_the_books_as_the_model_does() -> None:
    run_state_machine_as_test(
        Books,
        settings=settings(
            max_examples=40,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
