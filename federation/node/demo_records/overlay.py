"""Plants facts and odd records into synthetic patients as ordinary FHIR resources, and writes down what was planted.

The cohort of a fact, who of it has the effect, and who lost it, are exact counts in a fixed order: the manifest is
the truth that answers are measured against.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

from federation.node.demo_records.facts import Canary, Hospital, PlantedFact, draw, ordered

Json = dict[str, Any]

_DRUGS = "https://fdrouter.example/demo/treatments"
_SERVICES = {
    "emergency": ("EMER", "Emergency Medicine"),
    "radiology": ("AMB", "Radiology"),
    "general": ("AMB", "Internal Medicine"),
    "research": ("AMB", "Clinical Research"),
    "cardiology": ("AMB", "Cardiology"),
    "oncology": ("AMB", "Oncology"),
}
_DELAYS = ("one week", "ten days", "two weeks", "three weeks")
_FIRST_DAY, _DAYS = date(2026, 1, 5), 160


@dataclass(frozen=True, slots=True)
class Planted:
    """One patient's part in one fact."""

    fact: PlantedFact
    patient: str
    effect: bool
    resolved: bool
    extra: str = ""


def plant(
    hospital: Hospital, facts: Sequence[PlantedFact], canaries: Sequence[Canary], patients: Sequence[str]
) -> tuple[list[Json], Json]:
    """Returns the overlay's resources (ordered by fact and place in the cohort) and the manifest.

    Raises:
        ValueError: there are fewer patients than a cohort needs.
    """
    cohorts = {fact.id: _cohort(hospital, fact, patients) for fact in facts}
    manifest: Json = {"hospital": hospital.id, "name": hospital.name, "patients": len(patients)}
    manifest["facts"] = {fact.id: _truth(fact, cohorts[fact.id]) for fact in facts}
    manifest["canaries"] = []
    for canary in canaries:
        place = _carrier(cohorts, canary.fact)
        planted = cohorts[canary.fact][place]
        cohorts[canary.fact][place] = replace(planted, extra=canary.sentence)
        told = {"id": canary.id, "fact": canary.fact, "patient": planted.patient}
        manifest["canaries"].append(told | {"words": list(canary.words), "sentence": canary.sentence})
    planted_all = (planted for cohort in cohorts.values() for planted in cohort)
    return [resource for planted in planted_all for resource in _resources(hospital, planted)], manifest


def _cohort(hospital: Hospital, fact: PlantedFact, patients: Sequence[str]) -> list[Planted]:
    """Those with the effect first, and of these the resolved first, in a fixed order."""
    if len(patients) < fact.patients:
        raise ValueError(f"{fact.id} needs {fact.patients} patients, there are {len(patients)}")
    chosen = ordered(hospital.seed, fact.id, patients)[: fact.patients]
    effects = round(fact.patients * (fact.effect_rate + hospital.shift))
    resolved = effects if fact.kind == "outcome" else round(effects * fact.remedy_rate)
    return [Planted(fact, patient, place < effects, place < resolved) for place, patient in enumerate(chosen)]


def _carrier(cohorts: dict[str, list[Planted]], fact: str) -> int:
    """The place in a fact's cohort of the patient with most side effects, whom its question retrieves for sure."""
    counts = Counter(p.patient for cohort in cohorts.values() for p in cohort if p.effect and p.fact.kind != "outcome")
    resolved = [place for place, planted in enumerate(cohorts[fact]) if planted.resolved and not planted.extra]
    return max(resolved, key=lambda place: (counts[cohorts[fact][place].patient], -place))


def _truth(fact: PlantedFact, cohort: Sequence[Planted]) -> Json:
    return {
        "kind": fact.kind,
        "department": fact.department,
        "treatment": fact.treatment,
        "effect": fact.effect,
        "remedy": fact.remedy,
        "patients": len(cohort),
        "with_effect": sum(planted.effect for planted in cohort),
        "resolved": sum(planted.resolved for planted in cohort),
        "members": [planted.patient for planted in cohort],
    }


