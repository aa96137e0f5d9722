"""REST under ``/api/``: the owner's view, the outsider's, and problem details for everything that goes wrong."""

from __future__ import annotations

import json
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import OperationalError
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from accounts import principals
from accounts.models import Membership, Role, User
from fdrouter.api import exception_handler
from fdrouter.errors import BlockExhausted, QuotaSpent
from federation import identity, selectors
from federation.models import Inference, Kind
from privacy import quotas
from privacy.dp.across_plans import plan_count_across
from privacy.dp.text_plan import plan_text
from privacy.models import Scope
from tests.accounts.people import department, hospital, person, principal
from tests.federation import rows
from tests.federation.keys import ring

pytestmark = pytest.mark.django_db
ANY_ID = uuid.uuid4()
READABLE = ("me", "models", "budget", "nodes", "router", "inferences", f"inferences/{ANY_ID}", "schema", "docs")


def call(client: Client, user: User | None, method: str, path: str, body: Any = None) -> Any:
    """One call with the person's token."""
    headers = {}
    if user is not None:
        token = principals.issue_token(Membership.objects.get(user=user, active=True), "test")
        headers["Authorization"] = f"Bearer {token}"
    data = body if isinstance(body, bytes) else json.dumps(body)
    return client.generic(method, f"/api/{path}", data, content_type="application/json", headers=headers)


def problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """The RFC 9457 document."""
    assert response.status_code == status, response.content
    assert response["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = json.loads(response.content)
    assert set(document) == {"type", "title", "status", "code", "details"}
    assert document["type"] == f"urn:fdrouter:problem:{code}"
    assert (document["code"], document["status"]) == (code, status)
    assert isinstance(document["title"], str)
    assert "ErrorDetail" not in document["title"]
    return document


# --- who ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", READABLE)
def test_signed_out_there_is_nothing(client: Client, path: str) -> None:
    response = call(client, None, "GET", path)
    problem(response, 401, "unauthenticated")
    assert response["WWW-Authenticate"] == "Bearer"


def test_a_bad_token_is_refused_also_beside_a_session(client: Client) -> None:
    client.force_login(person("ada"))
    response = client.get("/api/me", headers={"Authorization": "Bearer nonsense"})
    problem(response, 401, "unauthenticated")


def test_a_session_reads_and_needs_the_csrf_token_to_write() -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(person("ada"))
    assert client.get("/api/me").json()["username"] == "ada"
    response = client.post("/api/quote", {"kind": "general"}, content_type="application/json")
    problem(response, 403, "permission_denied")


def test_an_account_without_a_post_is_no_one(client: Client) -> None:
    client.force_login(person("ghost", None))
    problem(client.get("/api/me"), 401, "unauthenticated")


def test_me(client: Client) -> None:
    assert call(client, person("ada"), "GET", "me").json() == {
        "username": "ada",
        "name": "ada",
        "role": "attending",
        "hospital": "northfield",
        "department": "cardiology",
    }
    officer = call(client, person("priya", Role.PRIVACY_OFFICER, network=True), "GET", "me").json()
    assert (officer["hospital"], officer["department"]) == (None, None)


# --- quotes -------------------------------------------------------------------------------------------------------
def test_a_quote_prices_a_cohort_question_and_reserves_nothing(client: Client) -> None:
    rows.node(hospital())
    ada = person("ada")
    quote = call(client, ada, "POST", "quote", {"kind": "cohort.text", "epsilon": 3.0}).json()
    assert (quote["epsilon"], quote["refusal"]) == (3.0, None)
    assert quote["push"] >= 6.0
    assert quote["contexts"] >= 64
    assert (quote["user_left"], quote["department_left"], quote["block_left"]) == (10.0, 10.0, {"northfield": 6.5})
    assert "noise hides" in quote["claim"]
    assert all(scope.used == 0 for scope in Scope.objects.all())
    assert not Inference.objects.exists()


@pytest.mark.parametrize("kind", ["general", "chart"])
def test_a_quote_of_what_costs_nothing(client: Client, kind: str) -> None:
    quote = call(client, person("ada"), "POST", "quote", {"kind": kind}).json()
    assert (quote["epsilon"], quote["push"], quote["refusal"]) == (0.0, 0.0, None)


def test_a_quote_says_beforehand_why_sending_would_fail(client: Client) -> None:
    ada = person("ada")
    ask = {"kind": "cohort.text", "epsilon": 3.0}
    assert call(client, ada, "POST", "quote", ask).json()["refusal"]["code"] == "no_node"
    rows.node(hospital())
    weak = call(client, ada, "POST", "quote", {**ask, "epsilon": 0.1, "contexts": 64}).json()
    assert weak["refusal"]["code"] == "push_too_small"
    assert weak["refusal"]["details"]["try"]
    scopes = quotas.scopes_for(principal(ada))
    Scope.objects.filter(pk=scopes.user_epsilon).update(used=quotas.micro(8.0))
    spent = call(client, ada, "POST", "quote", ask).json()
    assert (spent["refusal"]["code"], spent["refusal"]["details"]["scope"]) == ("quota_spent", "user")
    assert spent["user_left"] == 2.0
    assert call(client, ada, "POST", "quote", {**ask, "hospitals": ["atlantis"]}).json()["refusal"]["code"] == "no_node"


def test_a_quote_of_an_open_kind_says_which_and_why(client: Client) -> None:
    rows.node(hospital())
    ada = person("ada")
    asked = {"kind": "cohort", "question": "How many patients coughed?"}
    quote = call(client, ada, "POST", "quote", asked).json()
    assert (quote["kind"], quote["epsilon"], quote["chosen"]["kind"]) == ("cohort.count", 0.3, "cohort.count")
    assert "how many" in quote["chosen"]["why"]
    named = call(client, ada, "POST", "quote", {"kind": "cohort.count"}).json()
    assert named["chosen"] is None
    assert named["block_share"] == quote["block_share"] and 0 < named["block_share"]["northfield"] < 0.1
    voted = call(client, ada, "POST", "quote", {**asked, "options": ["dry cough", "rash"]}).json()
    assert voted["kind"] == "cohort.choice"
    for question in ("", " "):
        problem(call(client, ada, "POST", "quote", {**asked, "question": question}), 422, "invalid_parameter")


def test_a_refused_quote_offers_what_to_do_instead(client: Client) -> None:
    rows.node(hospital())
    ada = person("ada")
    Scope.objects.filter(pk=quotas.scopes_for(principal(ada)).user_epsilon).update(used=quotas.micro(8.0))
    asked = {"kind": "cohort.text", "epsilon": 3.0, "question": "How many patients coughed?"}
    details = call(client, ada, "POST", "quote", asked).json()["refusal"]["details"]
    assert details["try"] == [
        {"epsilon": 2.0},
        {"kind": "cohort.count", "epsilon": 0.3},
        {"kind": "general"},
        {"request_budget": "/budget"},
    ]
    assert details["retry_after"] > 0


def test_yesterdays_spending_does_not_count_against_todays_quote(client: Client) -> None:
    """The ledger starts a day with its first charge; until then the row still holds yesterday's use."""
    rows.node(hospital())
    ada = person("ada")
    scopes = quotas.scopes_for(principal(ada))
    yesterday = timezone.now().date() - timedelta(days=1)
    Scope.objects.filter(pk=scopes.user_epsilon).update(used=quotas.micro(10.0), period=yesterday)
    quote = call(client, ada, "POST", "quote", {"kind": "cohort.text", "epsilon": 3.0}).json()
    assert (quote["user_left"], quote["refusal"]) == (10.0, None)


def test_a_quote_for_a_post_that_asks_nothing_is_a_refusal_and_opens_no_quota(client: Client) -> None:
    quote = call(client, person("priya", Role.PRIVACY_OFFICER), "POST", "quote", {"kind": "general"}).json()
    assert quote["refusal"]["code"] == "policy_denied"
    assert not Scope.objects.exists()


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"kind": "nonsense"},
        {"kind": 7},
        {"kind": "general", "contexts": "many"},
        {"kind": "cohort.text", "epsilon": "nan"},
        {"kind": "general", "hospitals": 7},
    ],
    ids=str,
)
def test_a_malformed_quote_is_a_400_that_names_the_field(client: Client, body: Any) -> None:
    found = problem(call(client, person("ada"), "POST", "quote", body), 400, "invalid")
    assert found["details"]


