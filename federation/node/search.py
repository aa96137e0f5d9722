"""Finding patients and the part of their record that a question is about.

Every score and every excerpt is a function of one patient's record and the question alone: no corpus statistics, no
limit shared between patients, ties broken by the patient's own reference. Changing one patient's record therefore
changes the top-B set by at most one swap, which is what the accounting of ``cohort.text`` counts on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from django.db import connection

from fdrouter.errors import InvalidParameter
from federation.node.models import CareAssignment, Department, Note, Patient
from federation.node.phrases import COMMON_WORDS as COMMON_WORDS
from federation.node.phrases import SILENT_WORDS as SILENT_WORDS
from federation.node.phrases import Terms
from federation.node.phrases import quoted as quoted
from federation.node.phrases import terms_of as terms_of

MAX_LIMIT = 1024
#: About 140 tokens of clinical text.
EXCERPT_CHARACTERS = 560
_COVER = "(SELECT count(*) FROM unnest(%({terms})s::text[]) AS t (term) WHERE {vector} @@ t.term::tsquery)"
_TOP = f"""
WITH matched AS MATERIALIZED (
    SELECT reference, vector, {_COVER.format(terms="telling", vector="vector")} AS cover
    FROM node_patient WHERE block = ANY(%(blocks)s) AND vector @@ %(any_telling)s::tsquery)
SELECT reference FROM matched WHERE cover >= %(least)s
ORDER BY cover DESC, {_COVER.format(terms="all", vector="vector")} DESC, ts_rank(vector, %(any)s::tsquery) DESC,
    reference COLLATE "C" LIMIT %(limit)s
"""  # noqa: S608 - constants of this module only
_LINES = f"""
SELECT p.reference, p.lines[1], m.line FROM node_patient p LEFT JOIN LATERAL (
    SELECT l.line, l.place, {_COVER.format(terms="telling", vector="v.vector")} AS cover,
        {_COVER.format(terms="all", vector="v.vector")} AS total
    FROM unnest(p.lines) WITH ORDINALITY AS l (line, place),
        LATERAL (SELECT to_tsvector('english', l.line) AS vector OFFSET 0) v
    WHERE l.place > 1 AND v.vector @@ %(any_telling)s::tsquery) m ON true
WHERE p.reference = ANY(%(references)s) ORDER BY p.reference, m.cover DESC, m.total DESC, m.place
"""  # noqa: S608 - constants of this module only


@dataclass(frozen=True, slots=True)
class PatientHit:
    """One patient among the top B: a pseudonymous reference, and the part of the record closest to the question."""

    reference: str
    excerpt: str


@dataclass(frozen=True, slots=True)
class ChartNote:
    """One note of a chart."""

    date: date | None
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class ChartRecord:
    """One patient's summary: facts a line each, the latest notes, and the departments that care for the patient."""

    reference: str
    birth_year: int | None
    sex: str
    facts: tuple[str, ...]
    notes: tuple[ChartNote, ...]
    departments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CarePatient:
    """One entry of a department's patient list."""

    reference: str
    label: str
    since: date | None


