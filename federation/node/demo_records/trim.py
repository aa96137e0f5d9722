"""Cuts a simulator's export down to what a node takes in: needed types, needed fields, nobody's names."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from federation.node.fhir import OBSERVATION_CATEGORIES, TAKEN_TYPES

Json = dict[str, Any]

_COMMON = ("resourceType", "id", "meta", "status", "subject", "patient", "encounter", "code", "category")
_FIELDS = {
    "Patient": ("identifier", "active", "gender", "birthDate", "deceasedBoolean"),
    "Encounter": ("class", "type", "serviceType", "period", "reasonCode"),
    "Condition": (
        "clinicalStatus", "verificationStatus", "severity", "onsetDateTime", "recordedDate", "abatementDateTime",
    ),
    "MedicationRequest": ("intent", "medicationCodeableConcept", "authoredOn", "dosageInstruction"),
    "Observation": (
        "effectiveDateTime", "valueQuantity", "valueInteger", "valueCodeableConcept", "valueString", "component",
        "interpretation",
    ),
    "AllergyIntolerance": ("clinicalStatus", "verificationStatus", "criticality", "reaction", "recordedDate"),
    "Procedure": ("performedPeriod", "performedDateTime", "reasonCode", "outcome"),
    "DocumentReference": ("type", "date", "content"),
}  # fmt: skip
_OBSERVATIONS_A_CODE = 3
_NURSE_NOTES = 2


def trim(source: Path, target: Path, prefix: str) -> int:
    """Writes the trimmed ``<Type>.ndjson`` files to ``target`` and returns the number of patients.

    Raises:
        OSError: the export is incomplete.
    """
    patients = 0
    for kind in TAKEN_TYPES:
        rows = _read(source / f"{kind}.ndjson")
        if kind == "Observation":
            rows = _latest(rows, lambda row: row["code"]["coding"][0]["code"], _OBSERVATIONS_A_CODE)
        if kind == "DocumentReference":
            rows = _few_nurse_notes(rows)
        count = 0
        with (target / f"{kind}.ndjson").open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(_cut(row, prefix), ensure_ascii=False, separators=(",", ":")) + "\n")
                count += 1
        patients = count if kind == "Patient" else patients
    return patients


def _read(path: Path) -> Iterator[Json]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _cut(row: Json, prefix: str) -> Json:
    kept = {name: row[name] for name in (*_COMMON, *_FIELDS[row["resourceType"]]) if name in row}
    kept["id"] = f"{prefix}-{row['id']}"
    for name in ("subject", "patient", "encounter"):
        if name in kept:
            kind, _, target = kept[name]["reference"].partition("/")
            kept[name] = {"reference": f"{kind}/{prefix}-{target}"}
    if "component" in kept:
        kept["component"] = [
            {k: v for k, v in part.items() if k in ("code", "valueQuantity")} for part in kept["component"]
        ]
    if row["resourceType"] == "DocumentReference":
        kept["content"] = [{"attachment": _without_names(content["attachment"])} for content in row["content"]]
    return kept


def _without_names(attachment: Json) -> Json:
    lines = base64.b64decode(attachment["data"]).decode().split("\n")
    text = "\n".join(line for line in lines if not line.startswith("Nurse: "))
    return {"contentType": "text/plain", "language": "en", "data": base64.b64encode(text.encode()).decode()}


def _latest(rows: Iterator[Json], group: Any, keep: int) -> Iterator[Json]:
    """The newest ``keep`` rows of each patient and group, of the categories that a node takes in."""
    groups: dict[tuple[str, str], list[Json]] = {}
    for row in rows:
        categories = {coding["code"].lower() for category in row.get("category", []) for coding in category["coding"]}
        if categories & OBSERVATION_CATEGORIES:
            groups.setdefault((row["subject"]["reference"], group(row)), []).append(row)
    for members in groups.values():
        yield from sorted(members, key=lambda row: (row.get("effectiveDateTime", ""), row["id"]))[-keep:]


def _few_nurse_notes(rows: Iterator[Json]) -> Iterator[Json]:
    """Shift notes repeat each other: the last two of a patient stay, and every other note."""
    notes: dict[str, list[Json]] = {}
    for row in rows:
        if row["type"]["text"] == "Nurse Note":
            notes.setdefault(row["subject"]["reference"], []).append(row)
        else:
            yield row
    for members in notes.values():
        yield from sorted(members, key=lambda row: (row.get("date", ""), row["id"]))[-_NURSE_NOTES:]
