"""CDS Hooks: a card with a link and nothing of the patient, calls that are signed, feedback without contents."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from django.core.cache import cache
from django.test import Client

from compliance.cds import hooks as cds
from compliance.models import Event

pytestmark = pytest.mark.django_db
ISSUER = "https://ehr.example.org"
SERVICE = "/cds-services/fdrouter-ask"
PATIENT = "Patient-1288992"
KEY = ec.generate_private_key(ec.SECP384R1())
CONTEXT = {"userId": "Practitioner/x", "patientId": PATIENT}


@pytest.fixture
def trusted(tmp_path: Path, settings: Any) -> Path:
    cache.clear()
    public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEY.public_key()))
    row = {"issuer": ISSUER, "hospital": "lakeside", "jwks": {"keys": [public | {"kid": "k1", "alg": "ES384"}]}}
    file = tmp_path / "clients.json"
    file.write_text(json.dumps([row]), encoding="utf-8")
    settings.CDS_CLIENTS_FILE = file
    settings.CDS_SANDBOX = True  # of no effect where clients are configured
    return file


@pytest.fixture
def sandbox(settings: Any) -> None:
    settings.CDS_CLIENTS_FILE, settings.CDS_SANDBOX = None, True


def signed(path: str = SERVICE, *, key: Any = KEY, kid: str = "k1", alg: str = "ES384", **claims: Any) -> str:
    now = int(time.time())
    payload = {"iss": ISSUER, "aud": f"http://localhost:8080{path}", "exp": now + 300, "iat": now}
    payload |= {"jti": str(uuid.uuid4())} | claims
    return jwt.encode({k: v for k, v in payload.items() if v is not None}, key, algorithm=alg, headers={"kid": kid})


def post(body: Any, token: str | None, path: str = SERVICE) -> Any:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return Client(enforce_csrf_checks=True).post(path, json.dumps(body), "application/json", headers=headers)


def hook(name: str = "patient-view") -> dict[str, Any]:
    return {"hook": name, "hookInstance": str(uuid.uuid4()), "context": CONTEXT, "prefetch": {"p": {"id": PATIENT}}}


def shown(token: str | None) -> Any:
    response = post(hook(), token)
    assert response.status_code == 200, response.content
    return response.json()["cards"][0]


def test_discovery_offers_both_hooks_and_prefetches_nothing() -> None:
    services = Client().get("/cds-services").json()["services"]
    assert [(service["id"], service["hook"]) for service in services] == [
        ("fdrouter-ask", "patient-view"),
        ("fdrouter-ask", "order-select"),
    ]
    assert all(service["description"] and "prefetch" not in service for service in services)


@pytest.mark.parametrize("name", cds.HOOKS)
def test_the_card_is_a_link_without_the_patient(name: str, trusted: Path) -> None:
    response = post(hook(name), signed())
    (card,) = response.json()["cards"]
    assert card["links"] == [{"label": "Open the Ask page", "url": "http://localhost:8080/", "type": "absolute"}]
    assert len(card["summary"]) < 140
    assert card["indicator"] == "info"
    assert card["source"]["label"]
    assert PATIENT not in response.content.decode()
    last = Event.objects.latest("seq")
    assert (last.kind, str(last.subject), last.hospital) == ("cds.card", card["uuid"], "lakeside")
    assert last.details == {"client": ISSUER, "hook": name}


OTHER = ec.generate_private_key(ec.SECP384R1())
PAST = int(time.time()) - 3600
WRONG: dict[str, dict[str, Any]] = {
    "another key": {"key": OTHER},
    "an unknown key id": {"kid": "k2"},
    "an unknown issuer": {"iss": "https://evil.example.org"},
    "for another address": {"path": "/cds-services"},
    "expired": {"exp": PAST + 60, "iat": PAST},
    "lives too long": {"exp": int(time.time()) + 86400},
    "without an id": {"jti": None},
    "without an end": {"exp": None},
    "symmetric": {"key": "0" * 48, "alg": "HS384"},
    "unsigned": {"key": None, "alg": "none"},
}


@pytest.mark.parametrize("how", WRONG)
def test_a_wrong_token_is_refused(how: str, trusted: Path) -> None:
    response = post(hook(), signed(**WRONG[how]))
    assert response.status_code == 401
    assert response.json()["resourceType"] == "OperationOutcome"
    assert not Event.objects.exists()


def test_a_token_counts_once(trusted: Path) -> None:
    token = signed()
    assert post(hook(), token).status_code == 200
    assert post(hook(), token).status_code == 401


def test_without_keys_nobody_is_let_in_unless_it_is_a_sandbox(settings: Any, trusted: Path) -> None:
    assert post(hook(), None).status_code == 401, "a sandbox with clients is none"
    settings.CDS_CLIENTS_FILE, settings.CDS_SANDBOX = None, False
    assert post(hook(), signed()).status_code == 401
    settings.CDS_SANDBOX = True
    assert post(hook(), None).status_code == 200


def test_the_default_is_to_refuse(settings: Any) -> None:
    assert settings.CDS_CLIENTS_FILE is None
    assert settings.CDS_SANDBOX is False


def test_an_empty_or_unreadable_list_of_clients_lets_nobody_in(trusted: Path) -> None:
    trusted.write_text("{", encoding="utf-8")
    with pytest.raises(ValueError):
        post(hook(), signed())


def test_what_is_no_call_is_refused(sandbox: None) -> None:
    bodies: list[Any] = [{}, [], hook("order-sign"), hook() | {"hookInstance": "x"}]
    for body in bodies:
        response = post(body, None)
        assert (response.status_code, response.json()["issue"][0]["code"]) == (400, "invalid")
    assert Client().post(SERVICE, "{", "application/json").status_code == 400
    assert Client().get(SERVICE).status_code == 405


# --- feedback -----------------------------------------------------------------------------------------------------
def told(card: str, outcome: str = "overridden", **more: Any) -> dict[str, Any]:
    row = {"card": card, "outcome": outcome, "outcomeTimestamp": "2026-11-27T10:00:00Z"}
    return {"feedback": [row | more]}


def send(body: Any) -> Any:
    return post(body, signed(f"{SERVICE}/feedback"), f"{SERVICE}/feedback")


def test_feedback_is_on_record_once_and_without_comments(trusted: Path) -> None:
    card = shown(signed())
    reason = {"reason": {"code": "no-time", "system": cds.REASON_SYSTEM}, "userComment": f"{PATIENT} was rude"}
    for _ in range(2):
        assert send(told(card["uuid"], overrideReason=reason)).status_code == 200
    (kept,) = Event.objects.filter(kind="cds.feedback")
    assert (str(kept.subject), kept.outcome, kept.hospital) == (card["uuid"], "overridden", "lakeside")
    assert kept.details == {"client": ISSUER, "reason": "no-time"}
    assert send(told(card["uuid"], "accepted")).status_code == 200
    assert Event.objects.filter(kind="cds.feedback").count() == 2


def test_a_reason_that_is_not_ours_is_not_kept(trusted: Path) -> None:
    card = shown(signed())
    assert send(told(card["uuid"], overrideReason={"reason": {"code": PATIENT, "system": "x"}})).status_code == 200
    assert Event.objects.get(kind="cds.feedback").details == {"client": ISSUER}


def test_feedback_about_no_card_of_theirs_is_refused_whole(trusted: Path) -> None:
    card = shown(signed())
    both = {"feedback": [*told(card["uuid"])["feedback"], *told(str(uuid.uuid4()))["feedback"]]}
    assert send(both).status_code == 404
    assert not Event.objects.filter(kind="cds.feedback").exists()
    bodies: list[Any] = [{}, {"feedback": []}, told("x"), told(card["uuid"], "ignored"), {"feedback": ["x"]}]
    for body in bodies:
        assert send(body).status_code == 400
    assert post(told(card["uuid"]), None, f"{SERVICE}/feedback").status_code == 401
