"""A quote says what sending would cost and whether it would be refused, and changes nothing."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from accounts.models import Role, User
from fdrouter.errors import BlockExhausted, InvalidParameter, NoNode, PolicyDenied, PushTooSmall, QuotaSpent
from federation import quotes, selectors
from federation.models import Kind, Node, Transport
from federation.quotes import Quote
from privacy import ledger, quotas
from privacy.ledger import Charge, Request
from privacy.models import Entry, Reservation, Scope
from tests.accounts import people
from tests.federation import rows
from tests.privacy.ledger.books import AHEAD, BEHIND, zone

pytestmark = pytest.mark.django_db


@pytest.fixture
def ada() -> User:
    return people.person("ada")


@pytest.fixture
def node() -> Node:
    return rows.node(people.hospital())


def quote(user: User, kind: str = "cohort.text", **options: Any) -> Quote:
    return quotes.quote(people.principal(user), kind=kind, **options)


def spend(user: User, micro: int) -> quotas.QuotaScopes:
    scopes = quotas.scopes_for(people.principal(user))
    charges = [Charge(scopes.user_epsilon, micro), Charge(scopes.department_epsilon, micro)]
    ledger.reserve(Request(id=uuid.uuid4(), charges=charges))
    return scopes


@pytest.mark.parametrize("kind", ["general", "chart"])
def test_a_kind_without_a_cost(kind: str, ada: User) -> None:
    found = quote(ada, kind)
    assert (found.epsilon, found.delta, found.contexts, found.refusal) == (0.0, 0.0, 0, None)
    assert found.user_left == 10 and found.seconds > 0 and found.claim


def test_a_cohort_question(ada: User, node: Node) -> None:
    found = quote(ada)
    assert found.refusal is None and found.plan is not None
    assert (found.epsilon, found.delta, found.user_left, found.department_left) == (3.0, 1e-5, 10.0, 10.0)
    assert found.block_left == {"northfield": 6.5}
    assert found.seconds > 0
    assert "any one patient" in found.claim


def test_a_quote_reserves_nothing(ada: User, node: Node) -> None:
    for kind in ("general", "chart", "cohort.text"):
        quote(ada, kind)
    assert not Reservation.objects.exists() and not Entry.objects.exists()


def test_more_privacy_cost_buys_more_text(ada: User, node: Node) -> None:
    lengths = [quote(ada, epsilon=epsilon, contexts=128).max_tokens for epsilon in (2.0, 3.0, 5.0)]
    assert lengths == sorted(lengths) and lengths[0] < lengths[-1]


@pytest.mark.parametrize(
    "wrong", [{"epsilon": 0.0}, {"epsilon": 11.0}, {"delta": 0.5}, {"contexts": 3}, {"max_tokens": 97}]
)
def test_bad_values_are_errors(wrong: dict[str, Any], ada: User, node: Node) -> None:
    with pytest.raises(InvalidParameter):
        quote(ada, **wrong)


def test_a_push_too_small_is_a_refusal_that_says_what_would_work(ada: User, node: Node) -> None:
    found = quote(ada, epsilon=0.5, contexts=16, max_tokens=32)
    assert isinstance(found.refusal, PushTooSmall) and found.plan is None
    assert found.block_left == {"northfield": 6.5}


def test_a_spent_quota_is_a_refusal_that_names_it(ada: User, node: Node) -> None:
    spend(ada, 7_500_000)
    found = quote(ada)
    assert found.user_left == 2.5
    assert isinstance(found.refusal, QuotaSpent) and found.refusal.details["scope"] == "user"
    assert found.plan is not None, "the plan is shown all the same"


def test_a_spent_department_is_named_too(node: Node) -> None:
    user = people.person("rea", Role.RESEARCHER, works_in=people.department("research"))
    found = quote(user)
    assert isinstance(found.refusal, QuotaSpent) and found.refusal.details["scope"] == "department"
    assert found.department_left == 2


def test_what_exactly_fits_is_not_refused(ada: User, node: Node) -> None:
    spend(ada, 7_000_000)
    assert quote(ada, epsilon=3.0).refusal is None
    spend(ada, 1)
    assert isinstance(quote(ada, epsilon=3.0).refusal, QuotaSpent)


def test_a_new_day_is_not_refused_for_what_yesterday_spent(ada: User, node: Node) -> None:
    """The ledger starts a day with its first charge; the quote comes before it."""
    scopes = spend(ada, 9_500_000)
    from django.utils import timezone

    yesterday = timezone.now().astimezone(zone(BEHIND)).date()
    pks = [scopes.user_epsilon, scopes.department_epsilon]
    Scope.objects.filter(pk__in=pks).update(period=yesterday, time_zone=AHEAD)
    found = quote(ada)
    assert (found.user_left, found.department_left, found.refusal) == (10.0, 10.0, None)


def test_an_exhausted_block_is_a_refusal(ada: User, node: Node) -> None:
    node.status["block"] |= {"used": node.status["block"]["cap"], "epsilon_left": 0.0}
    node.save()
    found = quote(ada)
    assert isinstance(found.refusal, BlockExhausted)
    assert found.block_left == {"northfield": 0.0}


def test_one_block_that_can_pay_is_enough(ada: User, node: Node) -> None:
    node.status["block"] |= {"used": node.status["block"]["cap"], "epsilon_left": 0.0}
    node.save()
    rows.node(people.hospital("lakeside", "Lakeside"))
    assert quote(ada).refusal is None
    assert isinstance(quote(ada, hospitals=["northfield"]).refusal, BlockExhausted)
    assert quote(ada, hospitals=["lakeside"]).refusal is None


@pytest.mark.parametrize("change", [{"active": False}, {"transport": Transport.OPENAI}])
def test_without_a_node_over_records_there_is_none_to_ask(change: dict[str, Any], ada: User, node: Node) -> None:
    Node.objects.update(**change)
    assert isinstance(quote(ada).refusal, NoNode)


def test_a_node_that_was_never_seen_does_not_break_the_quote(ada: User) -> None:
    rows.node(people.hospital(), status={})
    rows.node(people.hospital("lakeside", "Lakeside"), status={"block": None})
    found = quote(ada)
    assert (found.block_left, found.refusal) == ({}, None)


def test_a_kind_that_the_post_may_not_ask_is_quoted_with_that_refusal(node: Node) -> None:
    nurse = people.person("nora", Role.NURSE)
    allowed = selectors.purposes_by_kind(people.principal(nurse))
    for kind in Kind:
        refusal = quotes.quote(people.principal(nurse), kind=kind.value, question="How many?").refusal
        assert isinstance(refusal, PolicyDenied) == (not allowed.get(kind)), kind
