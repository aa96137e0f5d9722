"""FHIR lines for the tests, and the folder they stand in."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def patient(source_id: str, born: str = "1960-02-03", **more: Any) -> Json:
    return {"resourceType": "Patient", "id": source_id, "birthDate": born, "gender": "female"} | more


def condition(number: str, patient_id: str, text: str = "Gout", **more: Any) -> Json:
    return {
        "resourceType": "Condition",
        "id": number,
        "subject": {"reference": f"Patient/{patient_id}"},
        "code": {"text": text, "coding": [{"code": f"C-{text}"}]},
        "onsetDateTime": "2026-02-01",
    } | more


def note(number: str, patient_id: str, text: str, day: str = "2026-03-01", **attachment: Any) -> Json:
    data = base64.b64encode(text.encode()).decode()
    return {
        "resourceType": "DocumentReference",
        "id": number,
        "subject": {"reference": f"Patient/{patient_id}"},
        "type": {"text": "Progress note"},
        "date": day,
        "content": [{"attachment": {"contentType": "text/plain", "data": data} | attachment}],
    }


def lab(number: str, patient_id: str, value: float, day: str, code: str = "4548-4", **more: Any) -> Json:
    return {
        "resourceType": "Observation",
        "id": number,
        "subject": {"reference": f"Patient/{patient_id}"},
        "category": [{"coding": [{"code": "laboratory"}]}],
        "code": {"text": "Hemoglobin A1c", "coding": [{"code": code}]},
        "effectiveDateTime": day,
        "valueQuantity": {"value": value, "unit": "%"},
    } | more


def encounter(number: str, patient_id: str, service: str, day: str = "2026-01-05", klass: str = "AMB") -> Json:
    return {
        "resourceType": "Encounter",
        "id": number,
        "subject": {"reference": f"Patient/{patient_id}"},
        "class": {"code": klass},
        "serviceType": {"text": service},
        "period": {"start": day},
    }


def dump(resource: Json) -> bytes:
    return json.dumps(resource).encode()


def write(path: Path, resources: Iterable[Json | bytes]) -> Path:
    lines = [item if isinstance(item, bytes) else dump(item) for item in resources]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path
