"""What can still be paid, and what a refusal offers instead: each offer is tried and must be payable."""

from __future__ import annotations

import math
import uuid
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from accounts.models import Role, User
from fdrouter.errors import BlockExhausted, DomainError, NoNode, PushTooSmall, QuotaSpent
from federation import offers as offers_of
from federation import quotes
from federation.models import Kind, Node
from federation.offers import Offers, Wish
from federation.quotes import Quote
from privacy import ledger, quotas
from privacy.dp import accounting
from privacy.dp.cohort_plans import plan_choice, plan_count, plan_keywords
from privacy.dp.text_plan import plan_text
from privacy.ledger import Charge, Request
from privacy.models import Entry, Reservation, Scope, Unit
from tests.accounts import people
from tests.federation import rows

pytestmark = pytest.mark.django_db
COUNTING = "How many patients on velorapine had a dry cough?"
NAMING = "Which side effects does velorapine have?"


@pytest.fixture
def ada() -> User:
    return people.person("ada")


@pytest.fixture
def node() -> Node:
    return rows.node(people.hospital())


def quote(user: User, kind: str = "cohort.text", **options: Any) -> Quote:
    return quotes.quote(people.principal(user), kind=kind, **options)


def spend(user: User, micro: int) -> None:
    scopes = quotas.scopes_for(people.principal(user))
    charges = [Charge(scopes.user_epsilon, micro), Charge(scopes.department_epsilon, micro)]
    ledger.reserve(Request(id=uuid.uuid4(), charges=charges))


def exhaust(node: Node, left: float = 0.0) -> None:
    node.status["block"] |= {"used": node.status["block"]["cap"], "epsilon_left": left}
    node.save()


def tried(error: DomainError | None) -> list[dict[str, Any]]:
    assert error is not None
    return list(error.details["try"])


# --- what could be afforded ---------------------------------------------------------------------------------------
def offers(user: User, *amounts: float) -> Offers:
    return offers_of.offers(people.principal(user), amounts)


def researcher() -> User:
    """Of a department with epsilon 2 a day."""
    return people.person("rea", Role.RESEARCHER, works_in=people.department("research"))


def test_offers_say_what_fits_and_what_stands_in_the_way(node: Node) -> None:
    found = offers(researcher(), 1.0, 2.0, 3.0)
    assert [offer.fits for offer in found.offers] == [True, True, False]
    assert [offer.obstacle for offer in found.offers] == ["", "", "Research has 2 left today"]
    assert (found.largest, found.obstacle) == (2.0, "")


def test_an_offer_that_fits_is_not_refused_and_one_that_does_not_is(node: Node) -> None:
    user = researcher()
    for left in (2_000_000, 1_250_000, 750_000, 700_000):
        used = 2_000_000 - left - round(quote(user).department_left * -1e6 + 2e6)
        if used:
            spend(user, used)
        for offer in offers(user, 0.75, 0.8, 1.2, 1.3, 2.0, 3.0).offers:
            assert offer.fits == (quote(user, epsilon=offer.epsilon).refusal is None), (left, offer)


def test_the_largest_that_fits_is_a_tenth_or_the_smallest_question(node: Node) -> None:
    user = researcher()
    spend(user, 690_001)
    assert offers(user).largest == 1.3
    spend(user, 559_998)
    assert offers(user).largest == offers_of.least_cost() == 0.75
    spend(user, 2)
    found = offers(user, 1.0)
    assert (found.largest, found.obstacle) == (None, "Research has 0.74 left today")


def test_a_block_limits_what_is_offered(ada: User, node: Node) -> None:
    block = node.status["block"]
    plan = plan_text(epsilon=1.5)
    block |= {"used": block["cap"] - accounting.nano_rdp_up(plan.rho, block["alpha"]), "epsilon_left": 1.5}
    node.save()
    found = offers(ada, 1.0, 2.0)
    assert found.largest == 1.5
    assert found.offers[1].obstacle == "more than any hospital's records can still pay"


def test_the_least_cost_is_the_least(ada: User, node: Node) -> None:
    assert quote(ada, epsilon=offers_of.least_cost()).refusal is None
    assert isinstance(quote(ada, epsilon=offers_of.least_cost() - 0.01).refusal, PushTooSmall)


# --- what to do instead -------------------------------------------------------------------------------------------
def test_a_spent_quota_offers_less_another_way_no_records_and_more_budget(node: Node) -> None:
    refusal = quote(researcher(), epsilon=3.0, question=COUNTING).refusal
    assert isinstance(refusal, QuotaSpent)
    assert tried(refusal) == [
        {"epsilon": 2.0},
        {"kind": "cohort.count", "epsilon": 0.3},
        {"kind": "general"},
        {"request_budget": "/budget"},
    ]
    assert "cannot pay for this: Research has 2 left" in refusal.message