@pytest.mark.parametrize("epsilon", [1e308, -3, 0, 10.1])
def test_an_epsilon_out_of_range_is_a_422(client: Client, epsilon: Any) -> None:
    found = problem(
        call(client, person("ada"), "POST", "quote", {"kind": "cohort.text", "epsilon": epsilon}),
        422,
        "invalid_parameter",
    )
    assert found["details"]["field"] == "epsilon"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff\x00", b"[1]", b'{"kind": "general", "epsilon": NaN}', b"[" * 90_000],
    ids=lambda b: b[:20],
)
def test_a_body_that_is_no_object_is_a_problem(client: Client, body: bytes) -> None:
    response = call(client, person("ada"), "POST", "quote", body)
    assert response.status_code in (400, 422)
    assert response["Content-Type"] == "application/problem+json"


# --- budgets and nodes --------------------------------------------------------------------------------------------
def test_budget_shows_ones_own_gauges(client: Client) -> None:
    gauges = call(client, person("ada", works_in=department("research")), "GET", "budget").json()
    assert [(g["scope"], g["unit"], g["cap"], g["used"], g["left"]) for g in gauges] == [
        ("user", "epsilon", 10.0, 0.0, 10.0),
        ("department", "epsilon", 2.0, 0.0, 2.0),
        ("hospital", "epsilon", 60.0, 0.0, 60.0),
        ("user", "requests", 2000.0, 0.0, 2000.0),
        ("department", "requests", 50000.0, 0.0, 50000.0),
    ]
    assert call(client, person("priya", Role.PRIVACY_OFFICER), "GET", "budget").json() == []


def test_nodes_come_with_what_their_receipts_are_checked_with(client: Client, tmp_path: Any) -> None:
    identity.create_ca(tmp_path / "ca")
    identity.issue(tmp_path / "ca", tmp_path / "northfield", "northfield", server=True)
    keys = json.loads((tmp_path / "northfield" / "public.json").read_text())
    rows.node(hospital(), public_keys=keys)
    rows.node(hospital("gone", "Gone"), active=False)
    (node,) = call(client, person("ada"), "GET", "nodes").json()
    assert (node["id"], node["healthy"], node["patients_band"]) == ("northfield", True, "400-500")
    assert node["block"]["epsilon_left"] == 6.5
    assert identity.load_public(node["public_keys"]).name == "northfield"
    assert "url" not in node


def test_models(client: Client) -> None:
    rows.node(hospital())
    assert call(client, person("ada"), "GET", "models").json() == ["smollm2-135m-instruct"]


