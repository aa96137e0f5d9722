"""The log as AuditEvent: shapes, who reads what, and that reading is on record."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

import pytest
from django.test import Client
from fhir.resources.R4B.auditevent import AuditEvent as Structure
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.capabilitystatement import CapabilityStatement
from fhir.resources.R4B.operationoutcome import OperationOutcome

from compliance.fhir import codes, resources
from compliance.models import Event
from fdrouter import evidence
from federation.models import Inference
from tests.compliance import network as networks
from tests.compliance.fhir import balp, calls
from tests.compliance.network import SECRET, Network, SignIn

pytestmark = pytest.mark.django_db
PATIENT = "nf-1042"


@pytest.fixture
def token(network: Network) -> str:
    return calls.token(network.officer)


def record(kind: str, outcome: str = "ok", **more: Any) -> None:
    evidence.record(evidence.Event(kind=kind, outcome=outcome, **more))


def submitted(network: Network, kind: str, patient: str = "") -> uuid.UUID:
    """A request's row and its evidence as the admission's SQL writes it."""
    row = networks.ask(network.clinician, kind=kind)
    Inference.objects.filter(pk=row.pk).update(patient_reference=patient)
    details = {"kind": kind, "model": "m", "channel": "web", "bytes": 12, "digest": "00"}
    subject = uuid.uuid4()
    Inference.objects.filter(pk=row.pk).update(id=subject)
    record("request.submit", actor_id=network.clinician.pk, subject=subject, hospital="northfield", purpose="TREAT",
           details=details)  # fmt: skip
    return subject


def only(token: str, kind: str) -> dict[str, Any]:
    """The latest event of a kind."""
    return calls.events(token, subtype=f"urn:fdrouter:event-kind|{kind}", _count=1)[0]


def test_every_event_is_a_valid_resource_of_the_profiles_it_claims(network: Network, token: str) -> None:
    submitted(network, "chart", PATIENT)
    submitted(network, "cohort.text")
    for kind in codes.SHAPES:
        for details in ({"query": "GET /x"}, {}):
            record(kind, actor_id=network.clinician.pk, hospital="northfield", purpose="BTG", details=details)
    record("break_glass.begin", actor_id=network.clinician.pk, purpose="BTG")
    record("something.new", "odd")
    calls.found(f"AuditEvent/{Event.objects.latest('seq').pk}", token)
    found = calls.events(token, _count=200)
    assert {balp.kind_of(event) for event in found} >= set(codes.SHAPES) | {"something.new", "break_glass.begin"}
    claimed: set[str] = set()
    for event in found:
        balp.check(event)
        Structure.model_validate(event)
        claimed.update(profile.removeprefix(balp.PROFILE) for profile in event["meta"].get("profile", []))
    assert claimed == {"Query", "PatientQuery", "Read"}


def test_a_question_is_a_query_without_its_words(network: Network, token: str) -> None:
    key = submitted(network, "cohort.text")
    event = only(token, "request.submit")
    (asked,) = balp.entities(event, "2")
    assert base64.b64decode(asked["query"]) == f"POST /queries/{key}".encode()
    assert event["purposeOfEvent"][0]["coding"][0]["code"] == "TREAT"
    assert not balp.entities(event, "1")
    assert event["meta"]["profile"] == [balp.PROFILE + "Query"]


def test_a_chart_request_names_its_patient(network: Network, token: str) -> None:
    submitted(network, "chart", PATIENT)
    event = only(token, "request.submit")
    assert balp.entities(event, "1")[0]["what"]["identifier"]["value"] == PATIENT
    assert event["meta"]["profile"] == [balp.PROFILE + "PatientQuery"]


def test_a_chart_request_whose_patient_is_not_known_claims_no_profile(network: Network, token: str) -> None:
    submitted(network, "chart", "")
    assert "profile" not in only(token, "request.submit")["meta"]


def test_a_decision_is_a_security_alert_by_the_authorizer(network: Network, token: str) -> None:
    denied = {"policies": ["researchers-only-for-research"], "policy_digest": "ab"}
    record("policy.decision", "denied", actor_id=network.clinician.pk, hospital="northfield", purpose="TREAT",
           details=denied)  # fmt: skip
    event = only(token, "policy.decision")
    assert (event["type"]["code"], event["outcome"], event["outcomeDesc"]) == ("110113", "8", "denied")
    assert event["subtype"][0]["code"] == "AuthZ-Role"
    (authorizer,) = balp.agents(event, balp.AUTHORIZER)
    assert authorizer["who"] == event["source"]["observer"], "val-audit-source"
    assert balp.agents(event, balp.PROVIDER)[0]["who"]["identifier"]["value"] == "northfield"
    assert "researchers-only-for-research" in json.dumps(event["entity"])


@pytest.mark.parametrize(
    ("kind", "outcome", "type_code", "result"),
    [
        ("session.sign_in", "ok", "110114", "0"),
        ("session.sign_in", "failed", "110114", "4"),
        ("ledger.reserve", "quota_spent", "110100", "4"),
        ("ledger.mismatch", "incident", "110113", "8"),
        ("events.export", "ok", "110106", "0"),
        ("letters.export", "ok", "110106", "0"),
        ("break_glass.begin", "ok", "110113", "0"),
        ("something.new", "odd", "110100", None),
    ],
)
def test_types_and_outcomes(
    kind: str, outcome: str, type_code: str, result: str | None, network: Network, token: str
) -> None:
    record(kind, outcome)
    event = only(token, kind)
    assert (event["type"]["code"], event.get("outcome")) == (type_code, result)


def test_contents_never_leave(network: Network, token: str) -> None:
    record("private.thing", private={"patient": "Ada Lovelace"})
    body = calls.get("AuditEvent", token, _count=200).content
    assert SECRET not in body
    assert b"Lovelace" not in body
    assert b"sealed" not in body


def test_reading_is_on_record_before_it_is_answered(network: Network, token: str) -> None:
    calls.events(token, date="ge2026", outcome="8")
    last = Event.objects.latest("seq")
    assert (last.kind, last.actor_id) == ("fhir.search", network.officer.pk)
    assert last.details == {"query": "GET /fhir/AuditEvent?date=ge2026&outcome=8", "rows": 0}
    seq = Event.objects.earliest("seq").pk
    calls.found(f"AuditEvent/{seq}", token)
    assert Event.objects.latest("seq").details == {"resource": f"AuditEvent/{seq}"}


def test_without_a_log_nothing_is_read(network: Network, token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "_append", None)
    response = calls.get("AuditEvent", token)
    assert response.status_code == 500
    assert "entry" not in response.json()


# --- who reads what -----------------------------------------------------------------------------------------------
PATHS = ("AuditEvent", "AuditEvent/{seq}")


def test_a_hospitals_officer_reads_that_hospital_only(network: Network) -> None:
    mine = calls.token(network.lakeside_officer)
    sites = {event["source"]["site"] for event in calls.events(mine, _count=200)}
    assert sites <= {"lakeside", "localhost"}
    elsewhere = Event.objects.filter(hospital="northfield").earliest("seq").pk
    theirs, nobodys = calls.get(f"AuditEvent/{elsewhere}", mine), calls.get("AuditEvent/999999999", mine)
    assert (theirs.status_code, theirs.json()) == (nobodys.status_code, nobodys.json())
    assert theirs.status_code == 404
    assert calls.found("AuditEvent", mine, site="northfield")["total"] == 0


@pytest.mark.parametrize("path", PATHS)
def test_everybody_else_finds_nothing(path: str, network: Network) -> None:
    seq = Event.objects.earliest("seq").pk
    for user in (network.clinician, network.operator):
        response = calls.get(path.format(seq=seq), calls.token(user))
        assert response.status_code == 404
        OperationOutcome.model_validate(response.json())
    assert not Event.objects.filter(kind__startswith="fhir.").exists()


@pytest.mark.parametrize("path", PATHS)
def test_without_a_token_there_is_an_outcome_that_says_so(path: str, network: Network) -> None:
    for bearer in (None, "fdr_wrong"):
        response = calls.get(path.format(seq=1), bearer)
        assert response.status_code == 401
        assert response.json()["issue"][0]["code"] == "login"
        assert response.headers["WWW-Authenticate"] == "Bearer"


def test_auditors_and_signed_in_officers_read(network: Network, as_user: SignIn) -> None:
    assert calls.events(calls.token(network.auditor))
    assert as_user(network.officer).get("/fhir/AuditEvent").status_code == 200


def test_a_scope_narrows_a_token_to_what_it_names(network: Network) -> None:
    narrow = calls.token(network.officer, [resources.AUDIT_SCOPE])
    assert calls.events(narrow)
    assert calls.get("Provenance", narrow, target=str(uuid.uuid4())).status_code == 401
    assert Client().get("/api/me", headers={"Authorization": f"Bearer {narrow}"}).status_code == 401
    other = calls.token(network.officer, [resources.PROVENANCE_SCOPE])
    assert calls.get("AuditEvent", other).status_code == 401
    clinician = calls.token(network.clinician, [resources.AUDIT_SCOPE])
    assert calls.get("AuditEvent", clinician).status_code == 404, "a scope gives nothing that the post does not"


# --- what is offered ----------------------------------------------------------------------------------------------
def test_the_capability_statement_is_valid_and_true(network: Network, token: str) -> None:
    stated = calls.get("metadata", None).json()
    CapabilityStatement.model_validate(stated)
    audit = stated["rest"][0]["resource"][0]
    seq = Event.objects.earliest("seq").pk
    samples = {"_id": seq, "date": "2026", "agent": 1, "agent-name": "a", "entity": str(uuid.uuid4()), "outcome": "0"}
    samples |= {"type": "rest", "subtype": "read", "site": "lakeside"}
    assert {parameter["name"] for parameter in audit["searchParam"]} == set(samples)
    for name, value in samples.items():
        calls.found("AuditEvent", token, **{name: value})
    assert {interaction["code"] for interaction in audit["interaction"]} == {"read", "search-type"}


def test_smart_configuration_names_no_endpoint_that_is_not_there() -> None:
    for path in ("/.well-known/smart-configuration", "/fhir/.well-known/smart-configuration"):
        stated = Client().get(path).json()
        assert not [name for name in stated if name.endswith("_endpoint")]
        assert stated["capabilities"] == []
        assert resources.AUDIT_SCOPE in stated["scopes_supported"]


@pytest.mark.parametrize("path", ["Patient", "AuditEvent/x", "", "Provenance/x"])
def test_other_addresses_are_not_found(path: str, network: Network, token: str) -> None:
    response = calls.get(path, token)
    assert response.status_code == 404
    OperationOutcome.model_validate(response.json())


def test_methods_and_formats_that_are_not_offered(network: Network, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    posted = Client().post("/fhir/AuditEvent", {}, content_type="application/json", headers=headers)
    assert (posted.status_code, posted.json()["resourceType"]) == (405, "OperationOutcome")
    xml = Client().get("/fhir/AuditEvent", headers=headers | {"Accept": "application/fhir+xml"})
    assert (xml.status_code, xml.json()["issue"][0]["code"]) == (406, "not-supported")
    plain = Client().get("/fhir/AuditEvent", headers=headers | {"Accept": "application/json"})
    assert plain.headers["Content-Type"].startswith("application/json")
    Bundle.model_validate(plain.json())