@pytest.mark.parametrize("question", [COUNTING, NAMING, "Why do they cough?"])
@pytest.mark.parametrize("used", [0, 1_000_000, 1_300_000, 1_700_000, 1_985_000, 1_999_999])
@pytest.mark.parametrize("kind", ["cohort.text", "cohort.keywords", "cohort.count"])
def test_what_is_offered_is_not_refused(node: Node, kind: str, used: int, question: str) -> None:
    user = researcher()
    if used:
        spend(user, used)
    refusal = quote(user, kind, epsilon=3.0, question=question).refusal
    for offer in tried(refusal):
        if "request_budget" not in offer:
            changed: dict[str, Any] = (
                {"kind": kind, "epsilon": 3.0} | ({"epsilon": None} if "kind" in offer else {}) | offer
            )
            assert quote(user, **changed).refusal is None, offer
    dearer = (Kind.COHORT_COUNT, Kind.COHORT_CHOICE, Kind.COHORT_KEYWORDS, Kind.COHORT_TEXT)
    others = [Kind(offer["kind"]) for offer in tried(refusal) if offer.get("kind", "general") != "general"]
    assert all(dearer.index(other) < dearer.index(Kind(kind)) for other in others)


@pytest.mark.parametrize(
    ("size", "offered"),
    [
        ({"contexts": 64, "max_tokens": 12}, {"epsilon": 2.0, "max_tokens": 6}),
        ({"contexts": 128, "max_tokens": 12}, {"epsilon": 2.0}),
    ],
)
def test_less_for_a_text_of_a_set_size_may_be_a_shorter_one(
    node: Node, size: dict[str, Any], offered: dict[str, Any]
) -> None:
    user = researcher()
    (first, *_) = tried(quote(user, epsilon=3.0, **size).refusal)
    assert first == offered
    assert quote(user, **(size | offered)).refusal is None


def test_where_nothing_but_another_day_would_do_little_is_offered(node: Node) -> None:
    user = researcher()
    spend(user, 1_995_000)
    assert tried(quote(user, question=COUNTING).refusal) == [{"kind": "general"}, {"request_budget": "/budget"}]


def test_a_block_that_cannot_pay_is_not_offered_more_quota(ada: User, node: Node) -> None:
    block = node.status["block"]
    left = accounting.nano_rdp_up(plan_text(epsilon=1.5).rho, block["alpha"])
    block |= {"used": block["cap"] - left, "epsilon_left": 1.5}
    node.save()
    refusal = quote(ada, epsilon=3.0, question=NAMING).refusal
    assert isinstance(refusal, BlockExhausted)
    assert tried(refusal) == [{"epsilon": 1.5}, {"kind": "cohort.keywords", "epsilon": 1.0}, {"kind": "general"}]
    assert "retry_after" not in refusal.details, "a block never refills"


def test_what_a_block_can_still_pay_limits_the_other_ways_too(ada: User, node: Node) -> None:
    block = node.status["block"]
    left = plan_keywords(epsilon=0.5).nano_at(block["alpha"])
    block |= {"used": block["cap"] - left, "epsilon_left": 0.5}
    node.save()
    found = quote(ada, "cohort.keywords", question=COUNTING)
    assert isinstance(found.refusal, BlockExhausted)
    smaller, counted, *_ = tried(found.refusal)
    assert smaller == {"epsilon": 0.5} and quote(ada, "cohort.keywords", **smaller).refusal is None
    assert counted["epsilon"] < 0.3 and quote(ada, **counted).refusal is None


def test_an_exhausted_block_offers_those_hospitals_that_can_pay(ada: User, node: Node) -> None:
    exhaust(node)
    rows.node(people.hospital("lakeside", "Lakeside"))
    exhaust(rows.node(people.hospital("hillcrest", "Hillcrest")))
    refusal = quote(ada, hospitals=["northfield"]).refusal
    assert tried(refusal) == [{"hospitals": ["lakeside"]}, {"kind": "general"}]
    assert quote(ada, hospitals=["lakeside"]).refusal is None


def test_what_is_published_is_offered_where_something_is(ada: User, node: Node) -> None:
    exhaust(node)
    assert tried(quote(ada).refusal) == [{"kind": "general"}]
    node.status["releases"] = [{"kind": "cards"}]
    node.save()
    assert tried(quote(ada).refusal) == [{"kind": "cohort.released"}, {"kind": "general"}]


def test_a_choice_is_offered_for_less_with_its_own_answers(ada: User, node: Node) -> None:
    spend(ada, 9_300_000)
    answers = ["dry cough", "rash", "nausea"]
    found = quote(ada, "cohort.choice", options=answers, question="Which was it?")
    assert tried(found.refusal)[0] == {"epsilon": 0.7}
    assert tried(quote(ada, options=answers, question="Which?").refusal)[0] == {"kind": "cohort.choice", "epsilon": 0.7}