# --- requests -----------------------------------------------------------------------------------------------------
def test_the_owner_reads_a_request_and_the_list_is_without_contents(client: Client) -> None:
    ada = person("ada")
    row = rows.request(ada, "What helps?", "Rest.", kind=Kind.COHORT_TEXT, epsilon=3.0, receipt=rows.RECEIPT)
    found = call(client, ada, "GET", f"inferences/{row.pk}").json()
    assert (found["id"], found["state"], found["answer"], found["error"]) == (str(row.pk), "done", "Rest.", None)
    assert (found["privacy"]["epsilon"], found["privacy"]["unit"]) == (3.0, "patient")
    (listed,) = call(client, ada, "GET", "inferences").json()
    assert (listed["id"], listed["answer"]) == (str(row.pk), None)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_somebody_elses_request_is_not_there(client: Client, method: str) -> None:
    ada, colleague = person("ada"), person("ben")
    outsider = person("eve", works_in=department("cardiology", hospital("lakeside", "Lakeside")))
    officer = person("priya", Role.PRIVACY_OFFICER)
    row = rows.request(ada, "What helps?", None, state="queued")
    missing = problem(call(client, ada, method, f"inferences/{ANY_ID}"), 404, "not_found")
    for other in (colleague, outsider, officer):
        assert problem(call(client, other, method, f"inferences/{row.pk}"), 404, "not_found") == missing
        assert call(client, other, "GET", "inferences").json() == []
    row.refresh_from_db()
    assert row.cancel_requested_at is None


def test_a_failed_request_says_why_and_whether_it_was_charged(client: Client) -> None:
    ada = person("ada")
    row = rows.request(ada, "?", None, state="failed", reason="node_timeout", details={"charged": True, "status": 1})
    found = call(client, ada, "GET", f"inferences/{row.pk}").json()
    assert found["answer"] is None
    assert (found["error"]["code"], found["error"]["charged"]) == ("node_timeout", True)
    assert found["error"]["message"] == "The hospital's node did not answer in time."
    stopped = rows.request(ada, "?", None, state="cancelled", reason="cancelled")
    assert call(client, ada, "GET", f"inferences/{stopped.pk}").json()["error"]["code"] == "cancelled"


def test_asking_for_a_stop_is_remembered_once_and_ended_requests_stay_as_they_are(client: Client) -> None:
    ada = person("ada")
    row, ended = rows.request(ada, "?", None, state="dispatched"), rows.request(ada, "?")
    assert call(client, ada, "DELETE", f"inferences/{row.pk}").status_code == 202
    row.refresh_from_db()
    asked_at = row.cancel_requested_at
    assert asked_at is not None
    call(client, ada, "DELETE", f"inferences/{row.pk}")
    row.refresh_from_db()
    assert row.cancel_requested_at == asked_at
    assert call(client, ada, "DELETE", f"inferences/{ended.pk}").status_code == 202
    ended.refresh_from_db()
    assert ended.cancel_requested_at is None


# --- everything else ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", ["", "nothing", "inferences/7", "me/x", "schemas", "docs/x"])
def test_an_unknown_address_is_a_problem(client: Client, path: str) -> None:
    problem(call(client, person("ada"), "GET", path), 404, "not_found")
    problem(call(client, None, "GET", path), 401, "unauthenticated")


@pytest.mark.parametrize(("method", "path"), [("POST", "me"), ("GET", "quote"), ("DELETE", "inferences")])
def test_a_wrong_method_is_a_problem(client: Client, method: str, path: str) -> None:
    response = call(client, person("ada"), method, path, {})
    problem(response, 405, "method_not_allowed")
    assert response["Allow"]


def test_a_body_that_is_not_json_is_a_problem(client: Client) -> None:
    client.force_login(person("ada"))
    response = client.post("/api/quote", {"kind": "general"})
    problem(response, 415, "unsupported_media_type")


def test_a_lost_database_is_a_503_and_a_fault_a_500_that_says_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ada = person("ada")

    def lost() -> list[str]:
        raise OperationalError("connection to secret-host failed")

    def broken() -> list[str]:
        raise ZeroDivisionError("patient 17")

    monkeypatch.setattr(selectors, "served_models", lost)
    response = call(client, ada, "GET", "models")
    problem(response, 503, "dependency_unavailable")
    assert b"secret-host" not in response.content
    monkeypatch.setattr(selectors, "served_models", broken)
    response = call(client, ada, "GET", "models")
    found = problem(response, 500, "internal_error")
    assert found["title"] == "Something went wrong."
    assert b"patient 17" not in response.content
    (record,) = [record for record in caplog.records if record.name == "fdrouter.api"]
    assert record.__dict__["reason"] == "ZeroDivisionError"


