"""The names for budgets and accounting that the package offers: alone, and inside Django on the ledger."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection

import fdrouter
from fdrouter.sdk import budget as sdk_budget
from fdrouter.sdk.budget import BudgetManager
from privacy import budget, quotas
from privacy.models import Reservation, ReservationState, Scope, ScopeKind
from tests.accounts import people
from tests.privacy.ledger.books import audit, next_day, race

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("BudgetManager", "DPConfig", "InvalidParameter", "PrivacyAccountant", "PrivacyAmplifiedSampler")
SEED = {"emergency": 20.0, "radiology": 10.0, "general": 5.0, "research": 2.0}


def examples() -> list[str]:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    section = text.partition("### Budgets and accounting without a server")[2]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process without Django."""
    monkeypatch.setattr(sdk_budget, "_inside_django", lambda: False)


class Clock:
    def __init__(self) -> None:
        self.moment = datetime(2025, 3, 1, 22, 30, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.moment


# --- the package --------------------------------------------------------------------------------------------------
def test_the_examples_run_without_django_and_without_settings() -> None:
    assert len(examples()) == 3 and all(any(name in text for text in examples()) for name in NAMES[:2])
    program = "\n".join([*examples(), "import sys", "assert 'django' not in sys.modules and not budgets.ledger"])
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "0.0017" in done.stdout and "(0.8989, 1e-05)-DP for one patient (add_remove)" in done.stdout
    assert done.stdout.rstrip().endswith("0.5")


@pytest.mark.parametrize("name", NAMES)
def test_every_name_can_be_imported_and_is_listed(name: str) -> None:
    assert name in fdrouter.__all__ and getattr(fdrouter, name).__name__ == name


def test_one_error_says_that_a_budget_is_spent(alone: None) -> None:
    budgets = BudgetManager({"research": 1.0})
    with pytest.raises(fdrouter.PrivacyBudgetExceeded) as refused:
        budgets.deduct("research", 1.5)
    assert isinstance(refused.value, fdrouter.RouterError)
    assert (refused.value.code, refused.value.scope, refused.value.suggestions) == ("quota_spent", "department", [])
    assert refused.value.details["cap"] == 1_000_000 and refused.value.details["needed"] == 1_500_000
    assert fdrouter.PrivacyBudgetExceeded("Daily limit reached").message == "Daily limit reached"


# --- in memory ----------------------------------------------------------------------------------------------------
def test_a_budget_is_taken_whole_or_not_at_all(alone: None) -> None:
    budgets = BudgetManager(SEED)
    assert not budgets.ledger and budgets.departments == sorted(SEED)
    assert budgets.can_query("research", 2.0) and not budgets.can_query("research", 2.000001)
    assert budgets.deduct("research", 1.5) == 0.5
    with pytest.raises(fdrouter.PrivacyBudgetExceeded):
        budgets.deduct("research", 0.6)
    assert budgets.remaining("research") == 0.5 and budgets.remaining("general") == 5.0
    assert budgets.deduct("research", 0.5) == 0.0
    assert not budgets.can_query("research", 1e-9), "the smallest charge is a millionth"


def test_ten_tenths_are_one(alone: None) -> None:
    budgets = BudgetManager({"research": 1.0})
    for _ in range(10):
        budgets.deduct("research", 0.1)
    assert budgets.remaining("research") == 0.0


def test_threads_cannot_overspend_it(alone: None) -> None:
    budgets, paid = BudgetManager({"research": 1.0}), []
    start = threading.Barrier(8)

    def spend() -> None:
        start.wait()
        for _ in range(50):
            try:
                budgets.deduct("research", 0.01)
                paid.append(1)
            except fdrouter.PrivacyBudgetExceeded:
                return

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paid) == 100 and budgets.remaining("research") == 0.0


def test_a_day_is_that_of_its_time_zone_and_does_not_come_back(alone: None) -> None:
    clock = Clock()
    budgets = BudgetManager({"research": 2.0}, time_zone="Europe/Berlin", now=clock)
    budgets.deduct("research", 2.0)
    clock.moment += timedelta(minutes=29)
    assert budgets.remaining("research") == 0.0
    clock.moment += timedelta(minutes=1)
    assert budgets.remaining("research") == 2.0, "midnight in Berlin"
    budgets.deduct("research", 2.0)
    clock.moment -= timedelta(days=3)
    assert budgets.remaining("research") == 0.0, "a clock that is set back gives nothing back"


@pytest.mark.parametrize("epsilon", [0, -1, math.nan, math.inf, True, "1", None, 1e5])
def test_bad_amounts_are_refused_and_take_nothing(alone: None, epsilon: Any) -> None:
    budgets = BudgetManager(SEED)
    for call in (budgets.can_query, budgets.deduct):
        with pytest.raises(fdrouter.InvalidParameter) as refused:
            call("general", epsilon)
        assert refused.value.details["field"] == "epsilon"
    assert budgets.remaining("general") == 5.0


def test_what_protects_patients_is_no_amount_of_an_allowance(alone: None) -> None:
    accountant = fdrouter.PrivacyAccountant(fdrouter.DPConfig(epsilon_per_query=0.1)).record_query()
    with pytest.raises(fdrouter.InvalidParameter):
        BudgetManager(SEED).deduct("general", accountant.guarantee())  # type: ignore[arg-type]


@pytest.mark.parametrize("department", ["cardiology", "", None, 7, ["general"]])
def test_unknown_departments_are_refused(alone: None, department: Any) -> None:
    budgets = BudgetManager(SEED)
    for call in (lambda: budgets.can_query(department, 1), lambda: budgets.remaining(department)):
        with pytest.raises(fdrouter.InvalidParameter) as refused:
            call()
        assert refused.value.details["field"] == "department"


