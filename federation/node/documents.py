"""A patient's record as text: structured facts first, then notes, newest first. Pure.

The document is a function of that one patient's resources and notes. It is what full-text search ranks, what excerpts
are cut from, and so everything a model can see of the patient.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from federation.node.models import Department

MAX_CHARACTERS = 24_000
MAX_CODES = 200
SEGMENT = 300
_BOUNDS = {"Condition": 40, "MedicationRequest": 40, "AllergyIntolerance": 15, "Procedure": 20, "Observation": 40}
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z0-9])")
#: What a LOINC name says about how a value was measured; a reader of the record does not need it.
_MEASURED = re.compile(
    r"\s*(?:\[[^\]]*\]|/\S+|\b(?:in|by) (?:Serum|Plasma|Platelet|Immunoassay|Automated|Coagulation).*)"
)
_PERSON = {"female": "woman", "male": "man"}
_DEPARTMENT_WORDS = (
    ("emergency", Department.EMERGENCY),
    ("radiolog", Department.RADIOLOGY),
    ("imaging", Department.RADIOLOGY),
    ("cardio", Department.CARDIOLOGY),
    ("oncolog", Department.ONCOLOGY),
    ("research", Department.RESEARCH),
    ("clinical trial", Department.RESEARCH),
)


@dataclass(frozen=True, slots=True)
class Fact:
    """The columns of one stored resource that the document is made of."""

    resource_type: str
    source_id: str
    code: str
    text: str
    date: date | None
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class NoteText:
    """One stored note."""

    source_id: str
    date: date | None
    text: str


@dataclass(slots=True)
class Document:
    """``lines[:facts]`` are structured facts; ``care`` maps a department to the day of its first encounter."""

    lines: list[str] = field(default_factory=list)
    facts: int = 0
    codes: list[str] = field(default_factory=list)
    care: dict[str, date | None] = field(default_factory=dict)


def department_of(service: str, encounter_class: str) -> Department:
    """The department that an encounter's service type names; an emergency class counts as emergency."""
    words = service.lower()
    named = next((department for part, department in _DEPARTMENT_WORDS if part in words), None)
    if named:
        return named
    return Department.EMERGENCY if encounter_class == "EMER" else Department.GENERAL


def build(*, birth_year: int | None, sex: str, facts: Iterable[Fact], notes: Iterable[NoteText]) -> Document:
    """Makes the document, at most ``MAX_CHARACTERS`` characters."""
    ordered = sorted(facts, key=lambda fact: (fact.date or date.min, fact.source_id), reverse=True)
    latest = sorted(notes, key=lambda note: (note.date or date.min, note.source_id), reverse=True)
    moments = [day for day in (*(f.date for f in ordered), *(n.date for n in latest)) if day]
    document = Document(lines=[person(birth_year, sex, max(moments, default=None))])
    for lines in (
        _conditions(ordered),
        _medications(ordered),
        _allergies(ordered),
        _procedures(ordered),
        _observations(ordered),
        _encounters(ordered),
    ):
        document.lines.extend(lines)
    document.facts = len(document.lines)
    document.lines.extend(line for note in latest for line in segments(note))
    document.lines = list(_bounded(document.lines))
    document.facts = min(document.facts, len(document.lines))
    coded = {
        fact.code for fact in ordered if fact.code and fact.resource_type not in ("Encounter", "DocumentReference")
    }
    document.codes = sorted(coded)[:MAX_CODES]
    for fact in reversed(ordered):
        if fact.resource_type == "Encounter":
            document.care.setdefault(department_of(fact.text, fact.code), fact.date)
    return document


def person(birth_year: int | None, sex: str, seen: date | None) -> str:
    """``64-year-old woman.``; the age is that of the latest entry, so it does not change from day to day."""
    who = _PERSON.get(sex, "patient")
    if birth_year is None or seen is None or not 0 <= seen.year - birth_year <= 120:
        return who.capitalize() + "."
    return f"{seen.year - birth_year}-year-old {who}."


