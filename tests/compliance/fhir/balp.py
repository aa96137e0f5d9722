"""What FHIR R4 binds and IHE BALP 1.1 requires of an AuditEvent, written again from the profiles.

``fhir.resources`` checks structure and takes any code; this checks the codes.
"""

from __future__ import annotations

import base64
from typing import Any

DCM = "http://dicom.nema.org/resources/ontology/DCM"
REST = "http://terminology.hl7.org/CodeSystem/audit-event-type"
INTERACTION = "http://hl7.org/fhir/restful-interaction"
AUTHZ = "https://profiles.ihe.net/ITI/BALP/CodeSystem/AuthZsubType"
ACT_REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
PARTICIPATION = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
SECURITY_ROLE = "http://terminology.hl7.org/CodeSystem/extra-security-role-type"
ROLE_CLASS = "http://terminology.hl7.org/CodeSystem/v3-RoleClass"
PROFILE = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit."

TYPES = {REST: {"rest"}, DCM: {"110100", "110106", "110113", "110114"}}
SUBTYPES = {
    INTERACTION: {"read", "search", "search-type"},
    DCM: {"110122", "110123", "110127", "110129"},
    AUTHZ: {"AuthZ-Role"},
}
PURPOSES = set("TREAT ETREAT BTG HOPERAT HQUALIMP HSYSADMIN HRESCH CLINTRCH HPAYMT PATRQT HTEST".split())
USER, CLIENT, SERVER = (PARTICIPATION, "IRCP"), (DCM, "110153"), (DCM, "110152")
APPLICATION, AUTHORIZER, PROVIDER = (DCM, "110150"), (SECURITY_ROLE, "authserver"), (ROLE_CLASS, "PROV")


def kind_of(event: dict[str, Any]) -> str:
    """The log's own name of what happened."""
    return str(next(code["code"] for code in event["subtype"] if code["system"] == "urn:fdrouter:event-kind"))


def type_of(agent: dict[str, Any]) -> tuple[str, str]:
    coded = agent["type"]["coding"][0]
    return coded["system"], coded["code"]


def agents(event: dict[str, Any], role: tuple[str, str]) -> list[dict[str, Any]]:
    return [agent for agent in event["agent"] if type_of(agent) == role]


def entities(event: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Entities of this audit-entity-type."""
    return [entity for entity in event.get("entity", []) if entity["type"]["code"] == kind]


def check(event: dict[str, Any]) -> None:
    """R4's bindings and invariants, and every profile that the resource claims."""
    assert event["type"]["code"] in TYPES[event["type"]["system"]]
    for code in event["subtype"]:
        if code["system"] != "urn:fdrouter:event-kind":
            assert code["code"] in SUBTYPES[code["system"]]
    assert event["action"] in "CRUDE"
    assert event.get("outcome", "0") in ("0", "4", "8", "12")
    assert event["recorded"].endswith("Z")
    assert event["source"]["observer"]["identifier"]["value"]
    assert event["agent"], "agent is 1..*"
    assert all(isinstance(agent["requestor"], bool) for agent in event["agent"])
    for purpose in event.get("purposeOfEvent", []):
        assert purpose["coding"][0]["system"] == ACT_REASON
        assert purpose["coding"][0]["code"] in PURPOSES
    for entity in event.get("entity", []):
        assert entity["type"]["code"] in "1234"
        assert not ("name" in entity and "query" in entity), "sev-1"
    for profile in event["meta"].get("profile", []):
        assert profile.startswith(PROFILE)
        {"Query": query, "PatientQuery": patient_query, "Read": read}[profile.removeprefix(PROFILE)](event)


def _restful(event: dict[str, Any], action: str) -> None:
    assert (event["type"]["system"], event["type"]["code"]) == (REST, "rest")
    assert event["action"] == action
    assert event["outcome"] == "0"
    (client,), (server,) = agents(event, CLIENT), agents(event, SERVER)
    for agent in (client, server):
        assert agent["who"] and agent["network"] and "media" not in agent
    users = agents(event, USER)
    assert len(users) <= 1
    for user in users:
        assert user["who"] and user["requestor"] is True and "network" not in user


def query(event: dict[str, Any]) -> None:
    """IHE.BasicAudit.Query."""
    _restful(event, "E")
    searches = {"search", "search-type", "search-system"}
    assert len([c for c in event["subtype"] if c["system"] == INTERACTION and c["code"] in searches]) == 1
    (asked,) = entities(event, "2")
    assert asked["role"] == {"system": asked["role"]["system"], "code": "24", "display": "Query"}
    assert base64.b64decode(asked["query"]).decode().split(" ")[0] in ("GET", "POST")
    assert not {"what", "lifecycle", "detail"} & set(asked)


def patient_query(event: dict[str, Any]) -> None:
    """IHE.BasicAudit.PatientQuery."""
    query(event)
    (patient,) = entities(event, "1")
    assert patient["role"]["code"] == "1"
    assert patient["what"]["type"] == "Patient"
    assert patient["what"]["identifier"]["value"]


def read(event: dict[str, Any]) -> None:
    """IHE.BasicAudit.Read: what is read flows from the server to the client."""
    assert (event["type"]["system"], event["type"]["code"]) == (REST, "rest")
    assert (event["action"], event["outcome"]) == ("R", "0")
    assert len([c for c in event["subtype"] if c["system"] == INTERACTION and c["code"] in ("read", "vread")]) == 1
    for role in (CLIENT, SERVER):
        (agent,) = agents(event, role)
        assert agent["who"] and agent["network"]
    (data,) = entities(event, "2")
    assert data["role"]["code"] in ("3", "4", "20") and data["what"]["reference"]