def top_patients(
    question: str, blocks: Sequence[int], *, limit: int, characters: int = EXCERPT_CHARACTERS
) -> list[PatientHit]:
    """At most ``limit`` patients of these blocks, best first: by how many of the question's telling words the record
    has, by how many of all its words, by full-text rank, then by reference. A record with less than half of the telling
    words is no hit, so there may be fewer than ``limit``.

    Raises:
        InvalidParameter: ``limit`` is out of 1..1024.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidParameter(f"Between 1 and {MAX_LIMIT} patients can be searched for.", field="limit")
    terms = terms_of(question)
    if not terms.all:
        return []
    with connection.cursor() as cursor:
        cursor.execute(_TOP, terms.parameters() | {"limit": limit, "blocks": list(blocks)})
        references = [row[0] for row in cursor.fetchall()]
    lines = _matching_lines(references, terms)
    # A patient whose record went away between the two statements is no hit.
    return [PatientHit(found, _fill(lines[found], characters)) for found in references if found in lines]


def excerpt(reference: str, question: str, *, characters: int = EXCERPT_CHARACTERS) -> str | None:
    """The part of one patient's record closest to the question, or ``None`` when there is no such patient.

    Without a match it is the beginning of the record.
    """
    terms = terms_of(question)
    matching = _matching_lines([reference], terms).get(reference, []) if terms.all else []
    if len(matching) > 1:
        return _fill(matching, characters)
    lines = Patient.objects.filter(reference=reference).values_list("lines", flat=True).first()
    return None if lines is None else _fill(lines, characters)


def chart(reference: str, *, notes: int = 5, characters: int = 1200) -> ChartRecord | None:
    """One patient's facts and latest notes (each cut to ``characters``), or ``None`` when there is no such patient."""
    patient = Patient.objects.filter(reference=reference).first()
    if patient is None:
        return None
    latest = Note.objects.filter(patient=patient).select_related("resource")
    latest = latest.order_by("-date", "-resource__source_id")[:notes]
    care = CareAssignment.objects.filter(patient=patient).order_by("department")
    return ChartRecord(
        reference=patient.reference,
        birth_year=patient.birth_year,
        sex=patient.sex,
        facts=tuple(patient.lines[: patient.fact_lines]),
        notes=tuple(ChartNote(note.date, note.resource.text, note.text[:characters]) for note in latest),
        departments=tuple(care.values_list("department", flat=True)),
    )


def patients_in_care(department: str, *, limit: int = 50, offset: int = 0) -> list[CarePatient]:
    """The patients in a department's care, those taken into care last first.

    Raises:
        InvalidParameter: there is no such department.
    """
    if department not in Department.values:
        raise InvalidParameter("There is no such department.", field="department")
    rows = CareAssignment.objects.filter(department=department).select_related("patient")
    rows = rows.order_by("-since", "patient__reference")[offset : offset + max(1, min(limit, MAX_LIMIT))]
    return [CarePatient(row.patient.reference, _label(row.patient), row.since) for row in rows]


def in_care(reference: str, department: str) -> bool:
    """Whether the department's staff have the patient in their care."""
    return CareAssignment.objects.filter(department=department, patient__reference=reference).exists()


def _label(patient: Patient) -> str:
    """``64-year-old woman, hypertension (htn), asthma``: enough to find a patient in a list without a name."""
    facts = patient.lines[: patient.fact_lines]
    conditions = [line.removeprefix("Condition: ") for line in facts if line.startswith("Condition: ")]
    named = [condition.split(",")[0].rstrip(".") for condition in conditions[:2]]
    return ", ".join([facts[0].rstrip(".") if facts else "Patient", *named])


def _matching_lines(references: Iterable[str], terms: Terms) -> dict[str, list[str]]:
    """Who each patient is, then the lines with telling words, best first. Other lines would dilute the context."""
    with connection.cursor() as cursor:
        cursor.execute(_LINES, terms.parameters() | {"references": list(references)})
        rows: list[tuple[str, str | None, str | None]] = cursor.fetchall()
    grouped: dict[str, list[str]] = {}
    for reference, person, line in rows:
        lines = grouped.setdefault(reference, [person or ""])
        if line:
            lines.append(line)
    return grouped


def _fill(lines: list[str], characters: int) -> str:
    """As many of the lines as fit, in their order; the second is cut rather than left out."""
    chosen, room = lines[:1], characters - len("".join(lines[:1]))
    for place, line in enumerate(lines[1:]):
        if len(line) + 1 > room and place == 0:
            line = line[: max(0, room - 1)]
        if len(line) + 1 <= room:
            chosen.append(line)
            room -= len(line) + 1
    return " ".join(chosen)[:characters]


def statistics() -> dict[str, Any]:
    """How many patients, resources and notes are on record, for the node's own health page."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT (SELECT count(*) FROM node_patient), (SELECT count(*) FROM node_resource), "
            "(SELECT count(*) FROM node_note)"
        )
        patients, resources, notes = cursor.fetchone()
    return {"patients": patients, "resources": resources, "notes": notes}
