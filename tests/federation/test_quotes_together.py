"""What several hospitals' answer would cost: all of them pay, and the preview says so before anything is sent."""

from __future__ import annotations

from html import unescape
from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from fdrouter.errors import BlockExhausted, InvalidParameter, NoNode, PushTooSmall, QuotaSpent
from federation import quotes
from federation.models import Kind, Node
from federation.quotes import Quote
from privacy.dp.across_plans import plan_choice_across, plan_count_across
from privacy.dp.across_text import plan_text_across
from tests.accounts import people
from tests.federation import rows

pytestmark = pytest.mark.django_db
NAMES = ("alder", "birch", "cedar")


@pytest.fixture
def ada() -> User:
    return people.person("ada")


@pytest.fixture
def three() -> dict[str, Node]:
    return {name: rows.node(people.hospital(name, name.title())) for name in NAMES}


def quote(user: User, kind: str = "cohort.count", **options: Any) -> Quote:
    return quotes.quote(people.principal(user), kind=kind, **{"across": True, **options})


def spend(node: Node, part: float = 1.0) -> None:
    node.status["block"] |= {"used": int(part * node.status["block"]["cap"]), "epsilon_left": 0.0}
    node.save()


def test_the_plan_is_for_those_that_would_answer(ada: User, three: dict[str, Node]) -> None:
    count = quote(ada)
    assert count.plan == plan_count_across(hospitals=3) and count.hospitals == NAMES
    assert (count.epsilon, count.delta, count.band) == (0.3, 1e-5, plan_count_across(hospitals=3).band)
    assert set(count.block_share) == set(NAMES) and count.refusal is None and count.seconds > 0
    choice = quote(ada, "cohort.choice", options=["rash", "cough"])
    assert choice.plan == plan_choice_across(options=2, hospitals=3)
    text = quote(ada, "cohort.text", hospitals=["cedar", "alder"], epsilon=8.0)
    assert text.plan == plan_text_across(hospitals=2, epsilon=8.0) and text.hospitals == ("alder", "cedar")
    assert text.slots == text.contexts // 2 and set(text.block_left) == {"alder", "cedar"}
    assert "coordinator" in text.claim and "coordinator" not in count.claim
    alone = quote(ada, across=None)
    assert (alone.hospitals, alone.delta) == ((), 0.0)


def test_the_kind_may_be_left_open(ada: User, three: dict[str, Node]) -> None:
    found = quote(ada, "cohort", question="How many patients had a cough?")
    assert found.plan == plan_count_across(hospitals=3) and found.chosen is not None


def test_too_few_hospitals_are_a_refusal(ada: User, three: dict[str, Node]) -> None:
    assert isinstance(quote(ada, hospitals=["alder", "birch"]).refusal, InvalidParameter)
    Node.objects.filter(pk="cedar").update(active=False)
    assert isinstance(quote(ada).refusal, NoNode)
    assert quote(ada, "cohort.text", epsilon=8.0).refusal is None
    Node.objects.all().update(active=False)
    assert isinstance(quote(ada).refusal, NoNode)


@pytest.mark.parametrize("kind", ["cohort.keywords", "general", "cohort.released"])
def test_kinds_that_are_answered_alone_are_errors(kind: str, ada: User, three: dict[str, Node]) -> None:
    with pytest.raises(InvalidParameter):
        quote(ada, kind)


def test_every_hospital_must_be_able_to_pay(ada: User, three: dict[str, Node]) -> None:
    """One block that can pay is enough for one hospital's answer, and not for the sum of three."""
    spend(three["birch"])
    refusal = quote(ada).refusal
    assert isinstance(refusal, BlockExhausted) and refusal.details["hospitals"] == ["birch"]
    assert "Birch" in refusal.message
    assert {"across": False} in refusal.details["try"] and not any("epsilon" in o for o in refusal.details["try"])
    assert quote(ada, across=False).refusal is None


def test_a_fourth_hospital_without_budget_is_offered_to_be_left_out(ada: User, three: dict[str, Node]) -> None:
    spend(rows.node(people.hospital("dogwood", "Dogwood")))
    refusal = quote(ada).refusal
    assert refusal is not None and refusal.details["try"][0] == {"hospitals": list(NAMES)}
    assert quote(ada, hospitals=list(NAMES)).refusal is None


