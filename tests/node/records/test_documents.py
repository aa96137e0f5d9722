"""A patient's record as text."""

from __future__ import annotations

import random
from datetime import date

import pytest

from federation.node.documents import MAX_CHARACTERS, SEGMENT, Fact, NoteText, build, department_of, person, segments


def fact(kind: str, number: str, text: str, day: date | None = date(2026, 2, 1), **body: object) -> Fact:
    return Fact(kind, number, f"C{text[:5]}", text, day, dict(body))


def test_the_document_does_not_depend_on_the_order_of_rows() -> None:
    facts = [fact("Condition", f"c{i}", f"Condition {i % 7}", date(2020 + i % 5, 1, 1)) for i in range(30)]
    facts += [fact("MedicationRequest", f"m{i}", f"Drug {i % 4}", dose="5 mg") for i in range(12)]
    notes = [NoteText(f"n{i}", date(2026, 1, 1 + i % 9), f"Note {i}.") for i in range(20)]
    first = build(birth_year=1950, sex="male", facts=facts, notes=notes)
    shuffle = random.Random(4)
    for _ in range(5):
        shuffle.shuffle(facts)
        shuffle.shuffle(notes)
        assert build(birth_year=1950, sex="male", facts=facts, notes=notes) == first


def test_facts_come_before_notes_and_repeats_are_told_once() -> None:
    facts = [
        fact("MedicationRequest", "m1", "Amlodipine", date(2025, 3, 1), dose="5mg"),
        fact("MedicationRequest", "m2", "Amlodipine", date(2026, 3, 1), dose="10mg"),
        fact("AllergyIntolerance", "a1", "No known allergies"),
        fact("Observation", "o1", "Hemoglobin A1c/Hemoglobin.total in Blood", value="7.2 %", flag="High", lab=True),
        fact("Observation", "o2", "Creatinine [Mass/volume] in Serum or Plasma", value="1 mg/dL", lab=True),
    ]
    document = build(birth_year=1962, sex="female", facts=facts, notes=[NoteText("n", date(2026, 4, 1), "Feels well.")])
    assert document.lines == [
        "64-year-old woman.",
        "Medication: Amlodipine 10mg, since 2025-03.",
        "Creatinine: 1 mg/dL, 2026-02.",
        "Hemoglobin A1c in Blood: 7.2 % (high), 2026-02.",
        "2026-04: Feels well.",
    ]
    assert document.facts == 4


def test_the_age_is_that_of_the_latest_entry() -> None:
    assert person(1962, "female", date(2026, 1, 1)) == "64-year-old woman."
    assert person(None, "male", date(2026, 1, 1)) == "Man."
    assert person(1800, "other", date(2026, 1, 1)) == "Patient."


def test_a_long_note_is_cut_into_pieces_that_lose_nothing() -> None:
    text = "The cough went away. " * 60 + "x" * 1000
    pieces = list(segments(NoteText("n", None, text)))
    assert all(len(piece) <= SEGMENT for piece in pieces)
    assert "".join(pieces).replace(" ", "") == text.replace(" ", "")


def test_the_document_is_bounded() -> None:
    notes = [NoteText(f"n{i}", date(2026, 1, 1), f"Word{i} " * 600) for i in range(50)]
    document = build(birth_year=1950, sex="male", facts=[], notes=notes)
    assert sum(len(line) + 1 for line in document.lines) <= MAX_CHARACTERS


@pytest.mark.parametrize(
    ("service", "klass", "department"),
    [
        ("Cardiology", "AMB", "cardiology"),
        ("Medical Oncology", "IMP", "oncology"),
        ("Internal Medicine", "EMER", "emergency"),
        ("Cardiology", "EMER", "cardiology"),
        ("Clinical Research", "AMB", "research"),
        ("Diagnostic Radiology", "AMB", "radiology"),
        ("", "", "general"),
    ],
)
def test_an_encounter_belongs_to_a_department(service: str, klass: str, department: str) -> None:
    assert department_of(service, klass) == department
