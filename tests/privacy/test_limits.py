"""The document of daily limits: what it may say, what applying it does to open quotas, and the command."""

from __future__ import annotations

import copy
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction

from compliance.models import Event
from fdrouter.errors import InvalidParameter, QuotaSpent
from privacy import ledger, limits, quotas
from privacy.ledger import Charge
from privacy.models import LimitDocument, Scope, ScopeKind, Unit
from tests.accounts import people
from tests.privacy.ledger.books import request

SHIPPED = Path(__file__).resolve().parents[2] / "configs" / "privacy_budgets.yaml"


def document(**hospitals: Any) -> dict[str, Any]:
    return copy.deepcopy(limits.BUILT_IN) | {"hospitals": hospitals}


def test_the_shipped_document_says_what_is_built_in() -> None:
    assert yaml.safe_load(SHIPPED.read_text(encoding="utf-8")) == limits.BUILT_IN


def test_the_most_specific_limit_counts() -> None:
    found = limits.parse(
        document(
            northfield={
                "department": {"epsilon": 7},
                "departments": {"research": {"epsilon": 4}, "oncology": {"requests": 9}},
                "user": {"epsilon": 1.5},
            }
        )
    )
    epsilon, requests = Unit.MICRO_EPSILON, Unit.REQUESTS
    assert found.cap(ScopeKind.DEPARTMENT, epsilon, "northfield", "research") == 4_000_000
    assert found.cap(ScopeKind.DEPARTMENT, epsilon, "northfield", "emergency") == 7_000_000, "the hospital's own usual"
    assert found.cap(ScopeKind.DEPARTMENT, epsilon, "lakeside", "emergency") == 20_000_000
    assert found.cap(ScopeKind.DEPARTMENT, requests, "northfield", "oncology") == 9
    assert found.cap(ScopeKind.USER, epsilon, "northfield") == 1_500_000
    assert found.cap(ScopeKind.USER, requests, "northfield") == 2_000
    assert found.cap(ScopeKind.HOSPITAL, epsilon, "lakeside") == 60_000_000


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", 2),
        ("surprise", 1),
        ("defaults", None),
        ("defaults.user", {"epsilon": 1}),
        ("defaults.user.epsilon", -1),
        ("defaults.user.epsilon", float("nan")),
        ("defaults.user.epsilon", float("inf")),
        ("defaults.user.epsilon", 1e308),
        ("defaults.user.epsilon", True),
        ("defaults.user.epsilon", "10"),
        ("defaults.user.requests", 1.5),
        ("defaults.hospital.requests", 5),
        ("defaults.departments.research", 3),
        ("hospitals.northfield.user.delta", 1),
        ("hospitals.nowhere", {}),
        ("hospitals.northfield.departments.astrology", {"epsilon": 1}),
    ],
)
def test_a_bad_document_is_refused_with_the_place(path: str, value: Any) -> None:
    bad: dict[str, Any] = document(northfield={"user": {}})
    place = bad
    *parents, last = path.split(".")
    for name in parents:
        place = place.setdefault(name, {})
    place[last] = value
    with pytest.raises(InvalidParameter) as refused:
        limits.parse(bad, hospitals={"northfield": {"research"}})
    field = str(refused.value.details["field"])
    assert path.startswith(field) or field.startswith(path)


@pytest.mark.django_db
def test_applying_moves_open_quotas_and_those_opened_later() -> None:
    ada = people.principal(people.person("ada", works_in=people.department("research")))
    scopes = quotas.scopes_for(ada)
    wanted = limits.parse(document(northfield={"departments": {"research": {"epsilon": 4}}}))
    assert [(c.before, c.after) for c in limits.changes(wanted)] == [(2_000_000, 4_000_000)]
    assert not LimitDocument.objects.exists(), "looking changes nothing"
    limits.apply(wanted, by="root")
    assert Scope.objects.get(pk=scopes.department_epsilon).cap == 4_000_000
    assert limits.changes(wanted) == []
    later = quotas.scopes_for(people.principal(people.person("ben", works_in=people.department("general"))))
    assert Scope.objects.get(pk=later.department_epsilon).cap == 5_000_000
    assert Event.objects.get(kind="limits.apply").details == {"digest": wanted.digest, "changed": 1}


@pytest.mark.django_db
def test_a_cap_below_what_was_used_today_stops_the_day_and_counts_from_tomorrow() -> None:
    ada = people.principal(people.person("ada"))
    scopes = quotas.scopes_for(ada)
    own = Scope.objects.get(pk=scopes.user_epsilon)
    ledger.reserve(request((own, 6_000_000)))
    limits.apply(limits.parse(document(northfield={"user": {"epsilon": 5}})), by="root")
    own.refresh_from_db()
    assert (own.cap, own.used, own.limit) == (5_000_000, 6_000_000, 6_000_000)
    with pytest.raises(QuotaSpent):
        ledger.reserve(ledger.Request(id=request().id, charges=[Charge(own.pk, 1)]))


@pytest.mark.django_db
def test_an_applied_document_stays() -> None:
    limits.apply(limits.parse(document()), by="root")
    with pytest.raises(IntegrityError), transaction.atomic():
        LimitDocument.objects.update(applied_by="somebody else")


def run(file: Path, *options: str) -> str:
    out = StringIO()
    call_command("privacy_budgets", str(file), *options, stdout=out)
    return out.getvalue()


@pytest.mark.django_db
def test_the_command_shows_first_and_applies_when_told(tmp_path: Path) -> None:
    quotas.scopes_for(people.principal(people.person("ada", works_in=people.department("research"))))
    file = tmp_path / "budgets.yaml"
    file.write_text(yaml.safe_dump(document(northfield={"departments": {"research": {"epsilon": 4}}})))
    shown = run(file)
    assert "northfield / department Research: 2 epsilon -> 4 epsilon a day" in shown
    assert "nothing was changed" in shown and not LimitDocument.objects.exists()
    assert "applied" in run(file, "--apply")
    assert "0 open quotas differ; the document is the one in force" in run(file)


@pytest.mark.django_db
@pytest.mark.parametrize("text", ["version: [", "- 1", "version: 1", "\0"])
def test_the_command_refuses_what_is_no_document(tmp_path: Path, text: str) -> None:
    file = tmp_path / "budgets.yaml"
    file.write_text(text)
    with pytest.raises(CommandError):
        run(file, "--apply")
    assert not LimitDocument.objects.exists()


@pytest.mark.django_db
def test_the_command_names_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="missing.yaml"):
        run(tmp_path / "missing.yaml")
