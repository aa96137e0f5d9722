"""What a person has left today."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest

from accounts.models import Role
from privacy import ledger, quotas
from privacy.models import Scope, Unit
from privacy.selectors import Gauge, balances, kept
from tests.accounts.people import department, hospital, person, principal

pytestmark = pytest.mark.django_db


def own(gauges: list[Gauge]) -> Gauge:
    return next(gauge for gauge in gauges if gauge.scope == "user" and gauge.is_privacy)


def test_a_fresh_person_has_the_usual_caps_untouched() -> None:
    gauges = balances(principal(person("ada", works_in=department("emergency"))))
    assert [(g.scope, g.unit, g.cap, g.used) for g in gauges] == [
        ("user", Unit.MICRO_EPSILON, 10.0, 0.0),
        ("department", Unit.MICRO_EPSILON, 20.0, 0.0),
        ("hospital", Unit.MICRO_EPSILON, 60.0, 0.0),
        ("user", Unit.REQUESTS, 2000.0, 0.0),
        ("department", Unit.REQUESTS, 50000.0, 0.0),
    ]


def test_a_charge_moves_the_persons_and_the_departments_gauge_and_nobody_elses() -> None:
    here, elsewhere = department("cardiology"), department("cardiology", hospital("lakeside", "Lakeside"))
    ada, colleague = principal(person("ada", works_in=here)), principal(person("ben", works_in=here))
    outsider = principal(person("eve", works_in=elsewhere))
    charges = quotas.scopes_for(ada).charges(quotas.micro(3.0))
    ledger.reserve(ledger.Request(id=uuid.uuid4(), charges=charges))
    assert [g.left for g in balances(ada)] == [7.0, 7.0, 57.0, 1999.0, 49999.0]
    assert [g.left for g in balances(colleague)] == [10.0, 7.0, 57.0, 2000.0, 49999.0]
    assert [g.left for g in balances(outsider)] == [10.0, 10.0, 60.0, 2000.0, 50000.0]


def test_yesterdays_use_does_not_count_today() -> None:
    ada = principal(person("ada"))
    scopes = quotas.scopes_for(ada)
    today = datetime.now(UTC).date()
    Scope.objects.filter(pk=scopes.user_epsilon).update(used=9_000_000, period=today - timedelta(days=1))
    assert own(balances(ada)).left == 10.0
    Scope.objects.filter(pk=scopes.user_epsilon).update(period=today)
    assert own(balances(ada)).left == 1.0


def test_quotas_refill_at_midnight_of_the_hospitals_zone() -> None:
    place = department(at=hospital("west", "West", "America/New_York"))
    gauge = own(balances(principal(person("ada", works_in=place)), now=datetime(2026, 11, 24, 3, 30, tzinfo=UTC)))
    # 22:30 on the 23rd in New York: the day began at 05:00 UTC on the 23rd.
    assert gauge.started_at == datetime(2026, 11, 23, 5, tzinfo=UTC)
    assert gauge.refills_at == datetime(2026, 11, 24, 5, tzinfo=UTC)


def test_a_day_of_25_hours_still_ends_at_midnight() -> None:
    place = department(at=hospital("west", "West", "America/New_York"))
    gauge = own(balances(principal(person("ada", works_in=place)), now=datetime(2026, 11, 1, 12, tzinfo=UTC)))
    assert gauge.refills_at - gauge.started_at == timedelta(hours=25)


def test_people_who_ask_nothing_have_no_gauges_and_open_none() -> None:
    assert balances(principal(person("olga", Role.NODE_OPERATOR))) == []
    assert not Scope.objects.exists()


def test_kept_is_what_stays_after_a_refund_and_only_of_ones_own() -> None:
    ada, ben = principal(person("ada")), principal(person("ben"))
    paid, released = uuid.uuid4(), uuid.uuid4()
    for row in (paid, released):
        ledger.reserve(ledger.Request(id=row, charges=quotas.scopes_for(ada).charges(quotas.micro(3.0))))
    ledger.settle(paid)
    ledger.release(released)
    assert kept(ada, [paid, released]) == {paid: 3.0, released: 0.0}
    assert kept(ben, [paid, released]) == {}