@pytest.mark.parametrize(
    "bad", [None, {}, [], {"": 1.0}, {1: 1.0}, *({"a": x} for x in (-1, math.nan, math.inf, True, "1"))]
)
def test_bad_limits_are_refused(alone: None, bad: Any) -> None:
    with pytest.raises(fdrouter.InvalidParameter) as refused:
        BudgetManager(bad)
    assert refused.value.details["field"] == "limits"


@pytest.mark.parametrize(
    ("argument", "value"), [("hospital", "northfield"), ("time_zone", "Mars/Olympus"), ("time_zone", "/")]
)
def test_what_memory_cannot_promise_is_refused(alone: None, argument: str, value: str) -> None:
    with pytest.raises(fdrouter.InvalidParameter) as refused:
        BudgetManager(SEED, **{argument: value})  # type: ignore[arg-type]
    assert refused.value.details["field"] == argument


# --- on the ledger ------------------------------------------------------------------------------------------------
@pytest.fixture
def northfield(db: None) -> None:
    assert django_settings.configured
    for code in SEED:
        people.department(code)


def scope(kind: ScopeKind) -> Scope:
    return Scope.objects.exclude(used=0).get(kind=kind)


@pytest.mark.usefixtures("northfield")
def test_inside_django_the_ledger_keeps_the_budgets() -> None:
    budgets = BudgetManager(SEED)
    assert budgets.ledger and budgets.departments == sorted(SEED)
    assert budgets.can_query("research", 1.5) and budgets.deduct("research", 1.5) == 0.5
    assert (scope(ScopeKind.DEPARTMENT).used, scope(ScopeKind.HOSPITAL).used) == (1_500_000, 1_500_000)
    reservation = Reservation.objects.get()
    assert (reservation.state, reservation.owner) == (ReservationState.SETTLED, budget.OWNER)
    assert BudgetManager(None, hospital="northfield").remaining("research") == 0.5, "another process sees it"
    assert not budgets.can_query("research", 0.6)
    with pytest.raises(fdrouter.PrivacyBudgetExceeded) as refused:
        budgets.deduct("research", 0.6)
    assert refused.value.scope == "department" and "Research" in refused.value.message
    assert Reservation.objects.count() == 1, "a refusal leaves nothing"
    audit()


@pytest.mark.usefixtures("northfield")
def test_people_and_programs_spend_from_the_same_budget() -> None:
    research = people.department("research")
    BudgetManager(SEED).deduct("research", 0.5)
    found = quotas.scopes_for(people.principal(people.person("ada", works_in=research)))
    assert Scope.objects.get(pk=found.department_epsilon).used == 500_000
    assert Scope.objects.get(pk=found.hospital_epsilon).used == 500_000


@pytest.mark.usefixtures("northfield")
def test_the_hospitals_allowance_pays_too() -> None:
    budgets = BudgetManager(SEED)
    budgets.deduct("emergency", 1.0)
    Scope.objects.filter(kind=ScopeKind.HOSPITAL).update(cap=1_500_000)
    assert budgets.remaining("emergency") == 0.5
    with pytest.raises(fdrouter.PrivacyBudgetExceeded) as refused:
        budgets.deduct("radiology", 1.0)
    assert refused.value.scope == "hospital"


@pytest.mark.usefixtures("northfield")
def test_a_new_day_begins_with_a_full_budget() -> None:
    budgets = BudgetManager(SEED)
    budgets.deduct("research", 2.0)
    for row in Scope.objects.all():
        Scope.objects.filter(pk=row.pk).update(time_zone="Etc/GMT+12", period="2025-01-01")
        next_day(row)
    assert budgets.remaining("research") == 2.0
    assert budgets.deduct("research", 0.5) == 1.5
    audit()


@pytest.mark.usefixtures("northfield")
@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"limits": {"research": 3.0}}, "limits"),
        ({"limits": {"oncology": 10.0}}, "limits"),
        ({"limits": SEED, "hospital": "elsewhere"}, "hospital"),
        ({"limits": SEED, "time_zone": "UTC"}, "time_zone"),
        ({"limits": SEED, "now": lambda: datetime.now(UTC)}, "time_zone"),
    ],
    ids=str,
)
def test_what_the_ledger_would_not_hold_to_is_refused(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(fdrouter.InvalidParameter) as refused:
        BudgetManager(**arguments)
    assert refused.value.details["field"] == field


@pytest.mark.usefixtures("northfield")
def test_with_several_hospitals_one_must_be_named() -> None:
    lakeside = people.hospital("lakeside", "Lakeside")
    people.department("research", lakeside)
    with pytest.raises(fdrouter.InvalidParameter) as refused:
        BudgetManager({"research": 2.0})
    assert refused.value.details["field"] == "hospital"
    BudgetManager({"research": 2.0}, hospital="northfield").deduct("research", 2.0)
    assert BudgetManager({"research": 2.0}, hospital="lakeside").remaining("research") == 2.0


@pytest.mark.django_db(transaction=True)
def test_racing_programs_cannot_overspend_it() -> None:
    people.department("research")

    def spend() -> int:
        try:
            BudgetManager({"research": 2.0}).deduct("research", 0.5)
            return 1
        except fdrouter.PrivacyBudgetExceeded:
            return 0
        finally:
            connection.close()

    assert sum(race([spend] * 8)) == 4
    assert BudgetManager({"research": 2.0}).remaining("research") == 0.0
    audit()
