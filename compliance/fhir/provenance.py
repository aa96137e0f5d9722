"""Where an answer comes from, as FHIR R4 Provenance after HL7's AI Transparency guide (1.0.0-ballot), for its asker.

What a model wrote is labelled ``AIAST`` (artificial intelligence asserted). Counts and choices are computed from
records and noise, by no model: they have a Provenance without that label.
"""

from __future__ import annotations

import uuid
from typing import Any
from uuid import UUID

from django.utils import timezone

from accounts.principals import Principal
from compliance.fhir import mapping
from compliance.fhir.codes import Code
from compliance.fhir.mapping import Resource, coding, concept
from compliance.fhir.resources import absolute
from fdrouter.errors import InvalidParameter, NotFound
from federation import inference, outcome, oversight
from federation.models import Inference, Kind, Verdict
from federation.states import InferenceState

OBSERVATION_VALUE = "http://terminology.hl7.org/CodeSystem/v3-ObservationValue"
AI_KINDS = "http://hl7.org/fhir/uv/aitransparency/CodeSystem/AIdeviceTypeCS"
PARTICIPANT = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
PROFILE = "http://hl7.org/fhir/uv/aitransparency/StructureDefinition/AI-Provenance"
PRIVACY_LOSS = "urn:fdrouter:privacy-loss"
RECEIPT_SYSTEM = "urn:fdrouter:receipt-sha256"
MODEL_DIGEST_SYSTEM = "urn:fdrouter:model-sha256"

AIAST: Code = (OBSERVATION_VALUE, "AIAST", "Artificial Intelligence asserted")
IS_AI: Code = (AI_KINDS, "Artificial-Intelligence", "All kinds of Artificial Intelligence")
CREATE: Code = ("http://terminology.hl7.org/CodeSystem/v3-DataOperation", "CREATE", "create")
AUTHOR: Code = (PARTICIPANT, "author", "Author")
ASSEMBLER: Code = (PARTICIPANT, "assembler", "Assembler")
ENTERER: Code = (PARTICIPANT, "enterer", "Enterer")
VERIFIER: Code = (PARTICIPANT, "verifier", "Verifier")
CUSTODIAN: Code = (PARTICIPANT, "custodian", "Custodian")

WITHOUT_MODEL = frozenset({Kind.COHORT_COUNT.value, Kind.COHORT_CHOICE.value})
"""Kinds whose answers no model writes."""


def get(principal: Principal, request_id: UUID) -> Resource:
    """The Provenance of an answer.

    Raises:
        NotFound: there is no such question of this person, or it has no answer.
    """
    row = inference.get_own(principal.user_id, request_id)
    if row.state != InferenceState.DONE or row.finished_at is None:
        raise NotFound
    return _provenance(row)


def search(principal: Principal, target: str) -> Resource | None:
    """The same by a search's ``target``; ``None``: nothing of this person's.

    Raises:
        InvalidParameter: the target is no UUID.
    """
    try:
        key = UUID(target.removeprefix("urn:uuid:"))
    except ValueError:
        raise InvalidParameter("Name the question by its UUID.", field="target") from None
    try:
        return get(principal, key)
    except NotFound:
        return None


def bundle(target: str, found: Resource | None) -> Resource:
    """A search's answer: one resource or none."""
    address = absolute("/fhir/Provenance")
    entries = [{"fullUrl": f"{address}/{found['id']}", "resource": found, "search": {"mode": "match"}}] if found else []
    return {
        "resourceType": "Bundle",
        "id": str(uuid.uuid4()),
        "type": "searchset",
        "timestamp": mapping.instant(timezone.now()),
        "total": len(entries),
        "link": [{"relation": "self", "url": f"{address}?target={found['id'] if found else UUID(_bare(target))}"}],
        **({"entry": entries} if entries else {}),
    }


def _bare(target: str) -> str:
    return target.removeprefix("urn:uuid:")