def test_less_is_offered_where_all_can_pay_it(ada: User, three: dict[str, Node]) -> None:
    rows.request(ada, "spent", kind=Kind.COHORT_TEXT, epsilon=9.8)
    refusal = quote(ada).refusal
    assert isinstance(refusal, QuotaSpent)
    cheaper = next(offer for offer in refusal.details["try"] if "epsilon" in offer)
    assert cheaper == {"epsilon": 0.2} and quote(ada, epsilon=0.2).refusal is None
    spend(three["birch"], 0.999)
    refusal = quote(ada).refusal
    assert refusal is not None
    for offer in refusal.details["try"]:
        if set(offer) == {"epsilon"}:
            assert quote(ada, **offer).refusal is None


def test_a_cheaper_text_together_can_be_written(ada: User, three: dict[str, Node]) -> None:
    rows.request(ada, "spent", kind=Kind.COHORT_TEXT, epsilon=8.0)
    refusal = quote(ada, "cohort.text", epsilon=3.0).refusal
    assert isinstance(refusal, QuotaSpent)
    offer = next(offer for offer in refusal.details["try"] if "epsilon" in offer and "kind" not in offer)
    assert quote(ada, "cohort.text", **offer).refusal is None
    assert isinstance(quote(ada, "cohort.text", epsilon=0.05).refusal, PushTooSmall)


# --- the page -----------------------------------------------------------------------------------------------------
def preview(client: Client, user: User, form: str, **values: Any) -> str:
    client.force_login(user)
    asked = {"purpose": "TREAT", "kind": "cohort.text", "form": form, "across": "together", **values}
    response = client.post("/ask/quote", asked)
    assert response.status_code == 200
    return unescape(response.content.decode())


def test_the_preview_says_who_answers_how_far_off_and_at_which_delta(
    client: Client, ada: User, three: dict[str, Node]
) -> None:
    html = preview(client, ada, "cohort.count", prompt="How many patients?")
    for text in ("Alder, Birch, Cedar answer together", f"within {plan_count_across(hospitals=3).band} patients"):
        assert text in html
    for text in ("1×10⁻⁵", "under masks", "what each hospital's records can ever pay", "sees a hospital's own number"):
        assert text in html
    text = preview(client, ada, "cohort.text", prompt="Why?", epsilon="8", hospitals=["alder", "birch"])
    assert "Alder, Birch answer together" in text and "records at each hospital" in text and "trusted with" in text
    assert "answer together" not in preview(client, ada, "cohort.keywords", prompt="Which drugs?")
    assert "data-refused" not in preview(client, ada, "cohort.keywords", prompt="Which drugs?")


def test_a_refused_preview_leads_to_one_hospital(client: Client, ada: User, three: dict[str, Node]) -> None:
    spend(three["birch"])
    html = preview(client, ada, "cohort.count", prompt="How many patients?")
    assert 'data-step="across" data-value="">Ask one hospital' in html and "Birch cannot" in html


def test_records_too_faint_alone_lead_to_several(client: Client, ada: User, three: dict[str, Node]) -> None:
    html = preview(client, ada, "cohort.text", prompt="Why?", epsilon="0.4", across="")
    assert 'data-refused="push_too_small"' in html
    assert ("Ask hospitals together" in html) == (quote(ada, "cohort.text", epsilon=0.4).refusal is None)


def test_the_box_is_there_for_what_enough_hospitals_can_answer(
    client: Client, ada: User, three: dict[str, Node]
) -> None:
    client.force_login(ada)
    assert 'data-together="cohort.count cohort.choice cohort.text"' in client.get("/").content.decode()
    three["cedar"].status = {**three["cedar"].status, "healthy": False}
    three["cedar"].save()
    assert 'data-together="cohort.text"' in client.get("/").content.decode()
    spend(three["birch"])
    three["birch"].status = {**three["birch"].status, "block": None}
    three["birch"].save()
    assert "data-together" not in client.get("/").content.decode()


def test_ask_again_keeps_hospitals_and_that_they_answered_together(
    client: Client, ada: User, three: dict[str, Node]
) -> None:
    plan = plan_count_across(hospitals=3, epsilon=0.5)
    row = rows.request(
        ada, "How many?", kind=Kind.COHORT_COUNT, epsilon=0.5, hospitals=list(NAMES), parameters=plan.to_event()
    )
    client.force_login(ada)
    html = client.get(f"/?again={row.pk}").content.decode()
    assert 'value="together" data-quoted checked' in html
    assert all(f'value="{name}" data-quoted checked' in html for name in NAMES)
