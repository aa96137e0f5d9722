"""Claim, route, finish: one worker holds a row, one attempt ends it, and its evidence is complete."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from django.db import transaction
from django.utils import timezone

from accounts.models import User
from compliance.models import Event
from federation.models import Inference
from privacy import quotas
from privacy.models import Reservation, Scope
from tests.accounts import people
from tests.federation import rows
from tests.federation.desk import End, admit, claim, cohort, events, finish, prepared, route
from tests.privacy.ledger.books import audit, race

ADMITTED = ["policy.decision:allowed", "request.submit:ok", "ledger.reserve:ok"]
RECEIPT = {"digest": "ab" * 32, "body": {"mechanism": {"name": "token_decoding"}}}


@pytest.fixture
def ada() -> User:
    return people.person("ada")


@pytest.fixture
def row(ada: User) -> uuid.UUID:
    item = prepared(ada, cohort())
    admit(item)
    return item.id


def lose(row: uuid.UUID) -> None:
    """The worker that held the row stops renewing its lease."""
    Inference.objects.filter(pk=row).update(lease=timezone.now() - timedelta(seconds=1))


def left() -> int:
    scope = Scope.objects.get(kind="user", unit="micro_epsilon")
    return scope.cap - scope.used


@pytest.mark.django_db
def test_a_queued_row_is_claimed_once(row: uuid.UUID) -> None:
    assert claim(row) == {row: 1}
    assert claim(row) == {}
    found = Inference.objects.get(pk=row)
    assert (found.state, found.attempt) == ("dispatched", 1)
    assert found.lease > timezone.now()


@pytest.mark.django_db
def test_unknown_rows_are_nobodys() -> None:
    assert claim(uuid.uuid4()) == {}


@pytest.mark.django_db
def test_a_lost_row_is_claimed_again_as_the_next_attempt(row: uuid.UUID) -> None:
    claim(row)
    lose(row)
    assert claim(row) == {row: 2}
    assert claim(row) == {}


@pytest.mark.django_db
@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
def test_an_ended_row_is_never_claimed(state: str, row: uuid.UUID) -> None:
    claim(row)
    finish(End(row, state=state))
    lose(row)
    assert claim(row) == {}


@pytest.mark.django_db(transaction=True)
def test_many_workers_claim_a_row_once(row: uuid.UUID) -> None:
    for attempt in (1, 2, 3):
        won = race([lambda: claim(row)] * 8)
        assert [w for w in won if w] == [{row: attempt}]
        lose(row)


@pytest.mark.django_db
def test_a_route_is_recorded_for_the_present_attempt_only(row: uuid.UUID) -> None:
    rows.node(people.hospital())
    rows.node(people.hospital("lakeside", "Lakeside"))
    claim(row)
    route(row, 1, "northfield")
    lose(row)
    claim(row)
    route(row, 1, "lakeside")
    assert Inference.objects.get(pk=row).node_id == "northfield"
    event = Event.objects.get(kind="request.route")
    assert event.details == {"node": "northfield", "attempt": 1, "planner": "greedy"}
    assert event.hospital == "northfield"


@pytest.mark.django_db
def test_an_answer_settles_and_is_on_record(row: uuid.UUID) -> None:
    claim(row)
    assert finish(End(row, receipt=RECEIPT)) == {row}
    found = Inference.objects.get(pk=row)
    assert (found.state, bytes(found.answer or b""), found.prompt_tokens, found.completion_tokens) == (
        "done",
        b"sealed",
        11,
        5,
    )
    assert found.receipt == RECEIPT and found.finished_at is not None
    assert Reservation.objects.get(pk=row).state == "settled"
    assert events(row) == [*ADMITTED, "node.receipt:ok", "ledger.settle:ok", "request.finish:ok"]
    assert left() == 7_000_000
    audit()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("end", "expected", "charged"),
    [
        ({"state": "failed", "reason": "node_failed"}, ["ledger.settle:ok", "request.fail:node_failed"], True),
        (
            {"state": "failed", "reason": "no_node", "charged": False},
            ["ledger.release:ok", "request.fail:no_node"],
            False,
        ),
        ({"state": "cancelled", "reason": "cancelled"}, ["ledger.settle:ok", "request.cancel:cancelled"], True),
        (
            {"state": "cancelled", "reason": "cancelled", "charged": False},
            ["ledger.release:ok", "request.cancel:cancelled"],
            False,
        ),
    ],
    ids=["failed", "failed before sending", "cancelled", "cancelled before sending"],
)
def test_other_ends(end: dict[str, Any], expected: list[str], charged: bool, row: uuid.UUID) -> None:
    claim(row)
    assert finish(End(row, **end)) == {row}
    assert events(row) == [*ADMITTED, *expected]
    assert left() == (7_000_000 if charged else 10_000_000)
    assert Reservation.objects.get(pk=row).state == ("settled" if charged else "released")
    requests = Scope.objects.get(kind="user", unit="requests")
    assert requests.used == int(charged)
    audit()


@pytest.mark.django_db
def test_a_row_ends_once(row: uuid.UUID) -> None:
    claim(row)
    assert finish(End(row)) == {row}
    before = events(row)
    assert finish(End(row, state="failed", reason="node_failed", charged=False)) == set()
    assert finish(End(row)) == set()
    assert events(row) == before
    assert left() == 7_000_000


@pytest.mark.django_db
def test_an_older_attempt_ends_nothing(row: uuid.UUID) -> None:
    claim(row)
    lose(row)
    claim(row)
    assert finish(End(row, attempt=1, answer=b"late")) == set()
    assert Inference.objects.get(pk=row).state == "dispatched"
    assert Reservation.objects.get(pk=row).state == "reserved"
    assert events(row) == ADMITTED
    assert finish(End(row, attempt=2, answer=b"in time")) == {row}
    assert bytes(Inference.objects.get(pk=row).answer or b"") == b"in time"


@pytest.mark.django_db
def test_attempts_to_come_end_nothing_either(row: uuid.UUID) -> None:
    claim(row)
    assert finish(End(row, attempt=2), End(uuid.uuid4())) == set()


@pytest.mark.django_db(transaction=True)
def test_many_workers_end_a_row_once(row: uuid.UUID) -> None:
    claim(row)
    ends = [End(row, answer=b"a"), End(row, state="failed", reason="node_failed", charged=False)] * 4

    def run(end: End) -> Any:
        def step() -> set[uuid.UUID]:
            with transaction.atomic():
                return finish(end)

        return step

    won = race([run(end) for end in ends])
    assert [w for w in won if w] == [{row}]
    found = Inference.objects.get(pk=row)
    assert left() == (7_000_000 if found.state == "done" else 10_000_000)
    assert len(events(row)) == len(ADMITTED) + 2
    audit()


@pytest.mark.django_db
def test_a_queued_row_can_fail_but_not_answer(row: uuid.UUID) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="cannot go from queued to done"), transaction.atomic():
        finish(End(row, attempt=0))
    assert finish(End(row, attempt=0, state="cancelled", reason="cancelled", charged=False)) == {row}
    assert left() == 10_000_000


@pytest.mark.django_db
def test_a_batch_ends_each_row_its_own_way(ada: User) -> None:
    items = [prepared(ada, cohort(2.0)) for _ in range(4)]
    admit(*items)
    ids = [item.id for item in items]
    claim(*ids[:3])
    ended = finish(
        End(ids[2], receipt=RECEIPT),
        End(ids[0], state="failed", reason="no_node", charged=False),
        End(ids[1], attempt=7),
        End(ids[3], attempt=0, state="cancelled", reason="cancelled", charged=False),
    )
    assert ended == {ids[0], ids[2], ids[3]}
    states = dict(Inference.objects.values_list("pk", "state"))
    assert [states[pk] for pk in ids] == ["failed", "dispatched", "done", "cancelled"]
    assert left() == 6_000_000
    admitted = ["policy.decision", "request.submit", "ledger.reserve", "ledger.entries"]
    order = Event.objects.exclude(kind__in=admitted).order_by("seq")
    assert list(dict.fromkeys(e.subject for e in order)) == [ids[2], ids[0], ids[3]], "in the batch's order"
    audit()


@pytest.mark.django_db
def test_ending_nothing_is_harmless() -> None:
    assert finish() == set()
    assert claim() == {}


@pytest.mark.django_db
def test_an_expired_reservation_is_not_charged_again_by_a_late_answer(row: uuid.UUID) -> None:
    from privacy import ledger

    claim(row)
    Reservation.objects.filter(pk=row).update(expires_at=timezone.now() - timedelta(seconds=1))
    assert ledger.expire() == {row}
    assert finish(End(row, state="failed", reason="no_node", charged=False)) == {row}
    assert left() == 7_000_000, "nobody can say any more that no data was seen"
    assert Reservation.objects.get(pk=row).state == "expired"
    audit()


@pytest.mark.django_db
def test_ends_of_many_people_are_settled_each_to_their_own(ada: User) -> None:
    ben = people.person("ben", works_in=people.department("oncology"))
    mine, theirs = prepared(ada, cohort(2.0)), prepared(ben, cohort(3.0))
    admit(mine, theirs)
    claim(mine.id, theirs.id)
    finish(End(mine.id, charged=False, state="failed", reason="no_node"), End(theirs.id))
    used = {s.key: s.used for s in Scope.objects.filter(kind="user", unit="micro_epsilon")}
    assert used == {quotas.user_key(ada.pk): 0, quotas.user_key(ben.pk): 3_000_000}
