"""The cost preview of the Ask page: it moves with the controls, says why it chose, refuses with steps."""

from __future__ import annotations

import re
from html import unescape

import pytest
from django.test import Client

from accounts.models import Role, User
from federation.models import Kind
from privacy.dp.cohort_plans import plan_keywords
from privacy.dp.text_plan import COMFORTABLE_PUSH, plan_text
from tests.accounts.people import hospital, person
from tests.federation import rows

pytestmark = pytest.mark.django_db


def quote(client: Client, user: User, **values: str) -> str:
    client.force_login(user)
    response = client.post("/ask/quote", {"purpose": "TREAT", "form": values.get("kind", ""), **values})
    assert response.status_code == 200
    return unescape(response.content.decode())


def test_quote_moves_with_the_controls(client: Client) -> None:
    rows.node(hospital())
    ada = person("ada")
    three, eight = (quote(client, ada, kind="cohort.text", epsilon=e) for e in ("3", "8"))
    assert "Privacy cost 3" in three
    assert "7 left for you after it" in three
    assert "Privacy cost 8" in eight
    assert "2 left for you after it" in eight
    assert "No privacy cost" in quote(client, ada, kind="general")


def test_quote_refuses_with_a_reason_and_a_next_step(client: Client) -> None:
    rows.node(hospital())
    ada = person("ada")
    rows.request(ada, "spent", kind=Kind.COHORT_TEXT, epsilon=9.0)
    html = quote(client, ada, kind="cohort.text", epsilon="3")
    assert 'data-refused="quota_spent"' in html
    assert "Ask the model without records" in html
    assert "Use privacy cost 1" in html
    assert "data-refused" not in quote(client, ada, kind="general")


def test_quote_names_the_purposes_that_would_do(client: Client) -> None:
    html = quote(client, person("ada"), kind="chart", purpose="HRESCH")
    assert 'data-refused="policy_denied"' in html
    assert "treatment or emergency treatment" in html


@pytest.mark.parametrize("epsilon", ["nan", "inf", "-1", "0", "1e308", "abc", "11", "", " "])
def test_quote_takes_no_nonsense(client: Client, epsilon: str) -> None:
    assert 'data-refused="invalid_parameter"' in quote(client, person("ada"), kind="cohort.text", epsilon=epsilon)


def test_quote_is_not_there_for_people_who_ask_nothing(client: Client) -> None:
    client.force_login(person("priya", Role.PRIVACY_OFFICER))
    assert client.post("/ask/quote", {"kind": "general"}).status_code == 404


def test_quote_takes_no_question_in_an_address_and_no_form_of_another_site(client: Client) -> None:
    """Addresses are kept in logs, and a question may hold a name."""
    client.force_login(person("ada"))
    assert client.get("/ask/quote", {"kind": "general"}).status_code == 405
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(person("ben"))
    assert strict.post("/ask/quote", {"kind": "general"}).status_code == 403


def test_quote_waits_for_a_question_where_that_decides(client: Client) -> None:
    rows.node(hospital())
    html = quote(client, person("ada"), kind="cohort.text", form="cohort", prompt=" \n")
    assert "data-waiting" in html and "data-refused" not in html and "Privacy cost" not in html


@pytest.mark.parametrize(
    ("prompt", "options", "kind", "words"),
    [
        ("How many patients had a cough?", "", "cohort.count", ("A number.", "Privacy cost 0.3", "asks how many")),
        ("Which drugs were given?", "", "cohort.keywords", ("Keywords.", "Privacy cost 1", "asks which drugs")),
        ("Why do they cough?", "", "cohort.text", ("Free text.", "Privacy cost 3", "Nothing cheaper|only a text")),
        ("Which?", "rash\n\n cough ", "cohort.choice", ("One of my answers.", "Privacy cost 1", "one vote")),
    ],
)
def test_the_choice_stands_beside_its_cost_and_its_reason(
    client: Client, prompt: str, options: str, kind: str, words: tuple[str, ...]
) -> None:
    rows.node(hospital())
    ada = person("ada")
    html = quote(client, ada, kind="cohort.text", form="cohort", prompt=prompt, options=options, epsilon="3")
    assert f'data-answering="{kind}"' in html
    for text in words:
        assert re.search(text, html), text
    named = quote(client, ada, kind="cohort.text", form=kind, prompt=prompt, options=options, epsilon="3")
    assert words[1] in named and "quote-chosen" not in named


