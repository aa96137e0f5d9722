"""Remaking the documents, vectors, codes and care of patients whose records changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from django.db import connection, transaction

from federation.node.documents import Document, Fact, NoteText, build
from federation.node.models import CareAssignment, Note, Patient, Resource
from federation.node.store import copy_rows

BATCH = 100
MAX_OBSERVATIONS = 60
_COLUMNS = ("patient_id", "lines", "fact_lines", "codes", "facts", "notes")


def rebuild_stale(advance: Callable[[int], None] = lambda patients: None) -> int:
    """Remakes every stale patient, a batch a transaction, and returns how many there were."""
    count = 0
    while ids := list(Patient.objects.filter(stale=True).order_by("id").values_list("id", flat=True)[:BATCH]):
        with transaction.atomic():
            _rebuild(ids)
        count += len(ids)
        advance(len(ids))
    return count


def _rebuild(ids: Sequence[int]) -> None:
    _prune_observations(ids)
    documents = dict(_documents(ids))
    with connection.cursor() as cursor:
        cursor.execute(
            "CREATE TEMPORARY TABLE node_document (patient_id bigint, lines text[], fact_lines smallint, "
            "codes text[], facts text, notes text) ON COMMIT DROP"
        )
    copy_rows("node_document", _COLUMNS, (_row(patient, document) for patient, document in documents.items()))
    with connection.cursor() as cursor:
        # Facts weigh more than notes; both vectors come from this patient's text alone.
        cursor.execute(
            "UPDATE node_patient p SET lines = d.lines, fact_lines = d.fact_lines, codes = d.codes, stale = false, "
            "vector = setweight(to_tsvector('english', d.facts), 'A') "
            "|| setweight(to_tsvector('english', d.notes), 'B') "
            "FROM node_document d WHERE d.patient_id = p.id"
        )
        cursor.execute("DROP TABLE node_document")
    CareAssignment.objects.filter(patient_id__in=ids).delete()
    CareAssignment.objects.bulk_create(
        CareAssignment(patient_id=patient, department=department, since=since)
        for patient, document in documents.items()
        for department, since in document.care.items()
    )


def _row(patient: int, document: Document) -> tuple[Any, ...]:
    facts, notes = document.lines[: document.facts], document.lines[document.facts :]
    return (patient, document.lines, document.facts, document.codes, "\n".join(facts), "\n".join(notes))


def _prune_observations(ids: Sequence[int]) -> None:
    """Keeps the newest observation of each code, and of those at most ``MAX_OBSERVATIONS``, laboratory first."""
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH ranked AS (SELECT id, patient_id, code, date, source_id, body ? 'lab' AS lab, row_number() OVER "
            "(PARTITION BY patient_id, code ORDER BY date DESC NULLS LAST, source_id DESC) AS age "
            "FROM node_resource WHERE resource_type = 'Observation' AND patient_id = ANY(%s)), "
            "kept AS (SELECT id, row_number() OVER (PARTITION BY patient_id "
            "ORDER BY lab DESC, date DESC NULLS LAST, source_id) AS place FROM ranked WHERE age = 1) "
            "DELETE FROM node_resource WHERE id IN (SELECT id FROM ranked WHERE age > 1 "
            "UNION ALL SELECT id FROM kept WHERE place > %s)",
            [list(ids), MAX_OBSERVATIONS],
        )


def _documents(ids: Sequence[int]) -> Iterator[tuple[int, Document]]:
    facts: dict[int, list[Fact]] = defaultdict(list)
    columns = ("patient_id", "resource_type", "source_id", "code", "text", "date", "body")
    for patient, *row in Resource.objects.filter(patient_id__in=ids).values_list(*columns):
        facts[patient].append(Fact(*row))
    notes: dict[int, list[NoteText]] = defaultdict(list)
    rows = Note.objects.filter(patient_id__in=ids).values_list("patient_id", "resource__source_id", "date", "text")
    for patient, source_id, day, text in rows:
        notes[patient].append(NoteText(source_id, day, text))
    for patient, birth_year, sex in Patient.objects.filter(id__in=ids).values_list("id", "birth_year", "sex"):
        yield patient, build(birth_year=birth_year, sex=sex, facts=facts[patient], notes=notes[patient])