def _provenance(row: Inference) -> Resource:
    body: dict[str, Any] = (row.receipt or {}).get("body") or {}
    written = row.kind not in WITHOUT_MODEL
    at = mapping.instant(row.finished_at or row.created_at)
    found: Resource = {
        "resourceType": "Provenance",
        "id": str(row.pk),
        "meta": {"versionId": "1", "lastUpdated": at},
        "contained": [_model(row, body) if written else _mechanism(body)],
        "extension": [_privacy_loss(row, body)],
        "target": [mapping.urn(row.pk) | {"display": "the answer to this question"}],
        "occurredDateTime": at,
        "recorded": at,
        "activity": concept(CREATE),
        "agent": _agents(row, body, written=written),
    }
    if written:
        found["meta"] |= {"profile": [PROFILE], "security": [coding(AIAST)]}
        found["reason"] = [concept(AIAST)]
    if digest := (row.receipt or {}).get("digest"):
        what = {"identifier": {"system": RECEIPT_SYSTEM, "value": digest}, "display": "the node's signed receipt"}
        found["entity"] = [{"role": "source", "what": what}]
    return found


def _model(row: Inference, body: dict[str, Any]) -> Resource:
    device: Resource = {
        "resourceType": "Device",
        "id": "maker",
        "type": concept(IS_AI),
        "deviceName": [{"name": row.model, "type": "model-name"}],
    }
    if digest := body.get("model_digest"):
        device["identifier"] = [{"system": MODEL_DIGEST_SYSTEM, "value": digest}]
        device["version"] = [{"value": digest}]
    return device


def _mechanism(body: dict[str, Any]) -> Resource:
    name = (body.get("mechanism") or {}).get("name") or "unknown"
    kind = {"text": "differentially private computation; no model"}
    return {"resourceType": "Device", "id": "maker", "type": kind, "deviceName": [{"name": name, "type": "other"}]}


def _privacy_loss(row: Inference, body: dict[str, Any]) -> Resource:
    """What the answer cost the patients on record, by the receipt's own figures; no figures where none was claimed."""
    told = outcome.claim(row.kind, row.receipt, row.epsilon_micro, row.delta)
    parts: list[Resource] = [{"url": "kind", "valueCode": row.kind}]
    if told["mechanism"]:
        parts += [
            {"url": "mechanism", "valueString": told["mechanism"]},
            {"url": "epsilon", "valueDecimal": told["epsilon"]},
            {"url": "delta", "valueDecimal": told["delta"]},
            {"url": "unit", "valueString": told["unit"]},
        ]
        if told["adjacency"]:
            parts.append({"url": "adjacency", "valueString": told["adjacency"]})
        if told["repeat_of"]:
            parts.append({"url": "repeatOf", "valueString": str(told["repeat_of"])})
    sheet = (body.get("mechanism") or {}).get("claim") or {}
    if sheet.get("sha256"):
        parts.append({"url": "claimSheet", "valueString": f"{sheet['sheet']} {sheet['version']} {sheet['sha256']}"})
    return {"url": PRIVACY_LOSS, "extension": parts}


def _agents(row: Inference, body: dict[str, Any], *, written: bool) -> list[Resource]:
    maker: Resource = {"type": concept(AUTHOR if written else ASSEMBLER), "who": {"reference": "#maker"}}
    if written:
        maker["role"] = [concept(IS_AI)]
    who = {"identifier": {"system": mapping.USER_SYSTEM, "value": str(row.user_id)}}
    found = [maker, {"type": concept(ENTERER), "who": who}]
    review = oversight.latest(row)
    if review is not None and review.verdict in (Verdict.ACCEPTED, Verdict.EDITED):
        found.append({"type": concept(VERIFIER), "who": who})
    hospitals = body.get("hospitals") or [place for place in [row.node.hospital_id if row.node else None] if place]
    custodians = [{"identifier": {"system": mapping.HOSPITAL_SYSTEM, "value": str(code)}} for code in hospitals]
    return [*found, *({"type": concept(CUSTODIAN), "who": place} for place in custodians)]