def test_the_openapi_document_is_valid_and_complete(client: Client, tmp_path: Any) -> None:
    target = tmp_path / "schema.json"
    call_command("spectacular", validate=True, fail_on_warn=True, format="openapi-json", file=str(target))
    document = json.loads(target.read_text())
    paths = set(document["paths"])
    assert {"/api/me", "/api/quote", "/api/budget", "/api/nodes", "/api/inferences", "/api/models"} <= paths
    assert not [path for path in paths if path.startswith("/api/^") or "(?" in path]
    assert client.get("/api/schema").status_code == 401
    client.force_login(person("ada"))
    served = client.get("/api/schema", headers={"Accept": "application/vnd.oai.openapi+json"})
    assert json.loads(served.content)["info"]["title"] == "fdrouter"
    assert client.get("/api/docs").status_code == 200


def test_a_request_that_a_block_could_not_pay_offers_what_to_do_instead(client: Client) -> None:
    rows.node(hospital())
    ada = person("ada")
    values: dict[str, Any] = {
        "parameters": plan_text(epsilon=3.0).to_event(),
        "reason": "block_exhausted",
        "details": {},
    }
    row = rows.request(ada, "Which drugs?", None, kind=Kind.COHORT_TEXT, state="failed", epsilon=3.0, **values)
    error = call(client, ada, "GET", f"inferences/{row.pk}").json()["error"]
    assert error["details"]["try"][1:] == [{"kind": "cohort.keywords", "epsilon": 1.0}, {"kind": "general"}]
    assert set(error) == {"id", "code", "message", "details", "charged"}
    (listed,) = call(client, ada, "GET", "inferences").json()
    assert listed["error"]["details"] == {}


def test_a_quota_refusal_over_rest_has_the_header_too() -> None:
    known = exception_handler(QuotaSpent(scope="user", retry_after=60), {})
    assert (known.status_code, known["Retry-After"]) == (429, "60")
    unknown = exception_handler(QuotaSpent(scope="user"), {})
    assert "Retry-After" not in unknown.headers
    assert "Retry-After" not in exception_handler(BlockExhausted(retry_after=60), {}).headers


# --- the router's identity ----------------------------------------------------------------------------------------
def test_the_router_tells_its_public_identity_and_nothing_else(client: Client, settings: Settings) -> None:
    settings.IDENTITY_DIR = ring().folder("coordinator")
    told = call(client, person("ada"), "GET", "router").json()
    assert set(told) == {"public_keys"}
    assert identity.load_public(told["public_keys"]).key_id == ring().identity("coordinator").public.key_id
    assert set(told["public_keys"]) == {"name", "mlkem768", "x25519", "ed25519", "mldsa65", "key_id"}


def test_a_router_without_an_identity_has_none_to_tell(client: Client, settings: Settings, tmp_path: Path) -> None:
    settings.IDENTITY_DIR = tmp_path
    problem(call(client, person("ada"), "GET", "router"), 404, "not_found")


def test_a_quote_of_several_hospitals_names_them_and_their_error(client: Client) -> None:
    for name in ("alder", "birch", "cedar"):
        rows.node(hospital(name, name.title()))
    quote = call(client, person("ada"), "POST", "quote", {"kind": "cohort.count", "across": True}).json()
    assert quote["hospitals"] == ["alder", "birch", "cedar"] and quote["delta"] == 1e-5
    assert quote["band"] == plan_count_across(hospitals=3).band
    alone = call(client, person("ben"), "POST", "quote", {"kind": "cohort.count"}).json()
    assert (alone["hospitals"], alone["delta"]) == ([], 0.0) and alone["band"] > 0