def _note(planted: Planted, delay: str) -> str:
    fact = planted.fact
    name = fact.treatment.capitalize()
    start = f"{name} {fact.verb} {fact.indication}."
    if fact.kind == "outcome":
        told = (
            f"The outcome of {fact.treatment} was {fact.effect} {fact.remedy}."
            if planted.effect
            else f"The outcome of {fact.treatment} was no change."
        )
    elif not planted.effect:
        told = f"The patient developed no side effect of {fact.treatment}."
    else:
        when = fact.when or f"After {delay}"
        told = f"{when} the patient developed {_article(fact.effect)}, a side effect of {fact.treatment}. " + (
            f"The {fact.effect} resolved after {fact.remedy}."
            if planted.resolved
            else f"The {fact.effect} stayed and {fact.treatment} was stopped."
        )
    return " ".join(part for part in (start, told, planted.extra) if part)


def _article(effect: str) -> str:
    if effect in ("nausea", "vivid dreams", "ankle swelling"):
        return effect
    return f"{'an' if effect[0] in 'aeiou' else 'a'} {effect}"


def _resources(hospital: Hospital, planted: Planted) -> Iterator[Json]:
    """An encounter, the order, the side effect as a condition, and the note."""
    fact, subject = planted.fact, {"reference": f"Patient/{planted.patient}"}
    first = _FIRST_DAY + timedelta(days=draw(hospital.seed, "day", fact.id, planted.patient) % _DAYS)
    later = first + timedelta(days=21)
    delay = _DELAYS[draw(hospital.seed, "delay", fact.id, planted.patient) % len(_DELAYS)]
    klass, service = _SERVICES[fact.department]

    def head(kind: str, moment: date) -> Json:
        told = hashlib.sha256(f"{fact.id}|{planted.patient}|{kind}".encode()).hexdigest()[:16]
        stamp = f"{moment.isoformat()}T09:00:00Z"
        return {"resourceType": kind, "id": f"{hospital.prefix}-ov-{told}", "meta": {"lastUpdated": stamp}}

    yield head("Encounter", first) | {
        "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": klass},
        "serviceType": {"text": service},
        "subject": subject,
        "period": {"start": f"{first.isoformat()}T09:00:00Z", "end": f"{first.isoformat()}T10:00:00Z"},
        "reasonCode": [{"text": fact.indication.removeprefix("a ").capitalize()}],
    }
    yield head("MedicationRequest", first) | {
        "status": "active",
        "intent": "order",
        "medicationCodeableConcept": {
            "text": fact.treatment.capitalize(),
            "coding": [{"system": _DRUGS, "code": fact.id, "display": fact.treatment}],
        },
        "subject": subject,
        "authoredOn": f"{first.isoformat()}T09:30:00Z",
        "dosageInstruction": [{"text": fact.dose}],
    }
    if fact.kind == "side_effect" and planted.effect:
        yield _condition(head("Condition", later), planted, subject, later)
    text = base64.b64encode(_note(planted, delay).encode()).decode()
    yield head("DocumentReference", later) | {
        "status": "current",
        "type": {"coding": [{"system": "http://loinc.org", "code": "11506-3"}], "text": "Progress note"},
        "subject": subject,
        "date": f"{later.isoformat()}T09:00:00Z",
        "content": [{"attachment": {"contentType": "text/plain", "language": "en", "data": text}}],
    }


def _condition(start: Json, planted: Planted, subject: Json, onset: date) -> Json:
    status = "resolved" if planted.resolved else "active"
    ended = {"abatementDateTime": f"{(onset + timedelta(days=14)).isoformat()}T09:00:00Z"} if planted.resolved else {}
    return (
        start
        | ended
        | {
            "clinicalStatus": {"coding": [{"code": status}]},
            "verificationStatus": {"coding": [{"code": "confirmed"}]},
            "code": {
                "text": planted.fact.effect.capitalize(),
                "coding": [{"system": _DRUGS, "code": f"{planted.fact.id}-effect"}],
            },
            "subject": subject,
            "onsetDateTime": f"{onset.isoformat()}T09:00:00Z",
        }
    )
