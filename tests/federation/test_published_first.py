"""A question whose kind is left open is answered from what is published where that is about it: it costs nothing."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from fdrouter import crypto
from fdrouter.errors import InvalidParameter, NothingReleased
from federation import asks, offers, outcome, quotes, selectors
from federation.asks import PrivacyOptions
from federation.choosing import CHOICE, COUNT, KEYWORDS, RELEASED, TEXT, Chosen, Published, choose
from federation.models import Kind, Node
from tests.accounts.people import hospital, person, principal
from tests.federation import rows

COUNTING = "How many patients on velorapine had a dry cough?"
NORTH = Published("northfield", "Northfield General", figures=frozenset({"velorapine", "chronic pain", "metformin"}))
LAKE = Published("lakeside", "Lakeside", notes=frozenset({"velorapine", "haldenex"}))
CARDS: dict[str, Any] = {"kind": "cards", "words": ["velorapine", "chronic pain"], "topics": ["velorapine"]}
NOTES: dict[str, Any] = {"kind": "corpus", "topics": ["haldenex"]}


def publish(node: Node, *releases: Any) -> Node:
    node.status["releases"] = list(releases)
    node.save()
    return node


# --- which questions ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("question", "options"),
    [
        (COUNTING, ()),
        ("how many patients have CHRONIC\n pain?", ()),
        ("What is the number of patients with chronic pain?", ()),
        ("Which side effects does velorapine have?", ()),
        ("What was most common on velorapine?", ("dry cough", "rash")),
    ],
)
def test_figures_answer_numbers_answers_and_names(question: str, options: tuple[str, ...]) -> None:
    kind, why = choose(question, options, (), [NORTH])
    assert kind == RELEASED
    assert why.startswith("Northfield General has published figures about ") and why.endswith("costs nothing.")


def test_notes_answer_what_only_a_text_says() -> None:
    assert choose("Why do patients on velorapine cough?", (), (), [NORTH]).kind == TEXT
    told = choose("Why do patients on haldenex or velorapine cough?", (), (), [NORTH, LAKE])
    assert told == Chosen(
        RELEASED, "Lakeside has published notes about haldenex and velorapine: asking them costs nothing."
    )
    assert choose("How many patients take haldenex?", (), (), [LAKE]).kind == COUNT


@pytest.mark.parametrize(
    ("question", "options", "given", "kind"),
    [
        ("How many patients had a dry cough?", (), (), COUNT),  # about nothing that is published
        ("How many patients take velorapines?", (), (), COUNT),  # not the word
        ("How many patients with chronic pain take velorapine?", (), (), COUNT),  # no figure of both
        ("How many patients on velorapine had no cough?", (), (), TEXT),
        ("Which of these was not seen on velorapine?", ("rash", "cough"), (), CHOICE),
        ("Which side effects does velorapine have?", (), ("picks",), KEYWORDS),
        (COUNTING, (), ("contexts",), TEXT),
        ("What was seen on velorapine?", ("rash", "cough"), ("threshold",), CHOICE),
    ],
)
def test_the_records_answer_the_rest(question: str, options: Any, given: Any, kind: str) -> None:
    assert choose(question, options, given, [NORTH, LAKE]).kind == kind


def test_several_hospitals_that_have_published_are_counted() -> None:
    other = Published("hillcrest", "Hillcrest", figures=frozenset({"velorapine"}))
    assert choose(COUNTING, (), (), [NORTH, other]).why.startswith("2 hospitals have published figures about velo")


def test_the_reason_names_published_words_and_nothing_else_of_the_question() -> None:
    assert "Quendleton" not in choose("How many patients called Quendleton take velorapine?", (), (), [NORTH]).why


# --- what is published --------------------------------------------------------------------------------------------
@pytest.mark.django_db
def test_published_is_what_nodes_that_are_up_told_of_last() -> None:
    publish(rows.node(hospital("b", "B")), CARDS, NOTES)
    publish(rows.node(hospital("a", "A")), CARDS)
    publish(rows.node(hospital("c", "C"), seen=timedelta(minutes=5)), CARDS)
    publish(rows.node(hospital("d", "D"), active=False), CARDS)
    rows.node(hospital("e", "E"))
    assert selectors.published() == [
        Published("a", "A", frozenset({"velorapine", "chronic pain"})),
        Published("b", "B", frozenset({"velorapine", "chronic pain"}), frozenset({"haldenex"})),
    ]


@pytest.mark.django_db
@pytest.mark.parametrize(
    "told",
    ["all", {"kind": "cards"}, [None, 7, {"kind": "cards"}, {"kind": ["cards"], "words": ["velorapine"]}]]
    + [[{"kind": "cards", "words": words}] for words in ("velorapine", [None, 3, "", " ", "x" * 81], {"a": 1})],
)
def test_nonsense_from_a_node_is_nothing_published(told: Any) -> None:
    node = rows.node(hospital())
    node.status["releases"] = told
    node.save()
    assert selectors.published() == []


# --- as a request -------------------------------------------------------------------------------------------------
def made(question: str = COUNTING, **privacy: Any) -> asks.Ask:
    return asks.make(
        model="m",
        messages=[{"role": "user", "content": question}],
        privacy=PrivacyOptions(**{"kind": "cohort", **privacy}),
        channel="api",
        stream=False,
        published=[LAKE, NORTH],
    )


def test_an_open_kind_costs_nothing_where_something_is_published() -> None:
    ask = made(epsilon=0.5, delta=1e-6)
    assert (ask.kind, ask.plan) == (Kind.COHORT_RELEASED, None)
    assert ask.chosen is not None and "Northfield" in ask.chosen.why
    assert made(kind="cohort.count").kind is Kind.COHORT_COUNT, "named is named"


def test_only_the_hospitals_that_were_named_count_and_asking_together_means_the_records() -> None:
    assert made(hospitals=["lakeside"]).kind is Kind.COHORT_COUNT
    assert made(hospitals=["northfield"]).kind is Kind.COHORT_RELEASED
    assert made(across=True).plan is not None


@pytest.mark.parametrize("wrong", [{"epsilon": -1}, {"epsilon": "1"}, {"delta": -1}, {"hospitals": "all"}])
def test_bad_values_are_still_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        made(**wrong)


# --- before and after sending -------------------------------------------------------------------------------------
@pytest.fixture
def ada(db: None) -> User:
    return person("ada")


def test_the_quote_says_that_it_costs_nothing_and_why(ada: User, client: Client) -> None:
    publish(rows.node(hospital()), CARDS)
    found = quotes.quote(principal(ada), kind="cohort", question=COUNTING)
    assert (found.kind, found.epsilon, found.plan, found.refusal) == (Kind.COHORT_RELEASED, 0.0, None, None)
    client.force_login(ada)
    form = {"kind": "cohort.text", "form": "cohort", "prompt": COUNTING, "epsilon": "3", "purpose": "TREAT"}
    html = client.post("/ask/quote", form).content.decode()
    assert 'data-answering="cohort.released"' in html and "No privacy cost" in html
    assert "has published figures about velorapine" in html
    assert "Privacy cost 0.3" in client.post("/ask/quote", {**form, "form": "cohort.count"}).content.decode()


def test_what_is_published_can_be_chosen_where_something_is(ada: User, client: Client) -> None:
    node = rows.node(hospital())
    client.force_login(ada)
    assert "What is published" not in client.get("/").content.decode()
    publish(node, CARDS)
    assert "What is published" in client.get("/").content.decode()


def test_the_answer_says_why_it_was_made_from_what_is_published(ada: User) -> None:
    row = rows.request(ada, COUNTING, "About 110 patients.", kind=Kind.COHORT_RELEASED)
    content = {"messages": [{"role": "user", "content": COUNTING}], "chosen": "Northfield has published figures."}
    row.request = crypto.seal("request", row.pk.bytes, json.dumps(content).encode())
    assert outcome.result_of(row)["privacy"]["chosen"] == {
        "kind": "cohort.released",
        "why": "Northfield has published figures.",
    }


def test_where_nothing_published_answers_the_records_are_offered(ada: User) -> None:
    publish(rows.node(hospital()), CARDS)
    row = rows.request(ada, COUNTING, None, kind=Kind.COHORT_RELEASED, state="failed", reason="nothing_released")
    told = offers.after_end(NothingReleased("Nothing."), row.pk).details["try"]
    assert told == [{"kind": "cohort.count", "epsilon": 0.3}, {"kind": "general"}]
    assert offers.after_end(NothingReleased("Nothing."), row.pk).details.get("retry_after") is None
