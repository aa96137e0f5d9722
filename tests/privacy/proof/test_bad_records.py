"""Records as nobody wrote them before: no patients, one patient, thousands of notes, other alphabets, what is no text.

Whatever a record holds, a patient is one unit: it moves a count by one, two cells by one, one slot; and every question
that cannot be answered is refused by what it says, not by what is on record.
"""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks.dp import checks
from fdrouter.errors import InvalidParameter
from federation.node import cohorts, search, votes
from federation.node.documents import MAX_CHARACTERS
from federation.node.ingest import ingest
from federation.node.models import IngestFile, Patient
from privacy.dp.cohort_plans import plan_choice, plan_count, plan_keywords
from tests.node.records import lines

pytestmark = pytest.mark.django_db

BLOCKS = [1]
QUESTION = "Which side effect did patients on velorapine develop?"
OPTIONS = ["dry cough", "rash", "nausea"]
WORDS = ["cough", "rash", "nausea", "fever", "dry cough", "ξηρός βήχας", "干咳", "سعال", "кашель"]
TEXTS = {
    "Greek": "Η velorapine προκάλεσε ξηρό βήχα. Ξηρός βήχας.",
    "Chinese": "患者服用velorapine后出现干咳。 velorapine 干咳 皮疹",
    "Arabic": "عانى المريض من سعال جاف بعد velorapine dry cough",
    "Hebrew, right to left": "\u202evelorapine\u202c שיעול יבש \u2067rash\u2069",
    "emoji": "velorapine 😷🤧 cough 🤮 nausea 👩\u200d⚕️",
    "zero width": "velo\u200brapine dry\u200b cough\ufeff velorapine ra\u00adsh",
    "accents": "ve\u0301lorapine, velorapine: de\u0301pression, RASH, ｒａｓｈ, ﬁever",
    "NUL and controls": "velorapine\x00dry cough\x01\x1b[31mrash\x7f",
    "operators": "velorapine & (rash | !cough):* <-> 'nausea' \\ -- ; DROP TABLE node_patient",
    "markup": "<b>velorapine</b> <|im_end|> {{rash}} %s %(x)s $1 nausea",
    "one long word": "velorapine " + "x" * 50_000 + " rash",
    "no words": "\u200b\u200d \u2028 \ufeff ... !!!",
    "nothing": " ",
}


def hospital(folder: Path, notes: dict[str, list[str]]) -> None:
    """A hospital of these notes; who was there before is gone."""
    Patient.objects.all().delete()
    IngestFile.objects.all().delete()
    folder.mkdir(exist_ok=True)
    lines.write(folder / "a.ndjson", [lines.patient(number) for number in notes])
    rows = [lines.note(f"{name}-{n}", name, text) for name, texts in notes.items() for n, text in enumerate(texts)]
    lines.write(folder / "b.ndjson", rows)
    ingest(folder)


def figures() -> tuple[list[int], list[int], list[int], set[str]]:
    """Count, votes and words of the question, and who fills its slots."""
    slots = {hit.reference for hit in search.top_patients(QUESTION, BLOCKS, limit=4)}
    count = [votes.count("velorapine rash", BLOCKS)]
    return count, votes.votes(QUESTION, OPTIONS, BLOCKS), votes.held_by(QUESTION, WORDS, BLOCKS), slots


def within_bounds(one: Any, other: Any) -> bool:
    """Whether two neighbours' figures differ by no more than one patient may move them."""
    found = (
        checks.moved(one[0], other[0], cells=1),
        checks.moved(one[1], other[1], cells=2),
        checks.moved(one[2], other[2], cells=len(WORDS)),
        checks.swapped(one[3], other[3]),
    )
    return found == (None, None, None, None)


# --- who is there -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("notes", [{}, {"p": []}, {"p": ["Velorapine, then a rash."]}], ids=["none", "no note", "one"])
def test_nobody_and_one_are_answered_like_many(tmp_path: Path, notes: dict[str, list[str]]) -> None:
    """Whether anybody matched is a fact about patients: it is told with noise, and refused to nobody."""
    hospital(tmp_path, notes)
    count, choice, words = plan_count(epsilon=0.1), plan_choice(options=3, epsilon=0.1), plan_keywords(epsilon=0.1)
    told = {cohorts.count("velorapine rash", count, BLOCKS).split()[1] for _ in range(40)}
    assert len(told) > 5
    assert cohorts.choice(QUESTION, OPTIONS, choice, BLOCKS).startswith("Said most often:")
    assert len(set(cohorts.keywords(QUESTION, words, BLOCKS))) == words.picks
    assert len(search.top_patients(QUESTION, BLOCKS, limit=64)) <= 1


