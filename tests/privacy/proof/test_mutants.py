"""Mechanisms with a known mistake: the check that is silent about the real one must find each of them out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.dp import checks, mutants
from benchmarks.dp.mutants import MUTANTS, Mutant
from fdrouter.errors import InvalidParameter
from federation.node import search, votes
from federation.node.ingest import ingest
from federation.node.models import IngestFile, Patient
from privacy.dp.decoding import TokenMechanism
from privacy.dp.mechanisms import bounded_sum
from tests.node.records import lines

QUESTION = "Which side effect did patients on velorapine develop?"
OPTIONS = ["dry cough", "rash", "nausea"]
BLOCKS = [1]
LOUD = 7  # notes that the patient who is replaced has


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: f"{m.mechanism}: {m.mistake}")
def test_a_mutant_is_found_out_and_the_real_mechanism_is_not(mutant: Mutant) -> None:
    assert mutant.check() is not None
    assert mutant.real() is None


def test_every_mistake_that_must_be_found_has_a_mutant() -> None:
    mistakes = " ".join(mutant.mistake for mutant in MUTANTS if mutant.mechanism == "text")
    for named in ("no clip", "half the noise", "fixed seed", "actual count", "two slots"):
        assert named in mistakes


class OwnTemperature(TokenMechanism):
    """Half the temperature, and nothing else changed: OpenDP is still asked for its cost."""

    @property
    def scale(self) -> float:
        return super().scale / 2


def test_the_mechanism_itself_refuses_half_the_temperature() -> None:
    with pytest.raises(InvalidParameter):
        mutants.made(OwnTemperature)


# --- over records: the same checks on what the node's statements give, and on statements with a mistake ---------------
def hospital(folder: Path, notes: dict[str, list[str]]) -> None:
    """A hospital of these notes; patients who were there before are gone."""
    Patient.objects.all().delete()
    IngestFile.objects.all().delete()
    folder.mkdir(exist_ok=True)
    lines.write(folder / "a.ndjson", [lines.patient(number) for number in notes])
    rows = [lines.note(f"{name}-{n}", name, text) for name, texts in notes.items() for n, text in enumerate(texts)]
    lines.write(folder / "b.ndjson", rows)
    ingest(folder)


Read = Callable[[Callable[[], list[int]]], tuple[list[int], list[int]]]


@pytest.fixture
def neighbours(db: None, tmp_path: Path) -> Read:
    """A reading of two hospitals that differ in one patient: a loud one with many notes, and a quiet one."""
    others = {f"p{n:02d}": [f"Velorapine, then {OPTIONS[n % 3]}."] for n in range(12)}
    loud = [f"Velorapine, then a dry cough, visit {n}." for n in range(LOUD)]

    def read(reading: Callable[[], list[int]]) -> tuple[list[int], list[int]]:
        found = []
        for nth, texts in enumerate((loud, ["Velorapine, then a rash."])):
            hospital(tmp_path / str(nth), {**others, "x": texts})
            found.append(reading())
        return found[0], found[1]

    return read


def test_a_patient_counted_once_a_note_is_found_out(neighbours: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    def counted() -> list[int]:
        return [votes.count("velorapine dry cough", BLOCKS)]

    assert checks.moved(*neighbours(counted), cells=1) is None
    a_line = votes._COUNT.replace("FROM node_patient p", "FROM node_patient p, unnest(p.lines)")
    monkeypatch.setattr(votes, "_COUNT", a_line)
    assert "by 8" in str(checks.moved(*neighbours(counted), cells=1))


def test_a_patient_with_a_vote_for_each_note_is_found_out(neighbours: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    def voted() -> list[int]:
        return votes.votes(QUESTION, OPTIONS, BLOCKS)

    def held() -> list[int]:
        return votes.held_by(QUESTION, ["dry cough", "rash", "nausea", "fever"], BLOCKS)

    assert checks.moved(*neighbours(voted), cells=2) is None
    assert checks.moved(*neighbours(held), cells=4) is None
    a_note = votes._HELD.replace("GROUP BY c.id", "CROSS JOIN unnest(c.said) AS more (v) GROUP BY c.id, more.v")
    monkeypatch.setattr(votes, "_HELD", a_note)
    assert "moves a number by" in str(checks.moved(*neighbours(voted), cells=2))
    assert "moves a number by" in str(checks.moved(*neighbours(held), cells=4))


def test_a_patient_in_two_slots_is_found_out(neighbours: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    slots: list[list[tuple[str, str]]] = []

    def retrieved() -> list[int]:
        hits = search.top_patients(QUESTION, BLOCKS, limit=8)
        slots.append([(hit.reference, hit.excerpt) for hit in hits])
        return [len(hits)]

    neighbours(retrieved)
    assert checks.swapped(*slots) is None and all(len(found) == 8 for found in slots)
    assert all(checks.each_once(reference for reference, _ in found) is None for found in slots)
    slots.clear()
    monkeypatch.setattr(
        search, "_TOP", search._TOP.replace("FROM node_patient WHERE", "FROM node_patient, unnest(lines) WHERE")
    )
    neighbours(retrieved)
    assert "slots" in str(checks.swapped(*slots))
    assert "has" in str(checks.each_once(reference for reference, _ in slots[0]))


def test_a_row_that_is_not_held_to_its_bounds_is_found_out() -> None:
    rows, other = np.array([[900, 3, 0], [1, 0, 1]]), np.array([[0, 0, 0], [1, 0, 1]])
    real = [bounded_sum(table, max_cells=1, max_per_cell=1).tolist() for table in (rows, other)]
    assert checks.moved(*real, cells=1) is None
    plain = [table.sum(axis=0).tolist() for table in (rows, other)]
    assert checks.moved(*plain, cells=1)