def test_the_cost_of_a_choice_is_that_of_its_own_control(client: Client) -> None:
    rows.node(hospital())
    controls = {"epsilon": "5", "epsilon-cohort.count": "0.4", "epsilon-cohort.keywords": "2"}
    asked = {"kind": "cohort.text", "form": "cohort", "prompt": "How many patients had a cough?", **controls}
    assert "Privacy cost 0.4" in quote(client, person("ada"), **asked)


def test_the_share_of_the_hospitals_block_stands_beside_the_cost(client: Client) -> None:
    node = rows.node(hospital())
    ada = person("ada")
    html = quote(client, ada, kind="cohort.keywords")
    taken = plan_keywords().nano_at(3.4) / node.status["block"]["cap"] * 100
    shown = re.search(r"([\d.]+) % of what Northfield General's records can ever pay", html)
    assert shown is not None and 0 <= float(shown.group(1)) - taken < 0.1, "rounded up, never down"
    assert "can ever pay" not in quote(client, ada, kind="general")
    rows.node(hospital("lakeside", "Lakeside"))
    assert "another hospital's" in quote(client, ada, kind="cohort.keywords")


def test_a_refused_choice_offers_steps_that_the_page_can_take(client: Client) -> None:
    rows.node(hospital())
    ada = person("ada")
    rows.request(ada, "spent", kind=Kind.COHORT_TEXT, epsilon=9.5)
    html = quote(client, ada, kind="cohort.text", form="cohort.text", epsilon="3", prompt="How many patients coughed?")
    assert 'data-step="form" data-value="cohort.count 0.3">Answer with a number for 0.3</a>' in html
    assert html.count('data-value="general"') == 1
    assert html.count('href="/budget"') == 1 and "Ask for more budget" in html


def test_how_many_records_must_agree_is_part_of_the_preview(client: Client) -> None:
    rows.node(hospital())
    ada = person("ada")
    asked = {"kind": "cohort.text", "prompt": "Which?", "options": "rash\ncough", "threshold": "40"}
    for form in ("cohort", "cohort.choice"):
        html = quote(client, ada, form=form, **asked)
        assert "only if about 40 records agree" in html and "check of the largest vote" in html
    assert "records agree" not in quote(client, ada, form="cohort.count", **asked), "belongs to a choice"
    assert "records agree" not in quote(client, ada, form="cohort", **{**asked, "options": ""})
    for wrong in ("0", "2.5", "-3", "many", "9" * 30, "٣"):
        html = quote(client, ada, form="cohort.choice", **{**asked, "threshold": wrong})
        assert 'data-refused="invalid_parameter"' in html, wrong


def test_the_purpose_is_remembered(client: Client) -> None:
    ada = person("ada")
    quote(client, ada, kind="general", purpose="HQUALIMP")
    assert '<option value="HQUALIMP" selected>' in client.get("/").content.decode()
    quote(client, ada, kind="general", purpose="NONSENSE")
    assert client.cookies["purpose"].value == "HQUALIMP"


def test_a_remembered_purpose_that_the_post_cannot_use_is_not_chosen(client: Client) -> None:
    client.cookies["purpose"] = "ETREAT"
    client.force_login(person("rhea", Role.RESEARCHER))
    html = client.get("/").content.decode()
    assert 'value="ETREAT"' not in html
    assert '<option value="HQUALIMP" selected>' in html


def test_a_text_whose_records_are_barely_heard_says_so(client: Client) -> None:
    rows.node(hospital())
    ada = person("ada")
    assert plan_text(epsilon=0.8).push < COMFORTABLE_PUSH
    assert "barely heard" in quote(client, ada, kind="cohort.text", epsilon="0.8")
    assert "barely heard" not in quote(client, ada, kind="cohort.text", epsilon="3")


def test_too_many_answers_or_two_alike_are_refused_in_words(client: Client) -> None:
    rows.node(hospital())
    asked = {"kind": "cohort.text", "form": "cohort.choice", "prompt": "Which?"}
    many = "\n".join(f"answer {n}" for n in range(13))
    assert "Give 2 to 12 answers" in quote(client, person("ada"), **asked, options=many)
    assert "different word" in quote(client, person("ben"), **asked, options="rash\nRash")


def test_a_question_that_no_record_could_match_is_refused(client: Client) -> None:
    rows.node(hospital())
    html = quote(client, person("ada"), kind="cohort.text", form="cohort", prompt="有多少病人服用这种药?")
    assert 'data-refused="invalid_parameter"' in html and "none that can be set apart" in html
