"""Writing a batch of parsed records: decide row by row, then a few set-based statements with COPY.

One ingest runs at a time (``ingest.exclusive``), so what a batch reads still holds when it writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from django.db import connection

from federation.node import blocks
from federation.node.fhir import Record
from federation.node.models import Patient, Resource
from federation.node.pseudonyms import reference_of

#: What can become of a record. The first six are reported as taken, the last two as skipped.
NEW, CHANGED, UNCHANGED, OLDER, SUPERSEDED, REMOVED = "new", "changed", "unchanged", "older", "superseded", "removed"
UNKNOWN_PATIENT = "unknown_patient"
UNKNOWN_REMOVED = "removed_unknown"

_Key = tuple[str, str]


@dataclass(slots=True)
class _Known:
    """The stored state of one resource, kept up to date while a batch is decided."""

    digest: bytes
    last_updated: datetime | None
    patient: int


@dataclass(slots=True)
class _Batch:
    """Rows to write and rows to drop, by key; the last decision about a key wins."""

    patients: dict[str, int] = field(default_factory=dict)
    known: dict[_Key, _Known] = field(default_factory=dict)
    latest: dict[tuple[int, str], tuple[date, str]] = field(default_factory=dict)
    write: dict[_Key, tuple[int, Record]] = field(default_factory=dict)
    drop: set[_Key] = field(default_factory=set)
    touched: set[int] = field(default_factory=set)


def copy_rows(table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Fills ``table`` over the COPY protocol. Names come from this package's own constants only."""
    with connection.cursor() as cursor:
        statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
        with cursor.copy(statement) as copy:
            for row in rows:
                copy.write_row(row)


def store(records: Sequence[Record]) -> list[str]:
    """Writes the records in the current transaction and says what became of each, in order.

    A resource is replaced only by one that is not older (``meta.lastUpdated``); of two without a time the later line
    wins. Of a patient's observations with one code the newest stays. Every patient whose record changes is marked
    stale in the same transaction, so a killed run leaves nothing that the next one does not finish.
    """
    people = [record for record in records if record.resource_type == "Patient"]
    decided = dict(zip(map(id, people), _store_patients(people), strict=True))
    others = [record for record in records if record.resource_type != "Patient"]
    batch = _load(others)
    for record in others:
        decided[id(record)] = _decide(batch, record)
    _write(batch)
    return [decided[id(record)] for record in records]


def _store_patients(records: Sequence[Record]) -> list[str]:
    known = {
        source_id: _Known(bytes(digest), updated, 0)
        for source_id, digest, updated in Patient.objects.filter(
            source_id__in=[record.source_id for record in records]
        ).values_list("source_id", "digest", "last_updated")
    }
    outcomes, write = [], {}
    for record in records:
        outcome = _compare(known.get(record.source_id), record)
        if outcome in (NEW, CHANGED):
            known[record.source_id] = _Known(record.digest, record.last_updated, 0)
            write[record.source_id] = record
        outcomes.append(outcome)
    block = blocks.intake()  # kept for good: a patient who is known stays in their block
    Patient.objects.bulk_create(
        [
            Patient(
                source_id=record.source_id,
                reference=reference_of(record.source_id),
                birth_year=record.body.get("birth_year"),
                sex=record.body.get("sex", "unknown"),
                digest=record.digest,
                last_updated=record.last_updated,
                block=block,
            )
            for record in write.values()
        ],
        update_conflicts=True,
        unique_fields=["source_id"],
        update_fields=["birth_year", "sex", "digest", "last_updated", "stale"],
        batch_size=1000,
    )
    return outcomes


def _compare(known: _Known | None, record: Record) -> str:
    if known is None:
        return NEW
    if known.digest == record.digest:
        return UNCHANGED
    if known.last_updated and (record.last_updated is None or record.last_updated < known.last_updated):
        return OLDER
    return CHANGED


def _load(records: Sequence[Record]) -> _Batch:
    """What the database knows about the batch's patients, resources and newest observations."""
    batch = _Batch()
    sources = {record.patient for record in records}
    batch.patients = dict(Patient.objects.filter(source_id__in=sources).values_list("source_id", "id"))
    for kind in {record.resource_type for record in records}:
        ids = [record.source_id for record in records if record.resource_type == kind]
        rows = Resource.objects.filter(resource_type=kind, source_id__in=ids)
        columns = ("source_id", "digest", "last_updated", "patient_id")
        for source_id, digest, updated, patient in rows.values_list(*columns):
            batch.known[kind, source_id] = _Known(bytes(digest), updated, patient)
    observed = {
        (patient, record.code)
        for record in records
        if record.resource_type == "Observation" and (patient := batch.patients.get(record.patient))
    }
    for patient, code, day, source_id in _stored_observations(observed):
        _keep_newest(batch, patient, code, day, source_id)
    return batch


