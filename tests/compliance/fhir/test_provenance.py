"""Where an answer comes from: for its asker alone, labelled where a model wrote it."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.operationoutcome import OperationOutcome
from fhir.resources.R4B.provenance import Provenance

from accounts import principals
from compliance.models import Event
from fdrouter import crypto
from federation import oversight
from federation.models import Inference, Verdict
from tests.compliance import network as networks
from tests.compliance.fhir import calls
from tests.compliance.network import SECRET, Network, SignIn

pytestmark = pytest.mark.django_db
AIAST = {
    "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue",
    "code": "AIAST",
    "display": "Artificial Intelligence asserted",
}
DIGEST = hashlib.sha256(b"model").hexdigest()


def answered(network: Network, kind: str = "cohort.text", **mechanism: Any) -> Inference:
    row = networks.ask(network.clinician, kind="general" if kind == "general" else "cohort.text", epsilon=1.5)
    receipt = row.receipt or {}
    receipt["body"] |= {"model_digest": DIGEST}
    if mechanism:
        receipt["body"]["mechanism"] = mechanism
    Inference.objects.filter(pk=row.pk).update(kind=kind, receipt=receipt, answer=None)
    return row


def provenance(network: Network, row: Inference) -> Any:
    found = calls.found(f"Provenance/{row.pk}", calls.token(network.clinician))
    Provenance.model_validate(found)
    return found


def loss(found: dict[str, Any]) -> dict[str, Any]:
    (extension,) = found["extension"]
    assert extension["url"] == "urn:fdrouter:privacy-loss"
    return {p["url"]: next(v for k, v in p.items() if k.startswith("value")) for p in extension["extension"]}


def test_an_answer_of_a_model_is_labelled_and_names_model_cost_and_receipt(network: Network) -> None:
    claim = {"sheet": "token_decoding", "version": 1, "sha256": "ab" * 32}
    row = answered(network, name="token_decoding", epsilon=1.5, adjacency="swap", claim=claim)
    found = provenance(network, row)
    assert found["meta"]["security"] == [AIAST]
    assert found["reason"][0]["coding"] == [AIAST]
    assert found["target"][0]["identifier"]["value"] == f"urn:uuid:{row.pk}"
    (device,) = found["contained"]
    assert device["deviceName"][0]["name"] == "m"
    assert device["version"] == [{"value": DIGEST}]
    maker = found["agent"][0]
    assert maker["who"] == {"reference": f"#{device['id']}"}
    assert maker["role"][0]["coding"][0]["code"] == "Artificial-Intelligence"
    assert loss(found) == {
        "kind": "cohort.text",
        "mechanism": "token_decoding",
        "epsilon": 1.5,
        "delta": 1e-5,
        "unit": "patient",
        "adjacency": "swap",
        "claimSheet": f"token_decoding 1 {'ab' * 32}",
    }
    assert row.receipt is not None
    assert found["entity"][0]["what"]["identifier"]["value"] == row.receipt["digest"]


def test_a_count_is_no_models_word(network: Network) -> None:
    found = provenance(network, answered(network, "cohort.count", name="count", epsilon=0.3))
    assert "AIAST" not in str(found)
    assert found["agent"][0]["type"]["coding"][0]["code"] == "assembler"
    assert found["contained"][0]["deviceName"][0]["name"] == "count"


def test_without_a_mechanism_no_epsilon_is_shown(network: Network) -> None:
    found = provenance(network, answered(network, "general"))
    assert loss(found) == {"kind": "general"}
    assert found["meta"]["security"] == [AIAST]


def test_a_repeated_release_cost_nothing_more(network: Network) -> None:
    first = str(uuid.uuid4())
    found = provenance(network, answered(network, name="token_decoding", epsilon=1.5, repeat_of=first))
    assert (loss(found)["epsilon"], loss(found)["repeatOf"]) == (0.0, first)


def test_who_accepted_an_answer_has_verified_it(network: Network) -> None:
    row = answered(network)
    roles = [agent["type"]["coding"][0]["code"] for agent in provenance(network, row)["agent"]]
    assert roles == ["author", "enterer", "custodian"]
    Inference.objects.filter(pk=row.pk).update(answer=crypto.seal("answer", row.pk.bytes, b"an answer"))
    oversight.review(principals.for_user(network.clinician.pk), row.pk, verdict=Verdict.ACCEPTED)
    roles = [agent["type"]["coding"][0]["code"] for agent in provenance(network, row)["agent"]]
    assert "verifier" in roles


def test_only_the_asker_reads_it(network: Network, as_user: SignIn) -> None:
    row = answered(network)
    for user in (network.neighbour, network.officer):
        bearer = calls.token(user)
        response = calls.get(f"Provenance/{row.pk}", bearer)
        assert response.status_code == 404
        assert response.json() == calls.get(f"Provenance/{uuid.uuid4()}", bearer).json()
        OperationOutcome.model_validate(response.json())
        assert calls.found("Provenance", bearer, target=str(row.pk))["total"] == 0
    assert calls.get(f"Provenance/{row.pk}", None).status_code == 401
    assert as_user(network.clinician).get(f"/fhir/Provenance/{row.pk}").status_code == 200
    assert as_user(network.outsider).get(f"/fhir/Provenance/{row.pk}").status_code == 401


def test_search_by_target(network: Network) -> None:
    row, mine = answered(network), calls.token(network.clinician)
    for target in (str(row.pk), f"urn:uuid:{row.pk}"):
        body = calls.found("Provenance", mine, target=target)
        Bundle.model_validate(body)
        assert [entry["resource"]["id"] for entry in body["entry"]] == [str(row.pk)]
    assert calls.get("Provenance", mine).status_code == 400
    assert calls.get("Provenance", mine, target="x").status_code == 400
    assert calls.get("Provenance", mine, target=str(row.pk), patient="x").status_code == 400


def test_what_has_no_answer_has_none(network: Network) -> None:
    row = networks.ask(network.clinician, state="failed", reason="no_node")
    assert calls.get(f"Provenance/{row.pk}", calls.token(network.clinician)).status_code == 404


def test_reading_is_on_record_and_holds_no_contents(network: Network) -> None:
    row = answered(network)
    body = calls.get(f"Provenance/{row.pk}", calls.token(network.clinician)).content
    assert SECRET not in body
    last = Event.objects.latest("seq")
    assert (last.kind, last.subject, last.actor_id) == ("fhir.read", row.pk, network.clinician.pk)
