"""What a published figure's answer says of it: whom it counts, what its range is of, and what it was not asked."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.utils import timezone

from fdrouter.errors import Conflict
from federation.node.released import cards, publish, shelf, vocabulary
from federation.node.released.models import Release, ReleaseKind
from privacy.dp.release_plans import Card, plan_cards
from privacy.models import Scope
from tests.node.released.stage import APPROVER, PLANNER, ask, published_cards

pytestmark = pytest.mark.django_db(transaction=True)

WIDE = tuple(vocabulary.lists_for().topics)


def told(question: str, **changes: Any) -> str:
    last = ask(question, **changes)[-1]
    assert last["type"] == "answer", last
    return str(last["text"])


def refused(question: str, **changes: Any) -> str:
    last = ask(question, **changes)[-1]
    assert (last["type"], last.get("code"), last.get("charged")) == ("error", "nothing_released", False), last
    return str(last["details"]["why"])


# --- what is counted ------------------------------------------------------------------------------------------------
def test_a_single_figure_says_whom_it_misses_and_that_its_range_is_not_of_the_truth(block: Scope) -> None:
    published_cards(topics=WIDE)
    text = told("How many patients take zintoralol?")
    assert re.match(
        r"About \d+ patients were counted: zintoralol\. The noise leaves \d+ to \d+ for the number counted, in 95 of"
        r" 100 cases\. Patients with more than 8 treatments were counted in 8 of them only, so the true number may be"
        r" higher\."
        r"\n\nCounted: patients with zintoralol among their treatments: ",
        text,
    )
    assert "northfield" not in text


@pytest.mark.parametrize(
    ("question", "counted", "limit"),
    [
        ("How many women are on record?", "patients on record as female.", ""),
        ("What number of patients by age band?", f"patients by their age in {timezone.localdate().year}.", ""),
        ("How many patients were seen in cardiology?", "patients with cardiology among the departments", ""),
        ("How many patients have asthma?", "patients with asthma among their coded conditions.", "6 conditions"),
        (
            "How many patients on velorapine had a dry cough?",
            "patients with dry cough noted in one line with velorapine:",
            "16 pairs of a treatment and an effect",
        ),
        ("How many patients had a dry cough?", "patients with the effect noted in one line with the treatment:", "16"),
    ],
)
def test_every_figure_names_what_was_counted(block: Scope, question: str, counted: str, limit: str) -> None:
    published_cards()
    text = told(question)
    assert f"\n\nCounted: {counted}" in text
    assert (f"more than {limit}" in text) if limit else "more than" not in text
    assert "in 95 of 100 cases" in text and ("for the number counted" in text or "of the numbers counted" in text)


def test_a_card_that_counts_all_that_a_patient_can_have_says_nothing_of_more(block: Scope) -> None:
    published_cards()  # three treatments, of which all count
    assert "more than" not in told("How many patients take velorapine?")


def test_a_choice_says_it_too(block: Scope) -> None:
    published_cards(topics=WIDE)
    text = told("Which treatment is used most?", options=["velorapine", "tamurexin"])
    assert "Counted: patients with the treatment among" in text and "more than 8 treatments" in text


# --- releases of before -----------------------------------------------------------------------------------------------
def published_before(monkeypatch: pytest.MonkeyPatch) -> Release:
    """Cards as they were planned when the first cells in public order counted."""
    lists = vocabulary.lists_for()
    most = {"departments": 2, "conditions": 6, "treatments": 6, "effects": 12}
    made = [Card(card.name, len(card.labels), most.get(card.name, 1)) for card in vocabulary.cards_of(lists)]
    public = lists.to_json() | {"year": 2025}
    release = publish._propose(ReleaseKind.CARDS, 1, PLANNER, plan_cards(cards=made, epsilon=4.0), public)
    with pytest.raises(Conflict, match="Plan a new release"):
        publish.approve(release, APPROVER)
    with monkeypatch.context() as before:
        before.setattr(publish, "made_of", lambda release: (publish.plan_of(release), lists))
        publish.approve(release, APPROVER)
        publish.begin(release)
        cards.make(release)
    release.refresh_from_db()
    return release


def test_an_older_release_stays_readable_and_is_told_by_its_own_rule(
    block: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    published_before(monkeypatch)
    text = told("How many patients take zintoralol?")
    assert "Patients with more than 6 treatments were counted in the first 6 of them only, in the order of the" in text
    assert "much higher for names late in that order" in text
    assert "more than 2 departments" in told("How many patients were seen in cardiology?")
    assert "by their age in 2025" in told("What number of patients by age band?")
    published_cards(epsilon=4.0, topics=WIDE)
    text = told("How many patients take zintoralol?")
    assert "8 treatments" in text and "first" not in text, "the newer release is told by the newer rule"


# --- what is not ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("question", "word"),
    [
        ("How many patients STOPPED velorapine?", "STOPPED"),
        ("How many patients discontinued velorapine?", "discontinued"),
        ("How many patients refused velorapine?", "refused"),
        ("How many patients started velorapine?", "started"),
        ("How many patients increased velorapine?", "increased"),
        ("How many patients had velorapine reduced?", "reduced"),
        ("How many patients never had velorapine?", "never"),
        ("How many patients don\u2019t take velorapine?", "don\u2019t"),
        ("How many patients switched from velorapine?", "switched"),
        ("How many patients used to take velorapine?", "to"),
        ("How many patients could take velorapine?", "could"),
        ("How many patients take both velorapine and tamurexin?", "both"),
        ("How many patients take velorapine on average?", "average"),
        ("How many most often take velorapine?", "most"),
        ("How many patients older than 60 are there?", "older"),
        ("How many patients are younger than 30 years old?", "younger"),
        ("How many patients had a dry cough before velorapine?", "before"),
        ("How many patients had a dry cough after velorapine?", "after"),
        ("How many women take medicines?", "take"),
        ("How many patients on velorapine had a side effect?", "side"),
        ("How many women are there by age?", "age"),
        ("How many allergies are there to velorapine?", "allergies"),
    ],
)
def test_a_word_that_changes_what_is_counted_is_not_dropped(block: Scope, question: str, word: str) -> None:
    published_cards()
    assert f"\u201c{word}\u201d" in refused(question)


@pytest.mark.parametrize(
    "question",
    [
        "How many patients take velorapine?",
        "Please, how many of our patients have been given velorapine at this hospital?",
        "What is the number of patients treated with velorapine?",
        "Can you count the patients who received velorapine? How many are there?",
        "How many patients were prescribed Velorapine?",
    ],
)
def test_other_words_for_the_same_are_answered(block: Scope, question: str) -> None:
    published_cards()
    assert "patients were counted: velorapine." in told(question)


def test_two_names_are_told_apart_and_said_to_be_apart(block: Scope) -> None:
    published_cards()
    text = told("How many patients take velorapine and tamurexin?")
    assert text.startswith("These are separate numbers, of the patients with each of them and not of those with all")


def test_a_choice_that_names_more_than_its_card_holds_is_refused(block: Scope) -> None:
    published_cards()
    refused("Which treatment do women take most?", options=["velorapine", "tamurexin"])
    refused("Which treatment was stopped most often?", options=["velorapine", "tamurexin"])


# --- shares -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "asked", ["What share", "What percentage", "Which proportion", "What fraction", "What percent"]
)
def test_a_share_is_told_as_its_two_numbers(block: Scope, asked: str) -> None:
    published_cards()
    text = told(f"{asked} of patients take velorapine?")
    found = re.search(r"- velorapine: about (\d+) patients .*\n- all patients: about (\d+) patients", text)
    assert text.startswith("A share itself is not published") and "%" not in text
    assert found and abs(int(found[1]) - 72) < 25 and abs(int(found[2]) - 90) < 50
    assert "added up" in text and "Counted: patients with velorapine among" in text


def test_the_share_of_an_effect_is_of_those_with_the_treatment(block: Scope) -> None:
    published_cards()
    text = told("What share of patients on velorapine had a dry cough?")
    assert re.search(r"- velorapine with dry cough: .*\n- velorapine: about", text)
    refused("What share of patients had a dry cough?")
    refused("What share of women take velorapine?")
    refused("What share of patients stopped velorapine?")


def test_all_patients_are_those_by_sex_with_the_noise_of_its_four_cells(block: Scope) -> None:
    published_cards()
    found = shelf.load()
    total, cells = found.total(), found.figures("sex")
    assert total and total.count == sum(cell.count for cell in cells)
    assert total.sigma == pytest.approx(2 * cells[0].sigma) and total.band > cells[0].band