def test_a_quota_says_when_it_refills_in_the_sites_own_zone(ada: User, node: Node) -> None:
    spend(ada, 9_000_000)
    zone = ZoneInfo("Pacific/Auckland")
    Scope.objects.update(time_zone=zone.key, period=datetime.now(zone).date())
    refusal = quote(ada).refusal
    assert refusal is not None
    details = refusal.details
    refills = datetime.fromisoformat(details["refills_at"])
    local = refills.astimezone(zone)
    assert (local.hour, local.minute) == (0, 0)
    assert abs((refills - datetime.now(UTC)).total_seconds() - details["retry_after"]) < 5
    assert 0 < details["retry_after"] <= 25 * 3600


def test_waiting_is_not_advised_where_a_full_quota_would_not_do(node: Node) -> None:
    """Research has 2 a day: 3 does not fit tomorrow either."""
    refusal = quote(researcher(), epsilon=3.0).refusal
    assert refusal is not None and "retry_after" not in refusal.details


def test_spent_requests_offer_nothing_but_the_time(ada: User, node: Node) -> None:
    error = QuotaSpent(scope="user", unit="requests")
    offers_of.extend(error, people.principal(ada), Wish(kind=Kind.GENERAL, plan=None))
    assert error.details["try"] == [], "the model without records would count as a request too"
    assert error.details["retry_after"] > 0


def test_a_person_who_may_not_ask_records_is_offered_none(node: Node) -> None:
    nurse = people.person("nora", Role.NURSE)
    error = QuotaSpent(scope="user", unit=Unit.MICRO_EPSILON)
    wish = Wish(kind=Kind.COHORT_TEXT, plan=plan_text(epsilon=3.0), question=COUNTING)
    offers_of.extend(error, people.principal(nurse), wish)
    assert not [offer for offer in error.details["try"] if offer.get("kind", "").startswith("cohort.")]


def test_other_errors_stay_as_they_are(ada: User) -> None:
    error = NoNode()
    wish = Wish(kind=Kind.COHORT_COUNT, plan=plan_count())
    assert offers_of.extend(error, people.principal(ada), wish) is error
    assert not error.details


def test_looking_for_offers_spends_nothing(ada: User, node: Node) -> None:
    spend(ada, 9_990_000)
    before = Reservation.objects.count(), Entry.objects.count(), list(Scope.objects.values_list("pk", "used"))
    quote(ada, question=COUNTING)
    assert before == (Reservation.objects.count(), Entry.objects.count(), list(Scope.objects.values_list("pk", "used")))


# --- a hospital that refused after all ----------------------------------------------------------------------------
def refused_row(user: User, question: str, **values: Any) -> uuid.UUID:
    plan = plan_text(epsilon=3.0)
    values = {"parameters": plan.to_event(), "reason": "block_exhausted", "hospitals": ["northfield"], **values}
    return rows.request(user, question, None, kind=Kind.COHORT_TEXT, state="failed", epsilon=3.0, **values).pk


def test_a_block_that_its_node_found_empty_is_not_offered_again_at_that_cost(ada: User, node: Node) -> None:
    """What the node last told still says that the block can pay: the refusal is newer."""
    error = offers_of.after_end(BlockExhausted(), refused_row(ada, NAMING))
    assert all(offer.get("epsilon", 0) < 3.0 for offer in error.details["try"])
    assert {"kind": "cohort.keywords", "epsilon": 1.0} in error.details["try"]


def test_what_cannot_be_looked_up_stays_as_it_is(ada: User, node: Node) -> None:
    assert "try" not in offers_of.after_end(BlockExhausted(), uuid.uuid4()).details
    odd = refused_row(ada, NAMING, parameters={"mechanism": "of tomorrow"})
    assert offers_of.after_end(BlockExhausted(), odd).details["try"] == [{"kind": "general"}]
    gone = refused_row(ada, NAMING)
    ada.memberships.update(active=False)
    assert "try" not in offers_of.after_end(BlockExhausted(), gone).details
    assert "try" not in offers_of.after_end(NoNode(), odd).details


def test_a_share_of_the_block_adds_up_where_epsilons_do_not(ada: User, node: Node) -> None:
    alone = quote(ada, "cohort.choice", options=["a", "b"]).block_share["northfield"]
    block = node.status["block"]
    assert alone == pytest.approx(plan_choice(options=2).nano_at(block["alpha"]) / block["cap"])
    assert 0 < alone < 1 and math.isfinite(alone)
    assert quote(ada, "general").block_share == {}
