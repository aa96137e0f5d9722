"""An event of the log as a FHIR R4 AuditEvent, in the shapes of IHE BALP 1.1 where they fit.

Neither prompts nor answers are on an event, so none can appear here. A profile is claimed (``meta.profile``) only where
all that it requires is known; what the log does not know, such as a browser's address, says so instead of a guess.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

from compliance.fhir import codes
from compliance.fhir.codes import Code
from compliance.models import Event

Resource = dict[str, Any]

PROFILE = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit."
PARTICIPATION = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
ROLE_CLASS = "http://terminology.hl7.org/CodeSystem/v3-RoleClass"
SECURITY_ROLE = "http://terminology.hl7.org/CodeSystem/extra-security-role-type"
SOURCE_TYPE = "http://terminology.hl7.org/CodeSystem/security-source-type"
OUTCOME = "http://terminology.hl7.org/CodeSystem/audit-event-outcome"
ENTITY_TYPE = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
OBJECT_ROLE = "http://terminology.hl7.org/CodeSystem/object-role"
ABSENT = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"
URI = "urn:ietf:rfc:3986"
USER_SYSTEM = "urn:fdrouter:user"
HOSPITAL_SYSTEM = "urn:fdrouter:hospital"
PATIENT_SYSTEM = "urn:fdrouter:patient"

USER: Code = (PARTICIPATION, "IRCP", "information recipient")
SOURCE_ROLE: Code = (codes.DCM, "110153", "Source Role ID")
DESTINATION_ROLE: Code = (codes.DCM, "110152", "Destination Role ID")
APPLICATION: Code = (codes.DCM, "110150", "Application")
PROVIDER: Code = (ROLE_CLASS, "PROV", "healthcare provider")
AUTHORIZER: Code = (SECURITY_ROLE, "authserver", "authorization server")

MAX_DETAIL = 1000
_URI_ADDRESS = "5"


def coding(coded: Code) -> Resource:
    system, code, display = coded
    return {"system": system, "code": code, "display": display}


def concept(coded: Code) -> Resource:
    return {"coding": [coding(coded)]}


def instant(at: datetime) -> str:
    """FHIR's instant, in UTC, to the microsecond."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def observer() -> Resource:
    """This coordinator as a reference: what recorded, decided and answered."""
    return {"identifier": {"system": URI, "value": settings.BASE_URL}, "display": "fdrouter coordinator"}


def urn(key: object) -> Resource:
    """A reference to what has no FHIR resource here, by its UUID."""
    return {"identifier": {"system": URI, "value": f"urn:uuid:{key}"}}


def audit_event(event: Event, *, username: str | None = None, patient: str = "") -> Resource:
    """The resource. ``patient`` is the reference of the one patient that a chart request was about."""
    shape = codes.shape_of(event.kind)
    kind: Code = (codes.EVENT_KIND, event.kind, event.kind)
    outcome = codes.outcome_code(event.outcome)
    found: Resource = {
        "resourceType": "AuditEvent",
        "id": str(event.seq),
        "meta": {"versionId": "1", "lastUpdated": instant(event.at)},
        "type": coding(shape.type),
        "subtype": [coding(coded) for coded in (shape.subtype, kind) if coded],
        "action": shape.action,
        "recorded": instant(event.at),
        "agent": _agents(event, username),
        "source": _source(event),
    }
    if outcome is not None:
        found["outcome"] = outcome
    if event.outcome != "ok":
        found["outcomeDesc"] = event.outcome
    if event.purpose in codes.PURPOSES:
        found["purposeOfEvent"] = [_purpose(event.purpose)]
    if entities := _entities(event, patient):
        found["entity"] = entities
    if outcome == "0" and (profile := _profile(event, patient)):
        found["meta"]["profile"] = [PROFILE + profile]
    return found


def _profile(event: Event, patient: str) -> str:
    if _query_of(event) is not None:
        return "Query" if not _about_a_patient(event) else "PatientQuery" if patient else ""
    return "Read" if _read_of(event) is not None else ""


def _about_a_patient(event: Event) -> bool:
    return bool(event.kind == "request.submit" and event.details.get("kind") == "chart")


def _purpose(purpose: str) -> Resource:
    return concept((codes.ACT_REASON, purpose, codes.PURPOSES[purpose]))


def _source(event: Event) -> Resource:
    decided = event.kind == "policy.decision"
    kind: Code = (SOURCE_TYPE, "6", "Security Server") if decided else (SOURCE_TYPE, "4", "Application Server")
    return {"site": event.hospital or _host(), "observer": observer(), "type": [coding(kind)]}


