"""A small hospital of the same shape without the simulator, for tests: made in well under a second."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from typing import Any

from federation.node.demo_records.facts import Hospital, draw

Json = dict[str, Any]

PATIENTS = 90
_CONDITIONS = (
    ("I10", "Hypertension (HTN)"),
    ("E11", "Type 2 diabetes (DM)"),
    ("J45", "Asthma"),
    ("E78.5", "Dyslipidemia"),
    ("N18", "CKD"),
    ("K21", "GERD"),
)
_DRUGS = (("17767", "Amlodipine", "5mg"), ("6809", "Metformin", "500mg"), ("83367", "Atorvastatin", "10mg"))
_LABS = (("4548-4", "Hemoglobin A1c/Hemoglobin.total in Blood", "%"), ("2160-0", "Creatinine", "mg/dL"))
_SERVICES = ("Internal Medicine", "Primary Care", "Cardiology", "Oncology")
_LABORATORY = [{"coding": [{"code": "laboratory"}]}]


def resources(hospital: Hospital, patients: int = PATIENTS) -> Iterator[Json]:
    """Every resource of the small hospital, patients first."""
    ids = patient_ids(hospital, patients)
    for place, patient in enumerate(ids):
        yield {
            "resourceType": "Patient",
            "id": patient,
            "gender": ("female", "male")[place % 2],
            "birthDate": f"{1940 + draw(hospital.seed, 'born', patient) % 60}-05-17",
            "meta": {"lastUpdated": "2026-01-01T00:00:00Z"},
        }
    for patient in ids:
        yield from _record(hospital, patient)


def patient_ids(hospital: Hospital, patients: int = PATIENTS) -> Sequence[str]:
    """The source ids of the small hospital's patients."""
    return [f"{hospital.prefix}-s{number:04d}" for number in range(patients)]


def _record(hospital: Hospital, patient: str) -> Iterator[Json]:
    seed = draw(hospital.seed, "record", patient)
    month, subject = 1 + seed % 6, {"reference": f"Patient/{patient}"}
    day = f"2026-{month:02d}-{1 + seed % 28:02d}"

    def head(kind: str, number: int = 0) -> Json:
        stamp = {"lastUpdated": f"{day}T10:00:00Z"}
        return {"resourceType": kind, "id": f"{patient}-{kind[:4].lower()}{number}", "meta": stamp, "subject": subject}

    code, condition = _CONDITIONS[seed % len(_CONDITIONS)]
    drug_code, drug, dose = _DRUGS[seed % len(_DRUGS)]
    yield head("Encounter") | {
        "class": {"code": "EMER" if seed % 5 == 0 else "AMB"},
        "serviceType": {"text": _SERVICES[seed // 7 % len(_SERVICES)]},
        "period": {"start": f"{day}T10:00:00Z"},
        "reasonCode": [{"text": condition}],
    }
    yield head("Condition") | {
        "code": {"text": condition, "coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": code}]},
        "clinicalStatus": {"coding": [{"code": "active"}]},
        "onsetDateTime": f"{2010 + seed % 15}-03-01",
    }
    yield head("MedicationRequest") | {
        "medicationCodeableConcept": {"text": drug, "coding": [{"code": drug_code}]},
        "authoredOn": day,
        "dosageInstruction": [{"text": dose}],
    }
    for number, (loinc, label, unit) in enumerate(_LABS):
        for age in (0, 1):
            yield head("Observation", number * 2 + age) | {
                "category": _LABORATORY,
                "code": {"text": label, "coding": [{"code": loinc}]},
                "effectiveDateTime": f"{2025 + age}-{month:02d}-02T08:00:00Z",
                "valueQuantity": {"value": 5 + seed % 40 / 10 + age, "unit": unit},
            }
    allergy = head("AllergyIntolerance")
    yield {**allergy, "patient": allergy.pop("subject"), "code": {"text": "No known allergies"}}
    if seed % 3 == 0:
        yield head("Procedure") | {"code": {"text": "Colonoscopy"}, "performedDateTime": day}
    text = f"Routine follow-up of {condition}. Continues {drug} {dose}. Feels well and walks daily."
    data = base64.b64encode(text.encode()).decode()
    yield head("DocumentReference") | {
        "type": {"text": "Progress note"},
        "date": f"{day}T10:00:00Z",
        "content": [{"attachment": {"contentType": "text/plain", "data": data}}],
    }


def broken_lines(hospital: Hospital) -> list[bytes]:
    """Lines that a node must skip, each for another reason."""
    known = patient_ids(hospital)[0].encode()
    return [
        b'{"resourceType": "Condition", "id": "broken-1", ',
        b"\xff\xfe\x00binary\x00",
        b'{"resourceType": "Condition", "id": "broken-2", "code": {"text": "Gout"}}',
        b'{"resourceType": "Condition", "id": "broken-3", "code": {"text": "Gout"}, '
        b'"subject": {"reference": "Patient/nobody"}}',
        b'{"resourceType": "Starship", "id": "broken-4"}',
        b'{"resourceType": "DocumentReference", "id": "broken-5", "subject": {"reference": "Patient/' + known + b'"}, '
        b'"content": [{"attachment": {"contentType": "text/plain", "data": "%%%"}}]}',
        b'["not", "a", "resource"]',
        b'{"resourceType": "Condition", "id": "no spaces allowed", "subject": {"reference": "Patient/' + known + b'"}}',
    ]
