"""Wishes for more of a quota: who may ask and decide, what the day's books show, and two decisions at once."""

from __future__ import annotations

import uuid
from datetime import date
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction

from accounts.models import Role
from accounts.principals import Principal
from compliance.models import Event
from fdrouter.errors import Conflict, DomainError, InvalidParameter, NotFound, PolicyDenied, QuotaSpent
from privacy import grants, ledger, quotas
from privacy.models import GrantState, QuotaGrant, Scope, Unit
from privacy.selectors import balances
from tests.accounts import people
from tests.privacy.ledger.books import audit, block, next_day, race, request

pytestmark = pytest.mark.django_db
REASON = "a child with an unknown intoxication"


def clinician(name: str = "ada", department: str = "research", hospital: Any = None) -> Principal:
    return people.principal(people.person(name, works_in=people.department(department, hospital)))


def officer(name: str = "olivia", hospital: Any = None, *, network: bool = False) -> Principal:
    return people.principal(people.person(name, Role.PRIVACY_OFFICER, at=hospital, network=network))


def ask(who: Principal, **changes: Any) -> QuotaGrant:
    wish: dict[str, Any] = {"target": "department", "epsilon": 3.0, "reason": REASON} | changes
    return grants.request(who, **wish)


def left(who: Principal, scope: str = "department") -> float:
    return next(g.left for g in balances(who) if g.scope == scope and g.unit == Unit.MICRO_EPSILON)


def test_an_approved_wish_can_be_spent_today() -> None:
    ada = clinician()
    wish = ask(ada)
    assert left(ada) == 2.0, "asking gives nothing"
    decided = grants.decide(officer(), wish.pk, approve=True)
    assert decided.state == GrantState.APPROVED and left(ada) == 5.0
    charges = quotas.scopes_for(ada).charges(5_000_000)
    assert ledger.reserve(ledger.Request(id=uuid.uuid4(), charges=charges))
    assert left(ada) == 0.0
    audit()
    kinds = list(Event.objects.filter(subject=wish.pk).order_by("pk").values_list("kind", flat=True))
    assert kinds == ["quota.request", "quota.grant"]


def test_a_grant_ends_with_its_day() -> None:
    ada = clinician()
    grants.decide(officer(), ask(ada).pk, approve=True)
    scope = Scope.objects.get(pk=quotas.scopes_for(ada).department_epsilon)
    Scope.objects.filter(pk=scope.pk).update(time_zone="Etc/GMT+12", period="2001-01-01")
    next_day(scope)
    with pytest.raises(QuotaSpent):
        ledger.reserve(request((scope, 2_000_001)))
    assert ledger.reserve(request((scope, 2_000_000)))
    scope.refresh_from_db()
    assert scope.extra == 0


def test_a_denied_wish_changes_nothing() -> None:
    ada = clinician()
    grants.decide(officer(), ask(ada).pk, approve=False)
    assert left(ada) == 2.0
    assert ask(ada).state == GrantState.REQUESTED, "one may ask again"


def test_another_department_gives_what_it_can_spare_and_not_more() -> None:
    ada, ben, olivia = clinician(), clinician("ben", "general"), officer()
    assert left(ben) == 5.0
    grants.decide(olivia, ask(ada, source="general").pk, approve=True)
    assert (left(ada), left(ben)) == (5.0, 2.0)
    wish = ask(ada, source="general")
    with pytest.raises(QuotaSpent, match="General"):
        grants.decide(olivia, wish.pk, approve=True)
    wish.refresh_from_db()
    assert wish.state == GrantState.REQUESTED and (left(ada), left(ben)) == (5.0, 2.0)
    audit()