def _host() -> str:
    return urlsplit(settings.BASE_URL).hostname or settings.BASE_URL


# --- agents -------------------------------------------------------------------------------------------------------
def _agents(event: Event, username: str | None) -> list[Resource]:
    user = _user(event, username)
    if event.kind == "policy.decision":
        authorizer = {"type": concept(AUTHORIZER), "who": observer(), "requestor": False}
        return [_client(APPLICATION), *user, *_organisation(event), authorizer]
    shape = codes.shape_of(event.kind)
    if shape.type == codes.REST:
        # BALP follows DICOM: query parameters flow from the client, what is read flows to it.
        asks, answers = (DESTINATION_ROLE, SOURCE_ROLE) if shape.action == "R" else (SOURCE_ROLE, DESTINATION_ROLE)
        return [_client(asks), _server(answers), *user]
    return [*user, _server(APPLICATION)]


def _user(event: Event, username: str | None) -> list[Resource]:
    if event.actor_id is None:
        return []
    found: Resource = {
        "type": concept(USER),
        "who": {"identifier": {"system": USER_SYSTEM, "value": str(event.actor_id)}},
        "requestor": True,
    }
    if username:
        found["name"] = username
    if event.purpose in codes.PURPOSES:
        found["purposeOfUse"] = [_purpose(event.purpose)]
    return [found]


def _client(role: Code) -> Resource:
    """What a person used. Its address is not on record, and BALP asks for one: the reason stands in its place."""
    return {
        "type": concept(role),
        "who": {"display": "web page or API client"},
        "requestor": False,
        "network": {"extension": [{"url": ABSENT, "valueCode": "unknown"}]},
    }


def _server(role: Code) -> Resource:
    network = {"address": settings.BASE_URL, "type": _URI_ADDRESS}
    return {"type": concept(role), "who": observer(), "requestor": False, "network": network}


def _organisation(event: Event) -> list[Resource]:
    if not event.hospital:
        return []
    who = {"identifier": {"system": HOSPITAL_SYSTEM, "value": event.hospital}}
    return [{"type": concept(PROVIDER), "who": who, "requestor": False}]


# --- entities -----------------------------------------------------------------------------------------------------
def _entities(event: Event, patient: str) -> list[Resource]:
    found = []
    if patient and event.kind == "request.submit":
        found.append(_patient(patient))
    if (query := _query_of(event)) is not None:
        found.append(_query(query))
    if (read := _read_of(event)) is not None:
        data = coding((OBJECT_ROLE, "4", "Domain Resource"))
        found.append({"what": {"reference": read}, "type": coding((ENTITY_TYPE, "2", "System Object")), "role": data})
    if (rest := _rest(event)) is not None:
        found.append(rest)
    return found


def _patient(reference: str) -> Resource:
    return {
        "what": {"type": "Patient", "identifier": {"system": PATIENT_SYSTEM, "value": reference}},
        "type": coding((ENTITY_TYPE, "1", "Person")),
        "role": coding((OBJECT_ROLE, "1", "Patient")),
    }


def _query_of(event: Event) -> str | None:
    """The request line: of a question its id, never its words."""
    if event.kind == "request.submit" and event.subject:
        return f"POST /queries/{event.subject}"
    query = event.details.get("query")
    return query if event.kind == "fhir.search" and isinstance(query, str) else None


def _query(line: str) -> Resource:
    return {
        "type": coding((ENTITY_TYPE, "2", "System Object")),
        "role": coding((OBJECT_ROLE, "24", "Query")),
        "description": line,
        "query": base64.b64encode(line.encode()).decode(),
    }


def _read_of(event: Event) -> str | None:
    resource = event.details.get("resource")
    return resource if event.kind == "fhir.read" and isinstance(resource, str) else None


def _rest(event: Event) -> Resource | None:
    """What the event is about, by id, and its figures. Of type "other": in BALP the others mean something."""
    found: Resource = {"type": coding((ENTITY_TYPE, "4", "Other"))}
    if event.subject is not None:
        found["what"] = urn(event.subject)
    places = {"hospital": event.hospital, "department": event.department}
    told: Mapping[str, Any] = {**{name: value for name, value in places.items() if value}, **event.details}
    if details := [_detail(name, value) for name, value in sorted(told.items()) if value not in (None, "", [], {})]:
        found["detail"] = details
    return found if len(found) > 1 else None


def _detail(name: str, value: Any) -> Resource:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return {"type": name, "valueString": text[:MAX_DETAIL]}
