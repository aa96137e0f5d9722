"""Counts, votes and words: right on the planted facts, and one patient moves them by no more than is paid for."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fdrouter.errors import InvalidParameter
from federation.node import terms, votes
from federation.node.demo_records import build
from federation.node.ingest import ingest
from federation.node.models import IngestFile
from privacy.dp.cohort_plans import DEFAULT_TERMS
from tests.node.records import lines

pytestmark = pytest.mark.django_db

QUESTION = "Which side effect did patients on velorapine develop?"
OPTIONS = ["dry cough", "rash", "nausea", "vivid dreams"]
WORDS = "cough rash nausea dose velorapine stopped reduced walked headache resolved dry vivid dreams fever".split()


def hospital(folder: Path, notes: dict[str, str]) -> None:
    """A hospital of one note a patient."""
    lines.write(folder / "a.ndjson", [lines.patient(number) for number in notes])
    lines.write(folder / "b.ndjson", [lines.note(f"d-{number}", number, text) for number, text in notes.items()])
    IngestFile.objects.all().delete()
    ingest(folder)


@pytest.fixture
def planted(tmp_path: Path) -> dict[str, int]:
    manifest = build.build_small(tmp_path, "northfield")
    ingest(tmp_path)
    found: dict[str, int] = manifest["facts"]["velorapine"]
    return found


def test_votes_find_the_planted_side_effect(planted: dict[str, int]) -> None:
    found = votes.votes(QUESTION, OPTIONS, [1])
    assert found[0] == planted["with_effect"]
    assert sum(found) == planted["patients"]
    assert sum(found[1:-1]) < planted["patients"] // 10


def test_a_count_is_of_patients_who_match_every_word(planted: dict[str, int]) -> None:
    assert votes.count("How many patients take velorapine?", [1]) == planted["patients"]
    assert votes.count("How many patients on velorapine had a dry cough?", [1]) == planted["with_effect"]
    assert votes.count("How many patients take quuxoline?", [1]) == 0
    assert votes.count("How many of the patients?", [1]) == 0


def test_the_words_of_a_public_list_that_the_cohort_has(planted: dict[str, int]) -> None:
    words = terms.words_of(DEFAULT_TERMS)
    found = dict(zip(words, votes.held_by(QUESTION, words, [1]), strict=True))
    assert found["dry cough"] == found["cough"] == planted["with_effect"]
    assert found["dose reduced"] >= planted["with_effect"] * 0.8
    assert found["tinnitus"] == 0
    asked = votes.held_by("Did the cough of patients on velorapine go away?", ["cough", "dry cough"], [1])
    assert asked[0] == 0 and asked[1] > 0, "a word of the question tells nothing"


@pytest.mark.parametrize("seed", range(4))
def test_one_patient_moves_no_number_by_more_than_is_paid_for(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)

    def text() -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, 12))) + "."

    def numbers() -> tuple[int, list[int], list[int]]:
        found = votes.votes(QUESTION, OPTIONS, [1])
        return votes.count("velorapine cough", [1]), found, votes.held_by(QUESTION, WORDS, [1])

    notes = {f"p{i:02d}": text() for i in range(24)}
    hospital(tmp_path, notes)
    count, histogram, held = numbers()
    assert count and sum(histogram) > 4 and max(held) > 2
    for _ in range(5):
        other = notes | {draw.choice(sorted(notes)): draw.choice([text(), " ".join(WORDS) * 9, "nothing", "dry cough"])}
        hospital(tmp_path, other)
        new_count, new_histogram, new_held = numbers()
        assert abs(new_count - count) <= 1
        moved = [abs(a - b) for a, b in zip(new_histogram, histogram, strict=True)]
        assert max(moved) <= 1 and sum(moved) <= 2
        assert max(abs(a - b) for a, b in zip(new_held, held, strict=True)) <= 1


def test_thousands_of_notes_are_one_vote(tmp_path: Path) -> None:
    lines.write(tmp_path / "a.ndjson", [lines.patient("p1"), lines.patient("p2")])
    many = [lines.note(f"d-{n}", "p1", f"Velorapine and a dry cough, visit {n}.") for n in range(1500)]
    lines.write(tmp_path / "b.ndjson", [*many, lines.note("x", "p2", "Velorapine, then a rash.")])
    ingest(tmp_path)
    assert votes.votes(QUESTION, OPTIONS, [1]) == [1, 1, 0, 0, 0]


def test_other_alphabets_and_operators_are_words_like_any(tmp_path: Path) -> None:
    hospital(tmp_path, {"p1": "Велорапин вызвал сухой кашель.", "p2": "velorapine & (cough | !rash):*"})
    assert votes.count("кашель", [1]) == 1
    assert votes.votes("велорапин", ["сухой кашель", "сыпь"], [1]) == [1, 0, 0]
    assert votes.votes(QUESTION, ["cough & !x | y:*", "the", "\0"], [1])[-1] in (0, 1)
    assert votes.count("& | ! :* ( ) <-> \\ '", [1]) == 0


def test_an_unknown_word_list_is_refused() -> None:
    for name in ("clinical-99", "../clinical-1", ""):
        with pytest.raises(InvalidParameter):
            terms.words_of(name)


def test_the_shipped_list_is_clean() -> None:
    words = terms.words_of(DEFAULT_TERMS)
    assert len(words) == len(set(words)) > 200
    assert all(word == word.lower().strip() and word.isascii() for word in words)