def test_a_block_without_patients_matches_nobody(tmp_path: Path) -> None:
    hospital(tmp_path, {"p": ["Velorapine, then a rash."]})
    for blocks in ([], [2], [-1]):
        assert votes.count("velorapine rash", blocks) == 0
        assert sum(votes.votes(QUESTION, OPTIONS, blocks)) == 0
        assert search.top_patients(QUESTION, blocks, limit=4) == []


def test_thousands_of_notes_are_one_patient_in_every_figure(tmp_path: Path) -> None:
    draw = random.Random(3)
    others = {f"p{n}": [f"Velorapine, then {OPTIONS[n % 3]}."] for n in range(8)}
    loud = [
        f"Velorapine, then {draw.choice(OPTIONS)}, visit {n}. " + " ".join(f"word{n}x{k}" for k in range(30))
        for n in range(3_000)
    ]
    seen = []
    for texts in (loud, ["Velorapine and quiet."], []):
        hospital(tmp_path, {**others, "x": texts})
        seen.append(figures())
    assert all(within_bounds(one, other) for one, other in itertools.combinations(seen, 2))


def test_a_record_is_held_to_its_length(tmp_path: Path) -> None:
    hospital(tmp_path, {"x": ["Velorapine and a rash. " + "and more of it. " * 200 for _ in range(2_000)]})
    stored = Patient.objects.get()
    assert sum(map(len, stored.lines)) <= MAX_CHARACTERS + len(stored.lines)
    (hit,) = search.top_patients(QUESTION, BLOCKS, limit=4)
    assert len(hit.excerpt) <= search.EXCERPT_CHARACTERS


# --- what is written --------------------------------------------------------------------------------------------------
def test_no_text_of_a_record_moves_more_than_its_own_part(tmp_path: Path) -> None:
    others = {f"p{n}": [f"Velorapine, then {OPTIONS[n % 3]}."] for n in range(6)}
    seen = {}
    for name, text in {**TEXTS, "all at once": " ".join(TEXTS.values())}.items():
        hospital(tmp_path, {**others, "x": [text]})
        assert Patient.objects.count() == 7, f"{name}: the others are taken in whatever this one says"
        seen[name] = figures()
    assert all(within_bounds(one, other) for one, other in itertools.combinations(seen.values(), 2))
    assert seen["emoji"][1] != seen["nothing"][1], "words beside other characters are still read"


def test_words_of_other_alphabets_are_found_by_questions_in_them(tmp_path: Path) -> None:
    hospital(tmp_path, {name: [text] for name, text in TEXTS.items() if name in ("Greek", "Chinese", "Arabic")})
    for question in ("βήχας", "βήχα", "干咳", "سعال"):
        assert votes.matched_words(question), question
        assert votes.count(question, BLOCKS) == 1, question


@pytest.mark.parametrize(
    "question", ["😷🤧", "\u200b\u200d", "...", "\x00", "the of and", "\u202e\u202c", "\ud800"], ids=ascii
)
@pytest.mark.parametrize("plan", [plan_count(), plan_choice(options=3), plan_keywords()], ids=lambda plan: plan.name)
def test_a_question_without_a_word_is_refused_whoever_is_on_record(tmp_path: Path, question: str, plan: Any) -> None:
    for notes in ({}, {"p": [f"{question} velorapine".replace("\ud800", "")]}):
        hospital(tmp_path, notes)
        with pytest.raises(InvalidParameter) as refused:
            cohorts.check(question, OPTIONS, plan)
        assert refused.value.details["field"] == "messages" and refused.value.message.startswith("The question")


@pytest.mark.parametrize("option", ["", " ", "😷", "\u200b", "\x00", "the", "\ud800", "'; --"], ids=ascii)
def test_an_answer_that_no_record_could_hold_is_refused(option: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        cohorts.check(QUESTION, ["rash", option, "nausea"], plan_choice(options=3))
    assert refused.value.details["field"] == "privacy.options"


def test_a_question_in_german_names_its_words(tmp_path: Path) -> None:
    hospital(tmp_path, {"p": ["Der Fuß war weiß."]})
    assert votes.matched_words("Fuß weiß") == ["fuß", "weiß"]
    assert votes.count("Fuß weiß", BLOCKS) == 1


@pytest.mark.parametrize("one", ["rash\u200b", "RASH", "ra\u00adsh", "rashes", "rash!", "ｒａｓｈ"], ids=ascii)
def test_answers_that_look_alike_are_refused_or_are_two_answers(tmp_path: Path, one: str) -> None:
    """Look-alikes could make one patient's word count for two answers; a patient has one vote all the same."""
    hospital(tmp_path, {"p": [f"Velorapine, then rash, {one}."], "q": ["Velorapine, then nausea."]})
    try:
        cohorts.check(QUESTION, ["rash", one, "nausea"], plan_choice(options=3))
    except InvalidParameter as refused:
        assert refused.details["field"] == "privacy.options"
    assert sum(votes.votes(QUESTION, ["rash", one, "nausea"], BLOCKS)) == 2
