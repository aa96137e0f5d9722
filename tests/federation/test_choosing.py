"""The automatic choice of a mechanism, as a table: what is asked, what answers, and why."""

from __future__ import annotations

import pytest

from federation import choosing
from federation.choosing import CHOICE, COUNT, KEYWORDS, TEXT, choose
from federation.models import MECHANISMS, Kind
from federation.pages import TABS


@pytest.mark.parametrize(
    "question",
    [
        "How many patients on velorapine developed a dry cough?",
        "how many had a rash after pelostrine",
        "In our records, how many people have asthma?",
        "How many of our patients take zintoralol?",
        "What is the number of patients with migraine?",
        "Number of cases of vivid dreams on nuvaridone",
        "Count the patients with ankle swelling.",
        "Please count patients on haldenex",
        "Could you count all our patients with nausea?",
        "How many patients needed two doses?",
        "How many patients had a high blood count?",
    ],
)
def test_who_asks_how_many_gets_a_count(question: str) -> None:
    kind, why = choose(question)
    assert kind == COUNT
    assert "how many" in why


@pytest.mark.parametrize(
    ("question", "noun"),
    [
        ("Which side effects were noted after the medicine was started?", "side effects"),
        ("What side effects does velorapine have?", "side effects"),
        ("What are the most common adverse reactions to radiventrine?", "adverse reactions"),
        ("Which other medicines were given for the rash?", "medicines"),
        ("Which drugs were given with belzatrine?", "drugs"),
        ("List the most frequently reported symptoms on tamurexin", "symptoms"),
        ("What kinds of complications were seen?", "complications"),
        ("WHICH SIDE-EFFECT IS MOST COMMON?", "side-effect"),
        ("Name the treatments for migraine.", "treatments"),
    ],
)
def test_who_asks_which_gets_keywords(question: str, noun: str) -> None:
    kind, why = choose(question)
    assert kind == KEYWORDS
    assert f"which {noun}:" in why


@pytest.mark.parametrize(
    "question",
    [
        "What helped patients whose rash followed a new medicine?",
        "How does velorapine act on the cough?",
        "Why do patients stop zintoralol?",
        "Describe which side effects were noted",
        "How many milligrams of velorapine were given?",
        "How many days until the cough went away?",
        "How many different drugs were given?",
        "What was the usual platelet count?",
        "How many patients had which side effects?",
        "What happened after the drugs were stopped?",
        "Which patients had side effects?",
        "What dose of the drug was given?",
        "Which drug of choice was given?",
        "What share of patients coughed?",
        "Does velorapine cause a cough?",
        "¿Cuántos pacientes tosieron?",
        "Wie viele Patienten husteten?",
        "有多少患者咳嗽?",
        "",
        " \n\t",
        "count",
    ],
)
def test_what_only_sentences_can_say_is_a_text(question: str) -> None:
    assert choose(question).kind == TEXT


@pytest.mark.parametrize(
    "word", ["no", "not", "never", "without", "except", "neither", "None", "didn't", "doesn’t", "hasn't"]
)
def test_a_negation_is_no_count_as_the_node_would_refuse_it(word: str) -> None:
    question = f"How many patients on velorapine had {word} cough?"
    kind, why = choose(question)
    assert kind == TEXT
    assert word.lower() in why


@pytest.mark.parametrize("script", ["有多少病人服用这种药?", "何人の患者が咳をしましたか", "ผู้ป่วยกี่คนไอ", "!?", ""])
def test_a_question_without_a_word_that_can_be_set_apart_finds_no_record(script: str) -> None:
    assert not choosing.searchable(script)


@pytest.mark.parametrize(
    "script", ["How many?", "Wie viele husteten?", "Сколько пациентов?", "환자 수", "服用 velorapine", "42"]
)
def test_scripts_with_words_are_searched(script: str) -> None:
    assert choosing.searchable(script)


def test_what_was_named_beside_the_question_decides_first() -> None:
    question = "How many patients coughed?"
    assert choose(question, ["dry cough", "rash"]).kind == CHOICE
    assert choose(question, ["dry cough", "rash"], ["contexts"]).kind == CHOICE
    assert choose(question, given=["picks"]).kind == KEYWORDS
    assert choose(question, given=["contexts"]).kind == TEXT
    assert choose(question, given={"top_k"}).kind == TEXT


def test_every_choice_is_a_kind_with_a_mechanism_and_its_reason_a_sentence() -> None:
    questions = ["How many patients?", "Which drugs?", "Why?", "How many had no cough?", "What share of patients?"]
    found = [choose(question) for question in questions] + [choose("", ["a", "b"]), choose("", given=["picks"])]
    for kind, why in found:
        assert Kind(kind) in MECHANISMS
        assert why[0].isupper() and why.endswith(".") and "epsilon" not in why
    assert choosing.AUTO not in Kind.values


def test_the_reason_repeats_nothing_that_was_asked() -> None:
    for question in ("How many patients called Quendleton coughed?", "Which drugs did Quendleton take?", "Quendleton"):
        assert "Quendleton" not in choose(question).why


def test_the_examples_of_the_page_are_chosen_for_as_they_should() -> None:
    (tab,) = [tab for tab in TABS if tab.kind is Kind.COHORT_TEXT]
    assert [choose(example).kind for example in tab.examples] == [KEYWORDS, TEXT]


@pytest.mark.parametrize("part", ["how many ", "which the most common ", "x", "n't ", "number of the "])
def test_a_long_question_comes_to_an_end(part: str) -> None:
    """A pattern that backtracks would not come to an end here, nor in the event loop."""
    assert choose(part * (32_768 // len(part))).why
