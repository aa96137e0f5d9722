"""Scores and excerpts are functions of one patient's record: what swap accounting rests on."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fdrouter.errors import InvalidParameter
from federation.node import search
from federation.node.ingest import ingest
from federation.node.models import IngestFile, Patient
from federation.node.search import top_patients
from tests.node.records import lines

pytestmark = pytest.mark.django_db

WORDS = "cough rash nausea dose velorapine tamurexin stopped reduced slept walked headache resolved fever".split()
QUESTION = "Did the cough of patients on velorapine go away when the dose was reduced?"


def hospital(folder: Path, notes: dict[str, str]) -> None:
    """A hospital of one note a patient."""
    lines.write(folder / "a.ndjson", [lines.patient(number) for number in notes])
    lines.write(folder / "b.ndjson", [lines.note(f"d-{number}", number, text) for number, text in notes.items()])
    IngestFile.objects.all().delete()
    ingest(folder)


def some_note(draw: random.Random) -> str:
    return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, 14))) + "."


def hits(limit: int = 1000) -> list[tuple[str, str]]:
    return ranked(QUESTION, limit)


def ranked(question: str, limit: int = 1000) -> list[tuple[str, str]]:
    """Source id and excerpt of each hit, best first."""
    sources = dict(Patient.objects.values_list("reference", "source_id"))
    return [(sources[hit.reference], hit.excerpt) for hit in top_patients(question, [1], limit=limit)]


@pytest.mark.parametrize("seed", range(6))
def test_changing_one_record_moves_no_other_patient_and_swaps_at_most_one(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    notes = {f"p{i:02d}": some_note(draw) for i in range(40)}
    hospital(tmp_path, notes)
    whole, top = hits(), {limit: {source for source, _ in hits(limit)} for limit in (1, 4, 16)}
    assert len(whole) > 16
    for _ in range(4):
        changed = draw.choice(sorted(notes))
        text = draw.choice([some_note(draw), QUESTION * 3, "nothing of interest", " ".join(WORDS)])
        hospital(tmp_path, notes | {changed: text})
        others = [hit for hit in hits() if hit[0] != changed]
        # Same order and same excerpts of everybody else.
        assert others == [hit for hit in whole if hit[0] != changed]
        for limit, before in top.items():
            after = {source for source, _ in hits(limit)}
            assert len(before - after) <= 1 and len(after - before) <= 1


def test_a_patient_more_or_less_swaps_at_most_one(tmp_path: Path) -> None:
    draw = random.Random(7)
    notes = {f"p{i:02d}": some_note(draw) for i in range(30)}
    hospital(tmp_path, notes)
    before = {source for source, _ in hits(8)}
    Patient.objects.get(source_id=next(iter(before))).delete()
    assert len(before - {source for source, _ in hits(8)}) == 1


def test_equal_records_are_ordered_by_reference(tmp_path: Path) -> None:
    hospital(tmp_path, {f"p{i}": "The cough of velorapine went after the dose was reduced." for i in range(12)})
    found = [hit.reference for hit in top_patients(QUESTION, [1], limit=12)]
    assert found == sorted(found) and len(found) == 12
    assert [hit.reference for hit in top_patients(QUESTION, [1], limit=5)] == found[:5]


def test_a_patient_with_many_notes_takes_one_slot(tmp_path: Path) -> None:
    lines.write(tmp_path / "a.ndjson", [lines.patient("p1"), lines.patient("p2")])
    notes = [lines.note(f"d{i}", "p1", "Cough on velorapine.", f"2026-03-{i + 1:02d}") for i in range(20)]
    lines.write(tmp_path / "b.ndjson", [*notes, lines.note("x", "p2", "Cough on velorapine.")])
    ingest(tmp_path)
    assert len(top_patients("velorapine cough", [1], limit=10)) == 2


def test_records_with_the_telling_word_come_before_those_with_common_words(tmp_path: Path) -> None:
    common = "Developed a side effect. The side effect resolved. " * 5
    hospital(tmp_path, {"a": common, "b": "Velorapine: dry cough.", "c": common + "Velorapine: none."})
    listed = ranked("What side effect of velorapine developed?")
    assert [source for source, _ in listed] == ["c", "b"]
    assert all("elorapine" in excerpt for _, excerpt in listed)
    # When a question has common words only, they have to do.
    assert {source for source, _ in ranked("What side effect developed?")} == {"a", "c"}


def test_an_excerpt_is_bounded_and_holds_what_the_question_asks(tmp_path: Path) -> None:
    filler = "The weather was discussed at length and lunch was served. " * 200
    hospital(tmp_path, {"p": filler + "The cough of velorapine went after the dose was reduced. " + filler})
    for characters in (40, 120, 560):
        hit = top_patients(QUESTION, [1], limit=1, characters=characters)[0]
        assert len(hit.excerpt) <= characters
    assert "velorapine" in hit.excerpt and hit.excerpt.startswith("66-year-old woman.")


@pytest.mark.parametrize(
    "question",
    [
        "",
        "   ",
        "the of and",
        "' & | ! <-> ( ) :* \\",
        "velorapine' | 'cough",
        "x" * 1_000_000,
        "\x00\ud800 velorapine",
        "?" * 99,
    ],
)
def test_no_question_breaks_the_search(tmp_path: Path, question: str) -> None:
    hospital(tmp_path, {"p": "velorapine cough"})
    assert len(top_patients(question, [1], limit=4)) <= 1


def test_characters_of_a_question_are_words_not_operators(tmp_path: Path) -> None:
    hospital(tmp_path, {"a": "fever", "b": "cough"})
    assert [source for source, _ in ranked("!cough")] == ["b"]
    assert [source for source, _ in ranked("fever:* & !cough")] == sorted("ab", key=reference)
    assert ranked("fev:*") == []


def reference(source: str) -> str:
    return Patient.objects.get(source_id=source).reference


@pytest.mark.parametrize("limit", [0, -1, 1025])
def test_a_limit_out_of_range_is_refused(limit: int) -> None:
    with pytest.raises(InvalidParameter):
        top_patients("cough", [1], limit=limit)


def test_a_chart_holds_one_patients_facts_and_latest_notes(tmp_path: Path) -> None:
    notes = [lines.note(f"d{i}", "p1", f"Visit number {i}.", f"2026-03-{i + 1:02d}") for i in range(9)]
    mine = [lines.patient("p1"), lines.condition("c1", "p1", "Gout"), lines.encounter("e", "p1", "Oncology"), *notes]
    lines.write(tmp_path / "a.ndjson", [*mine, lines.patient("p2"), lines.condition("c2", "p2", "Asthma")])
    ingest(tmp_path)
    reference = Patient.objects.get(source_id="p1").reference
    chart = search.chart(reference)
    assert chart is not None and chart.departments == ("oncology",)
    assert any("Gout" in line for line in chart.facts) and not any("Asthma" in line for line in chart.facts)
    assert [note.text for note in chart.notes] == [f"Visit number {i}." for i in (8, 7, 6, 5, 4)]
    assert search.chart("p-nobody") is None


def test_an_excerpt_of_a_named_patient_falls_back_to_the_beginning(tmp_path: Path) -> None:
    hospital(tmp_path, {"p": "The cough of velorapine went."})
    reference = Patient.objects.get().reference
    assert "velorapine" in (search.excerpt(reference, "velorapine") or "")
    assert "velorapine" in (search.excerpt(reference, "unrelated zebra") or "")
    assert "velorapine" in (search.excerpt(reference, "") or "")
    assert search.excerpt("p-nobody", "velorapine") is None


def test_a_department_sees_the_patients_in_its_care(tmp_path: Path) -> None:
    rows = [lines.patient("p1"), lines.patient("p2"), lines.encounter("e1", "p1", "Cardiology", "2026-01-05")]
    rows += [lines.encounter("e2", "p2", "Cardiology", "2026-02-05"), lines.encounter("e3", "p2", "Oncology")]
    lines.write(tmp_path / "a.ndjson", [*rows, lines.condition("c", "p2", "Gout")])
    ingest(tmp_path)
    listed = search.patients_in_care("cardiology", limit=10)
    assert [patient.label for patient in listed] == ["66-year-old woman, Gout", "66-year-old woman"]
    assert len(search.patients_in_care("cardiology", limit=1, offset=1)) == 1
    assert search.in_care(listed[0].reference, "oncology") and not search.in_care(listed[1].reference, "oncology")
    assert search.patients_in_care("radiology") == []
    with pytest.raises(InvalidParameter):
        search.patients_in_care("astrology")
