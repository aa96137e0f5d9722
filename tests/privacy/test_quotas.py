"""Quotas of people and departments: caps, keys, days, and two processes that open them at once."""

from __future__ import annotations

import uuid
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from django.db import transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from accounts.models import Role
from fdrouter.errors import QuotaSpent
from privacy import ledger, quotas
from privacy.ledger import Charge, Request
from privacy.models import Scope, ScopeKind, Unit
from tests.accounts import people
from tests.privacy.ledger.books import audit, race


def scopes(user_id: int) -> dict[tuple[str, str], Scope]:
    return {(s.kind, s.unit): s for s in Scope.objects.all()}


@pytest.mark.parametrize(
    ("epsilon", "expected"),
    [(0.0, 0), (1e-9, 1), (1e-6, 1), (1.1e-6, 2), (0.1, 100_000), (0.3, 300_000), (2.3, 2_300_000), (3.0, 3_000_000)],
)
def test_micro(epsilon: float, expected: int) -> None:
    assert quotas.micro(epsilon) == expected


@settings(deadline=None)
@given(st.floats(1e-3, 100))
def test_a_charge_is_never_less_than_the_claim(epsilon: float) -> None:
    charge = quotas.micro(epsilon)
    assert charge >= epsilon * quotas.MICRO - 1e-6, "but for rounding of the float itself"
    assert charge - 1 < epsilon * quotas.MICRO


@settings(deadline=None)
@given(st.integers(0, 10**8))
def test_whole_millionths_stay_what_they_are(amount: int) -> None:
    assert quotas.micro(amount / quotas.MICRO) == amount


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("department", "cap"),
    [("emergency", 20), ("radiology", 10), ("general", 5), ("research", 2), ("cardiology", 10), ("oncology", 10)],
)
def test_first_use_opens_the_scopes_with_the_usual_caps(department: str, cap: int) -> None:
    user = people.person("ada", works_in=people.department(department))
    found = quotas.scopes_for(people.principal(user))
    rows = scopes(user.pk)
    assert rows[ScopeKind.USER, Unit.MICRO_EPSILON].cap == 10_000_000
    assert rows[ScopeKind.DEPARTMENT, Unit.MICRO_EPSILON].cap == cap * 1_000_000
    assert rows[ScopeKind.HOSPITAL, Unit.MICRO_EPSILON].cap == 60_000_000
    assert rows[ScopeKind.USER, Unit.REQUESTS].cap == 2_000
    assert rows[ScopeKind.DEPARTMENT, Unit.REQUESTS].cap == 50_000
    assert (found.user_epsilon, found.department_requests) == (
        rows[ScopeKind.USER, Unit.MICRO_EPSILON].pk,
        rows[ScopeKind.DEPARTMENT, Unit.REQUESTS].pk,
    )
    assert all(row.resets and row.used == 0 and row.hospital == "northfield" for row in rows.values())


@pytest.mark.django_db
def test_the_second_use_finds_them_and_changes_nothing() -> None:
    principal = people.principal(people.person("ada"))
    first = quotas.scopes_for(principal)
    Scope.objects.filter(pk=first.user_epsilon).update(cap=5, label="smaller")
    assert quotas.scopes_for(principal) == first
    assert Scope.objects.get(pk=first.user_epsilon).cap == 5, "a cap that an officer lowered stays"
    assert Scope.objects.count() == 5


@pytest.mark.django_db
def test_colleagues_share_the_departments_scopes_and_no_others() -> None:
    cardiology = people.department("cardiology")
    a, b = (quotas.scopes_for(people.principal(people.person(name, works_in=cardiology))) for name in ("ada", "ben"))
    assert a.department_epsilon == b.department_epsilon and a.department_requests == b.department_requests
    assert a.user_epsilon != b.user_epsilon and a.user_requests != b.user_requests


@pytest.mark.django_db
def test_the_same_department_of_two_hospitals_is_two_departments() -> None:
    other = people.hospital("lakeside", "Lakeside")
    a = quotas.scopes_for(people.principal(people.person("ada", works_in=people.department("radiology"))))
    b = quotas.scopes_for(people.principal(people.person("ben", works_in=people.department("radiology", other))))
    assert a.department_epsilon != b.department_epsilon


@pytest.mark.django_db
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Etc/GMT+12", "UTC"])
def test_a_quotas_day_is_the_hospitals(zone: str) -> None:
    home = people.hospital("far", "Far away", time_zone=zone)
    found = quotas.scopes_for(people.principal(people.person("ada", works_in=people.department("general", home))))
    row = Scope.objects.get(pk=found.user_epsilon)
    assert (row.time_zone, row.period) == (zone, datetime.now(ZoneInfo(zone)).date())


@pytest.mark.django_db
def test_a_post_without_a_department_has_scopes_of_its_own() -> None:
    found = quotas.scopes_for(people.principal(people.person("paula", Role.PRIVACY_OFFICER, network=True)))
    assert Scope.objects.get(pk=found.department_epsilon).key == "department:0"


def test_charges_of_a_request() -> None:
    found = quotas.QuotaScopes(1, 2, 3, 4, 5)
    assert found.charges(0) == (Charge(4, 1), Charge(5, 1))
    assert set(found.charges(7)) == {Charge(1, 7), Charge(2, 7), Charge(3, 7), Charge(4, 1), Charge(5, 1)}


@pytest.mark.django_db
def test_a_persons_requests_stop_at_the_persons_cap_and_a_departments_at_the_departments() -> None:
    research = people.department("research")  # 2 a day, a person 10
    charges = quotas.scopes_for(people.principal(people.person("ada", Role.RESEARCHER, works_in=research))).charges
    assert ledger.reserve(Request(id=uuid.uuid4(), charges=charges(1_500_000)))
    with pytest.raises(QuotaSpent) as refused:
        ledger.reserve(Request(id=uuid.uuid4(), charges=charges(500_001)))
    assert refused.value.details["scope"] == ScopeKind.DEPARTMENT
    assert "Research" in refused.value.message
    assert ledger.reserve(Request(id=uuid.uuid4(), charges=charges(500_000)))
    assert ledger.reserve(Request(id=uuid.uuid4(), charges=charges(0))), "questions without a cost go on"
    audit()


@pytest.mark.django_db(transaction=True)
def test_many_processes_open_the_same_scopes_at_once() -> None:
    principal = people.principal(people.person("ada"))

    def open_and_pay() -> quotas.QuotaScopes:
        found = quotas.scopes_for(principal)
        with transaction.atomic():
            ledger.reserve(Request(id=uuid.uuid4(), charges=found.charges(1_000_000)))
        return found

    assert len(set(race([open_and_pay] * 8))) == 1
    assert Scope.objects.count() == 5
    assert Scope.objects.get(kind=ScopeKind.USER, unit=Unit.MICRO_EPSILON).used == 8_000_000
    audit()