def _stored_observations(wanted: set[tuple[int, str]]) -> list[tuple[int, str, date | None, str]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT patient_id, code, date, source_id FROM node_resource "
            "JOIN unnest(%s::bigint[], %s::text[]) AS wanted (patient_id, code) USING (patient_id, code) "
            "WHERE resource_type = 'Observation'",
            [[patient for patient, _ in wanted], [code for _, code in wanted]],
        )
        rows: list[tuple[int, str, date | None, str]] = cursor.fetchall()
        return rows


def _keep_newest(batch: _Batch, patient: int, code: str, day: date | None, source_id: str) -> bool:
    """Whether this is the newest observation of its code, or the one already kept."""
    place, kept = (day or date.min, source_id), batch.latest.get((patient, code))
    if kept is not None and place < kept:
        return False
    batch.latest[patient, code] = place
    return True


def _decide(batch: _Batch, record: Record) -> str:
    key = (record.resource_type, record.source_id)
    known = batch.known.get(key)
    if record.removed:
        return _remove(batch, key, known)
    patient = batch.patients.get(record.patient)
    if patient is None:
        return UNKNOWN_PATIENT
    outcome = _compare(known, record)
    if outcome not in (NEW, CHANGED):
        return outcome
    if record.resource_type == "Observation" and not _keep_newest(
        batch, patient, record.code, record.date, record.source_id
    ):
        # A changed observation that is no longer the newest still replaces itself; pruning takes it out later.
        if known is None:
            return SUPERSEDED
    if known is not None:
        batch.touched.add(known.patient)  # A corrected subject changes two patients' records.
    batch.touched.add(patient)
    batch.known[key] = _Known(record.digest, record.last_updated, patient)
    batch.write[key] = (patient, record)
    batch.drop.discard(key)
    return outcome


def _remove(batch: _Batch, key: _Key, known: _Known | None) -> str:
    if known is None:
        return UNKNOWN_REMOVED
    batch.touched.add(known.patient)
    batch.write.pop(key, None)
    batch.known.pop(key)
    batch.drop.add(key)
    return REMOVED


_STAGE = ("resource_type", "source_id", "patient_id", "code", "text", "date", "body", "digest", "last_updated")


def _write(batch: _Batch) -> None:
    for kind in {kind for kind, _ in batch.drop}:
        ids = [source_id for dropped, source_id in batch.drop if dropped == kind]
        Resource.objects.filter(resource_type=kind, source_id__in=ids).delete()
    if batch.write:
        _upsert(batch.write.values())
    Patient.objects.filter(id__in=batch.touched).update(stale=True)


def _upsert(rows: Iterable[tuple[int, Record]]) -> None:
    columns = ", ".join(_STAGE)
    with connection.cursor() as cursor:
        cursor.execute(
            f"CREATE TEMPORARY TABLE node_stage ON COMMIT DROP AS SELECT {columns}, ''::text AS note "  # noqa: S608
            "FROM node_resource WITH NO DATA"
        )
    copy_rows("node_stage", (*_STAGE, "note"), (_row(patient, record) for patient, record in rows))
    updates = ", ".join(f"{name} = excluded.{name}" for name in _STAGE[2:])
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO node_resource ({columns}) SELECT {columns} FROM node_stage "  # noqa: S608
            f"ON CONFLICT (resource_type, source_id) DO UPDATE SET {updates}"
        )
        cursor.execute(
            "INSERT INTO node_note (resource_id, patient_id, date, text) "
            "SELECT r.id, s.patient_id, s.date, s.note FROM node_stage s "
            "JOIN node_resource r USING (resource_type, source_id) WHERE s.note IS NOT NULL "
            "ON CONFLICT (resource_id) DO UPDATE "
            "SET patient_id = excluded.patient_id, date = excluded.date, text = excluded.text"
        )
        cursor.execute("DROP TABLE node_stage")


def _row(patient: int, record: Record) -> tuple[Any, ...]:
    return (
        record.resource_type,
        record.source_id,
        patient,
        record.code,
        record.text,
        record.date,
        json.dumps(record.body),
        record.digest,
        record.last_updated,
        record.note,
    )
