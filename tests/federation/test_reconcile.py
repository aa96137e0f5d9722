"""A node that reports less than its own receipts add up to is an incident, recorded once for each figure."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from accounts.models import User
from compliance.models import Event
from federation.models import Kind, Node
from federation.reconcile import compare, reconcile
from privacy.dp.accounting import nano_rdp_up
from privacy.dp.across_plans import plan_count_across
from privacy.dp.cohort_plans import Plan, plan_choice, plan_count
from privacy.dp.text_plan import plan_text
from tests.accounts import people
from tests.federation import rows

pytestmark = pytest.mark.django_db
ALPHA, KEY = 3.4, "block:northfield:1"
TEXT, COUNT, CHOICE = plan_text(epsilon=3.0), plan_count(epsilon=0.5), plan_choice(options=3, epsilon=1.0)
PAID = nano_rdp_up(TEXT.rho_of(5), ALPHA) + COUNT.nano_at(ALPHA) + CHOICE.nano_at(ALPHA)


def answered(user: User, node: Node, kind: Kind, plan: Plan, *, tokens: int = 0, ago: int = 60, **more: Any) -> None:
    body = {"mechanism": {"name": plan.to_event()["mechanism"], **more}, "tokens": tokens, "block": {"key": KEY}}
    rows.request(
        user,
        "What helped?",
        kind=kind,
        epsilon=plan.epsilon,
        node=node,
        parameters=plan.to_event(),
        receipt={"body": body},
        finished_at=timezone.now() - timedelta(seconds=ago),
    )


def report(node: Node, used: int, **changes: Any) -> None:
    block = {**node.status["block"], "key": KEY, "used": used}
    node.status = {**node.status, "block": block, "checked_at": timezone.now().isoformat(), **changes}
    node.save()


@pytest.fixture
def node() -> Node:
    ada = people.person("ada", works_in=people.department("emergency"))
    node = rows.node(people.hospital())
    answered(ada, node, Kind.COHORT_TEXT, TEXT, tokens=5)
    answered(ada, node, Kind.COHORT_COUNT, COUNT)
    answered(ada, node, Kind.COHORT_CHOICE, CHOICE)
    answered(ada, node, Kind.COHORT_CHOICE, CHOICE, repeat_of="x")  # said again: nothing was spent
    answered(ada, node, Kind.COHORT_CHOICE, CHOICE, ago=2)  # perhaps younger than the report
    rows.request(ada, "In general?", node=node)
    return node


@pytest.mark.parametrize("more", [0, 10**6])
def test_a_node_that_reports_all_of_it_is_fine(node: Node, more: int) -> None:
    report(node, PAID + more)
    (found,) = reconcile()
    assert (found.proven, found.unreadable, found.is_incident) == (PAID, 0, False)
    assert not Event.objects.filter(kind="ledger.mismatch").exists()


def test_a_node_that_lost_charges_is_an_incident(node: Node) -> None:
    report(node, PAID - 1)
    assert [found.is_incident for found in reconcile()] == [True]
    event = Event.objects.get(kind="ledger.mismatch")
    assert (event.outcome, event.hospital) == ("incident", "northfield")
    assert event.details == {"node": node.pk, "block": KEY, "reported": PAID - 1, "proven": PAID}
    reconcile()
    assert Event.objects.filter(kind="ledger.mismatch").count() == 1
    node.refresh_from_db()
    report(node, PAID - 2)
    reconcile()
    assert Event.objects.filter(kind="ledger.mismatch").count() == 2


@pytest.mark.parametrize("status", [{"healthy": False}, {"block": None}, {"checked_at": None}])
def test_an_old_report_accuses_nobody(node: Node, status: dict[str, Any]) -> None:
    report(node, 0, **status)
    assert compare(node) == [] and reconcile() == []


def test_a_receipt_that_cannot_be_read_proves_nothing(node: Node) -> None:
    ada = User.objects.get(username="ada")
    answered(ada, node, Kind.COHORT_CHOICE, CHOICE)
    row = node.inference_set.order_by("-created_at").first()
    assert row is not None
    row.parameters = {**row.parameters, "sigma": 0.1}
    row.save()
    report(node, PAID)
    (found,) = reconcile()
    assert (found.unreadable, found.is_incident) == (1, False)


def test_what_several_hospitals_answered_together_is_proven_to_each(node: Node) -> None:
    plan, ada = plan_count_across(hospitals=3, epsilon=1.0), User.objects.get(username="ada")
    signed = [
        {"body": {"node": name, "mechanism": {"name": plan.name, "blocks": {f"block:{name}:1": 1}}, "tokens": 0}}
        for name in ("hillcrest", "lakeside", "northfield")
    ]
    for repeat in ({}, {"repeat_of": "x"}):
        body = {"mechanism": {"name": plan.name, **repeat}, "tokens": 0, "block": None}
        rows.request(
            ada,
            "How many?",
            kind=Kind.COHORT_COUNT,
            epsilon=plan.epsilon,
            parameters=plan.to_event(),
            receipt={"body": body, "receipts": signed},
            finished_at=timezone.now() - timedelta(seconds=60),
        )
    report(node, PAID + plan.nano_at(ALPHA))
    (found,) = reconcile()
    assert (found.proven, found.unreadable, found.is_incident) == (PAID + plan.nano_at(ALPHA), 0, False)
    report(node, PAID)
    assert [found.is_incident for found in reconcile()] == [True]


def test_every_block_is_compared_by_itself(node: Node) -> None:
    ada, other, alpha = User.objects.get(username="ada"), "block:northfield:2", 7.5
    answered(ada, node, Kind.COHORT_CHOICE, CHOICE, blocks={KEY: 1, other: 1})
    old = {**node.status["block"], "key": KEY, "used": PAID + CHOICE.nano_at(ALPHA)}
    new = {**old, "key": other, "alpha": alpha, "used": CHOICE.nano_at(alpha) - 1}
    report(node, 0, blocks=[old, new])
    assert [(found.block, found.is_incident) for found in reconcile()] == [(KEY, False), (other, True)]


def test_a_block_that_the_node_does_not_report_any_more_is_an_incident(node: Node) -> None:
    answered(User.objects.get(username="ada"), node, Kind.COHORT_COUNT, COUNT, blocks={"block:northfield:9": 1})
    report(node, PAID)
    assert [(found.block, found.is_incident) for found in reconcile()] == [(KEY, False), ("block:northfield:9", True)]