def segments(note: NoteText) -> Iterator[str]:
    """A note cut at sentence ends into pieces of about ``SEGMENT`` characters, each with the month it was written."""
    stamp = f"{note.date:%Y-%m}: " if note.date else ""
    piece = ""
    for sentence in (part.strip() for line in note.text.split("\n") for part in _SENTENCE.split(line)):
        for start in range(0, len(sentence), SEGMENT):
            part = sentence[start : start + SEGMENT]
            if piece and len(piece) + len(part) >= SEGMENT:
                yield stamp + piece
                piece = ""
            piece = f"{piece} {part}".strip()
    if piece:
        yield stamp + piece


def _bounded(lines: Iterable[str]) -> Iterator[str]:
    room = MAX_CHARACTERS
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            return
        yield line


def _month(day: date | None) -> str:
    return f"{day:%Y-%m}" if day else ""


def _named(facts: Sequence[Fact], kind: str) -> Iterator[list[Fact]]:
    """The facts of one kind, grouped by what they name; groups and their members newest first."""
    groups: dict[str, list[Fact]] = {}
    for fact in facts:
        if fact.resource_type == kind:
            groups.setdefault((fact.text or fact.code).lower(), []).append(fact)
    yield from list(groups.values())[: _BOUNDS[kind]]


def _conditions(facts: Sequence[Fact]) -> Iterator[str]:
    for group in _named(facts, "Condition"):
        latest, since = group[0], _month(group[-1].date)
        ended = latest.body.get("ended", "")[:7]
        parts = [
            latest.text or latest.code,
            str(latest.body.get("severity", "")).lower(),
            f"since {since}" if since else "",
            f"resolved {ended}" if ended else "",
        ]
        yield f"Condition: {', '.join(part for part in parts if part)}."


def _medications(facts: Sequence[Fact]) -> Iterator[str]:
    for group in _named(facts, "MedicationRequest"):
        latest, since = group[0], _month(group[-1].date)
        parts = [
            f"{latest.text or latest.code} {latest.body.get('dose', '')}".strip(),
            f"since {since}" if since else "",
        ]
        yield f"Medication: {', '.join(part for part in parts if part)}."


def _allergies(facts: Sequence[Fact]) -> Iterator[str]:
    for group in _named(facts, "AllergyIntolerance"):
        if group[0].text.lower().startswith("no known"):
            continue
        reactions = ", ".join(group[0].body.get("reactions", []))
        yield f"Allergy: {group[0].text or group[0].code}{f' ({reactions})' if reactions else ''}."


def _procedures(facts: Sequence[Fact]) -> Iterator[str]:
    for group in _named(facts, "Procedure"):
        latest = group[0]
        parts = [latest.text or latest.code, str(latest.body.get("outcome", "")).lower(), _month(latest.date)]
        yield f"Procedure: {', '.join(part for part in parts if part)}."


def _observations(facts: Sequence[Fact]) -> Iterator[str]:
    groups = [group[0] for group in _named(facts, "Observation")]
    for fact in sorted(groups, key=lambda fact: not fact.body.get("lab")):
        flag = str(fact.body.get("flag", "")).lower()
        noted = f" ({flag})" if flag and flag != "normal" else ""
        yield f"{_MEASURED.sub('', fact.text) or fact.code}: {fact.body.get('value', '')}{noted}, {_month(fact.date)}."


def _encounters(facts: Sequence[Fact]) -> Iterator[str]:
    visits: dict[str, list[Fact]] = {}
    for fact in facts:
        if fact.resource_type == "Encounter":
            visits.setdefault(department_of(fact.text, fact.code).label, []).append(fact)
    for label, group in visits.items():
        reasons = list(dict.fromkeys(reason for fact in group if (reason := fact.body.get("reason"))))[:3]
        told = f", for {'; '.join(reasons)}" if reasons else ""
        yield f"Visits to {label.lower()}: {len(group)}, last {_month(group[0].date)}{told}."