@pytest.mark.parametrize("target", ["user", "department", "hospital"])
def test_each_quota_of_a_person_can_be_asked_for(target: str) -> None:
    ada = clinician()
    before = left(ada, target)
    grants.decide(officer(), ask(ada, target=target).pk, approve=True)
    assert left(ada, target) == before + 3.0


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"target": "block"}, "target"),
        ({"epsilon": 0}, "epsilon"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"epsilon": 1e308}, "epsilon"),
        ({"epsilon": True}, "epsilon"),
        ({"epsilon": "3"}, "epsilon"),
        ({"reason": " \n "}, "reason"),
        ({"reason": "x" * 301}, "reason"),
        ({"source": "research"}, "source"),
    ],
)
def test_bad_wishes_are_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        ask(clinician(), **changes)
    assert refused.value.details["field"] == field
    assert not QuotaGrant.objects.exists()


def test_a_department_that_is_not_there_gives_nothing() -> None:
    with pytest.raises(NotFound):
        ask(clinician(), source="astrology")


def test_one_open_wish_a_quota() -> None:
    ada = clinician()
    ask(ada)
    with pytest.raises(Conflict):
        ask(ada, epsilon=1.0)
    ask(ada, target="user")


def test_who_asks_nothing_gets_nothing() -> None:
    with pytest.raises(PolicyDenied):
        ask(officer())


def test_only_the_right_officer_decides() -> None:
    elsewhere = people.hospital("lakeside", "Lakeside")
    wish = ask(clinician())
    wrong = [clinician("ben", "general"), officer("lara", elsewhere), clinician("eve", "general", elsewhere)]
    wrong.append(people.principal(people.person("ann", Role.ADMINISTRATOR)))
    for who in wrong:
        with pytest.raises(NotFound):
            grants.decide(who, wish.pk, approve=True)
        assert wish not in grants.waiting(who)
    right = officer("nora", network=True)
    assert grants.waiting(right) == [wish]
    grants.decide(right, wish.pk, approve=True)
    assert grants.waiting(right) == []
    with pytest.raises(Conflict):
        grants.decide(right, wish.pk, approve=False)


def test_nobody_decides_their_own_wish_even_in_the_database() -> None:
    ada = clinician()
    wish = ask(ada)
    with pytest.raises(IntegrityError), transaction.atomic():
        QuotaGrant.objects.filter(pk=wish.pk).update(
            state=GrantState.APPROVED, decided_by=ada.user_id, decided_at=wish.requested_at
        )


def test_yesterdays_wish_cannot_be_approved() -> None:
    ada, olivia = clinician(), officer()
    scope = quotas.scopes_for(ada).department_epsilon
    wish = QuotaGrant.objects.create(
        id=uuid.uuid4(), scope_id=scope, amount=1, reason=REASON, period=date(2001, 1, 1), requested_by=ada.user_id
    )
    assert grants.waiting(olivia) == []
    with pytest.raises(Conflict):
        grants.decide(olivia, wish.pk, approve=True)
    assert grants.decide(olivia, wish.pk, approve=False).state == GrantState.DENIED


def test_a_decision_is_final_and_wishes_are_kept() -> None:
    wish = ask(clinician())
    grants.decide(officer(), wish.pk, approve=False)
    with pytest.raises(IntegrityError), transaction.atomic():
        QuotaGrant.objects.filter(pk=wish.pk).update(state=GrantState.APPROVED)
    with pytest.raises(IntegrityError), transaction.atomic():
        QuotaGrant.objects.all().delete()


def test_a_block_is_never_granted_anything() -> None:
    scope = block(100)
    with pytest.raises(Exception, match="only quotas"), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT ledger_grant(%s, NULL, 5)", [scope.pk])
    with pytest.raises(IntegrityError), transaction.atomic():
        Scope.objects.filter(pk=scope.pk).update(extra=5)


@pytest.mark.django_db(transaction=True)
def test_two_officers_at_once_grant_once() -> None:
    ada, officers = clinician(), [officer("olivia"), officer("nora", network=True)]
    wish = ask(ada)

    def approve(who: Principal) -> str:
        try:
            return grants.decide(who, wish.pk, approve=True).state
        except DomainError as error:
            return error.code

    found = race([lambda who=who: approve(who) for who in officers])  # type: ignore[misc]
    assert sorted(found) == ["approved", "conflict"]
    assert left(ada) == 5.0
