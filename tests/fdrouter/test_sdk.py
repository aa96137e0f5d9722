"""The SDK against a running coordinator, and what it works out on its own."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import fdrouter
from fdrouter import (
    AsyncPrivateInferenceClient,
    PolicyDenied,
    PrivacyBudgetExceeded,
    PrivateInferenceClient,
    RouterError,
)
from fdrouter.sdk import (
    Conflict,
    IdentityMismatch,
    InvalidRequest,
    NodeUnavailable,
    NotAuthenticated,
    NotFound,
    NotOffered,
    RouterUnreachable,
    answers,
    errors,
)
from tests.accounts import people
from tests.fdrouter.proxy import BreakingProxy
from tests.federation import rows
from tests.federation.api.backend import ANSWER, WORDS
from tests.federation.api.stack import Person, Stack

ROOT = Path(__file__).resolve().parents[2]
PROMPT = "How does aspirin work?"


@pytest.fixture(autouse=True)
def no_token_around(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FDROUTER_TOKEN", "FDROUTER_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


def client_of(stack: Stack, person: Person, **options: Any) -> PrivateInferenceClient:
    return PrivateInferenceClient(options.pop("router_endpoint", stack.url), token=person.token, **options)


# --- the quick start ----------------------------------------------------------------------------------------------
def test_the_quick_start(stack: Stack, ada: Person, monkeypatch: pytest.MonkeyPatch) -> None:
    department = ada.user.memberships.get().department
    assert department is not None
    monkeypatch.setenv("FDROUTER_TOKEN", ada.token)
    client = PrivateInferenceClient(router_endpoint=stack.url, user_id=ada.user.username, department=department.code)
    response = client.query(prompt=PROMPT, max_privacy_budget=0.5, audit_trail=True, model="steady")
    client.close()
    assert f"Response: {response.text}" == f"Response: {ANSWER}"
    assert f"{response.privacy_cost:.3f}" == "0.000"
    assert f"{response.remaining_budget:.3f}" == "10.000"
    assert (response.kind, response.node, response.model) == ("general", "engine-steady", "steady")
    assert (response.receipt, response.receipt_verified) == (None, False)  # a plain engine signs none
    (row,) = stack.rows(ada)
    assert response.id == str(row.pk)


def test_the_remaining_budget_is_the_least_of_what_must_pay(stack: Stack, ada: Person) -> None:
    ada.exhaust("department_epsilon")
    with client_of(stack, ada) as client:
        response = client.query(PROMPT, model="steady")
    assert (response.remaining.user, response.remaining.department, response.remaining.block) == (10.0, 0.0, None)
    assert response.remaining_budget == 0.0


def test_without_a_model_the_routers_first_is_asked(stack: Stack, ada: Person) -> None:
    with client_of(stack, ada) as client, pytest.raises(NodeUnavailable) as failed:
        client.query(PROMPT)  # the model on most nodes, the first of these by name
    assert failed.value.code == "node_failed"
    assert stack.rows(ada)[0].model == "dying"


def test_the_package_needs_neither_django_nor_settings() -> None:
    code = (
        "import sys; sys.modules['django'] = None\n"
        "from fdrouter import PrivateInferenceClient, PrivacyBudgetExceeded\n"
        "import fdrouter.sdk.answers, fdrouter.cli, federation.identity, federation.receipts\n"
        "print(PrivateInferenceClient(token='t'))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={"PATH": ""}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "PrivateInferenceClient('http://localhost:8080')"


def test_names_that_the_package_does_not_have_are_missing() -> None:
    assert all(getattr(fdrouter, name) for name in fdrouter.__all__)
    with pytest.raises(AttributeError):
        fdrouter.HomomorphicMagic  # noqa: B018


# --- who is asking ------------------------------------------------------------------------------------------------
def test_without_a_token_it_says_how_to_give_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotAuthenticated, match="FDROUTER_TOKEN"):
        PrivateInferenceClient()
    monkeypatch.setenv("FDROUTER_TOKEN_FILE", str(tmp_path / "none"))
    with pytest.raises(NotAuthenticated, match="cannot be read"):
        PrivateInferenceClient()


def test_a_token_may_come_from_a_file(
    stack: Stack, ada: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(ada.token + "\n")
    monkeypatch.setenv("FDROUTER_TOKEN_FILE", str(tmp_path / "token"))
    with PrivateInferenceClient(stack.url) as client:
        assert client.query(PROMPT, model="steady").text == ANSWER
        assert ada.token not in repr(client)


def test_a_bad_token_is_not_authenticated(stack: Stack) -> None:
    with PrivateInferenceClient(stack.url, token="nonsense") as client, pytest.raises(NotAuthenticated) as refused:
        client.query(PROMPT)
    assert refused.value.status == 401


@pytest.mark.parametrize("expected", [{"user_id": "doctor_123"}, {"department": "alchemy"}])
def test_somebody_elses_token_is_refused_before_anything_is_asked(
    stack: Stack, ada: Person, expected: dict[str, str]
) -> None:
    with client_of(stack, ada, **expected) as client, pytest.raises(IdentityMismatch) as refused:
        client.query(PROMPT, model="steady")
    (name,) = expected
    assert refused.value.details["field"] == name
    assert refused.value.details["expected"] == expected[name]
    assert stack.rows(ada) == []


@pytest.mark.parametrize("endpoint", ["http://router.example", "ftp://localhost", "localhost:8080", "", "http://"])
def test_an_endpoint_that_would_not_do_is_refused(endpoint: str) -> None:
    with pytest.raises(NotOffered):
        PrivateInferenceClient(endpoint, token="t")


@pytest.mark.parametrize("endpoint", ["https://router.example", "http://127.0.0.1:1", "http://[::1]:1"])
def test_an_endpoint_that_does(endpoint: str) -> None:
    PrivateInferenceClient(endpoint, token="t").close()
    PrivateInferenceClient("http://router.example", token="t", allow_plain_http=True).close()


# --- bounds -------------------------------------------------------------------------------------------------------
def test_consensus_is_refused_with_the_reason_and_nothing_is_sent(stack: Stack, ada: Person) -> None:
    with client_of(stack, ada) as client, pytest.raises(NotOffered, match="one node answers"):
        client.query(PROMPT, require_consensus=True)
    assert stack.rows(ada) == []


@pytest.mark.parametrize("bound", [float("nan"), -1.0, float("inf")])
def test_a_bound_must_be_a_number(stack: Stack, ada: Person, bound: float) -> None:
    with client_of(stack, ada) as client, pytest.raises(InvalidRequest, match="max_privacy_budget"):
        client.query(PROMPT, bound)


def test_a_bound_that_records_need_more_than_says_what_would_do(stack: Stack, ada: Person) -> None:
    with client_of(stack, ada) as client, pytest.raises(PrivacyBudgetExceeded) as refused:
        client.query(PROMPT, max_privacy_budget=0.5, kind="cohort.text", model="steady")
    error = refused.value
    assert (error.scope, error.charged) == ("request", False)
    assert error.details["bound"] == 0.5
    (needed,) = [choice["epsilon"] for choice in error.suggestions if "epsilon" in choice]
    assert needed > 0.5
    assert f"{needed:g}" in error.message
    assert stack.rows(ada) == []
    with client_of(stack, ada) as client, pytest.raises(NodeUnavailable):
        client.query(PROMPT, max_privacy_budget=needed, kind="cohort.text", model="steady")  # passes the bound
    (row,) = stack.rows(ada)
    assert row.epsilon_micro == round(needed * 1e6)


@pytest.mark.parametrize(("bound", "spent"), [(9.0, 3_000_000), (2.9, 2_900_000), (None, 3_000_000)])
def test_a_bound_is_not_spent_because_it_is_there(stack: Stack, ada: Person, bound: float | None, spent: int) -> None:
    with client_of(stack, ada) as client, pytest.raises(NodeUnavailable):
        client.query(PROMPT, bound, kind="cohort.text", model="steady")
    assert stack.rows(ada)[0].epsilon_micro == spent


@pytest.mark.parametrize("bound", [0.0, 5.0])
def test_what_was_published_is_within_every_bound(stack: Stack, ada: Person, bound: float) -> None:
    with client_of(stack, ada) as client, pytest.raises(NodeUnavailable):
        client.query(PROMPT, bound, kind="cohort.released", model="steady")
    assert [(row.kind, row.epsilon_micro) for row in stack.rows(ada)] == [("cohort.released", 0)]


@pytest.mark.parametrize(("bound", "epsilon"), [(0.0, None), (1.0, 3.0)])
def test_a_bound_below_any_cost_is_refused(stack: Stack, ada: Person, bound: float, epsilon: float | None) -> None:
    with client_of(stack, ada) as client, pytest.raises(PrivacyBudgetExceeded) as refused:
        client.query(PROMPT, bound, kind="cohort.text", epsilon=epsilon)
    assert refused.value.scope == "request"
    assert stack.rows(ada) == []


@pytest.mark.parametrize("scope", ["user", "department"])
def test_a_spent_allowance_says_whose(stack: Stack, ada: Person, scope: str) -> None:
    ada.exhaust(f"{scope}_epsilon")
    with client_of(stack, ada) as client, pytest.raises(PrivacyBudgetExceeded) as refused:
        client.query(PROMPT, kind="cohort.text", model="steady")
    assert (refused.value.scope, refused.value.status, refused.value.code) == (scope, 429, "quota_spent")


# --- what goes wrong ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "kind", "code"),
    [
        ({"kind": "chart", "patient": "p-unknown"}, PolicyDenied, "policy_denied"),
        ({"kind": "shout"}, InvalidRequest, "invalid_parameter"),
        ({"epsilon": 1.0}, InvalidRequest, "invalid_parameter"),
        ({"kind": "cohort.text", "epsilon": 0.1}, InvalidRequest, "push_too_small"),
        ({"model": "gpt-9"}, NotFound, "model_not_found"),
        ({"model": "refusing"}, NodeUnavailable, "no_node"),
        ({"model": "stalling"}, NodeUnavailable, "node_timeout"),
        ({"model": "error"}, NodeUnavailable, "node_failed"),
        ({"purpose": "CURIOSITY"}, InvalidRequest, "invalid_parameter"),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_and_failures_are_errors_of_their_kind(
    stack: Stack, ada: Person, options: dict[str, Any], kind: type[RouterError], code: str, stream: bool
) -> None:
    with client_of(stack, ada) as client, pytest.raises(kind) as raised:
        asked: Any = client.query(PROMPT, stream=stream, **{"model": "steady", **options})
        list(asked)
    assert type(raised.value) is kind
    assert raised.value.code == code
    if kind is NodeUnavailable:
        assert raised.value.charged is (code != "no_node")
        assert raised.value.request_id == str(stack.rows(ada)[0].pk)


def test_a_key_of_another_request_is_a_conflict(stack: Stack, ada: Person) -> None:
    key = str(uuid.uuid4())
    with client_of(stack, ada) as client:
        first = client.query(PROMPT, model="steady", idempotency_key=key)
        assert client.query(PROMPT, model="steady", idempotency_key=key) == first
        with pytest.raises(Conflict):
            client.query("Something else", model="steady", idempotency_key=key)
    assert ada.used() == 1


def test_a_router_that_is_not_there_is_unreachable() -> None:
    with PrivateInferenceClient("http://127.0.0.1:9", token="t", retries=1) as client, pytest.raises(RouterUnreachable):
        client.query(PROMPT)


def test_something_that_is_no_router_is_unreachable_too(stack: Stack) -> None:
    with PrivateInferenceClient(stack.backend.url, token="t", retries=0) as client, pytest.raises(RouterUnreachable):
        client.query(PROMPT)


# --- connections that break ---------------------------------------------------------------------------------------
def test_a_connection_lost_after_sending_is_repeated_and_charged_once(stack: Stack, ada: Person) -> None:
    calls = stack.backend.calls["steady"]
    with (
        BreakingProxy(stack.port, asked=b"idempotency_key") as proxy,
        client_of(stack, ada, router_endpoint=proxy.url) as client,
    ):
        response = client.query(PROMPT, model="steady")
    assert proxy.left < 1
    assert response.text == ANSWER
    assert stack.backend.calls["steady"] == calls + 1
    assert ada.used() == 1


def test_a_stream_that_breaks_off_is_completed(stack: Stack, ada: Person) -> None:
    with (
        BreakingProxy(stack.port, answered=WORDS[0].encode()) as proxy,
        client_of(stack, ada, router_endpoint=proxy.url) as client,
    ):
        stream = client.query(PROMPT, model="gated", stream=True)
        texts = []
        for text in stream:
            texts.append(text)
            stack.backend.gate.set()
    assert proxy.left < 1
    assert len(texts) > 1
    assert "".join(texts) == stream.response.text == ANSWER
    assert ada.used() == 1


def test_a_connection_that_always_breaks_is_given_up_with_the_key(stack: Stack, ada: Person) -> None:
    with (
        BreakingProxy(stack.port, asked=b"idempotency_key", times=99) as proxy,
        client_of(stack, ada, router_endpoint=proxy.url, retries=1) as client,
        pytest.raises(RouterUnreachable) as failed,
    ):
        client.query(PROMPT, model="steady")
    key = failed.value.details["idempotency_key"]
    with client_of(stack, ada) as client:
        assert client.query(PROMPT, model="steady", idempotency_key=key).text == ANSWER
    assert ada.used() == 1


# --- streams ------------------------------------------------------------------------------------------------------
def test_a_stream_gives_text_as_it_comes_and_then_the_response(stack: Stack, ada: Person) -> None:
    with client_of(stack, ada) as client:
        stream = client.query(PROMPT, 0.5, model="steady", stream=True)
        assert list(stream) == list(WORDS)
        assert (stream.response.text, stream.response.privacy_cost) == (ANSWER, 0.0)
        whole = client.query(PROMPT, model="steady", stream=True)
        assert whole.response.text == ANSWER


def test_a_stream_that_dies_raises_and_has_no_response(stack: Stack, ada: Person) -> None:
    with client_of(stack, ada) as client:
        stream = client.query(PROMPT, model="dying", stream=True)
        texts = []
        with pytest.raises(NodeUnavailable) as failed:
            for text in stream:
                texts.append(text)
        assert texts == [WORDS[0]]
        assert failed.value.charged is True
        with pytest.raises(RouterError):
            _ = stream.response


def test_the_asynchronous_client_does_the_same(stack: Stack, ada: Person) -> None:
    async def talk() -> tuple[str, list[str], str, bool]:
        async with AsyncPrivateInferenceClient(stack.url, token=ada.token) as client:
            answers = await asyncio.gather(*(client.query(PROMPT, 0.5, model="steady") for _ in range(3)))
            stream = client.stream(PROMPT, model="steady")
            texts = [text async for text in stream]
            last = await stream.response()
            with pytest.raises(NotFound):
                await client.query(PROMPT, model="gpt-9")
            with pytest.raises(NodeUnavailable):
                async for _ in client.stream(PROMPT, model="dying"):
                    pass
            return answers[0].text, texts, last.text, all(answer.text == ANSWER for answer in answers)

    assert asyncio.run(talk()) == (ANSWER, list(WORDS), ANSWER, True)


def test_the_asynchronous_client_completes_a_broken_stream(stack: Stack, ada: Person) -> None:
    async def talk(url: str) -> str:
        async with AsyncPrivateInferenceClient(url, token=ada.token) as client:
            stack.backend.gate.set()
            return "".join([text async for text in client.stream(PROMPT, model="gated")])

    with BreakingProxy(stack.port, answered=WORDS[0].encode()) as proxy:
        assert asyncio.run(talk(proxy.url)) == ANSWER
    assert proxy.left < 1
    assert ada.used() == 1


# --- errors as such -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"error": {"code": "block_exhausted", "message": "No."}}, 402, PrivacyBudgetExceeded),
        ({"error": {"code": "node_failed", "message": "No."}}, None, NodeUnavailable),
        ({"error": {"code": "cancelled", "message": "No."}}, None, RouterError),
        ({"code": "policy_denied", "title": "No.", "details": {"a": 1}}, 403, PolicyDenied),
        ({"error": "teapot"}, 418, RouterError),
        ([], 500, RouterError),
        (None, None, RouterError),
    ],
)
def test_any_body_becomes_an_error(body: Any, status: int | None, kind: type[RouterError]) -> None:
    error = errors.from_body(body, status)
    assert type(error) is kind
    assert error.message
    assert json.dumps(error.details)


def test_a_blocks_refusal_names_the_block_as_its_scope() -> None:
    error = errors.from_body({"error": {"code": "block_exhausted", "message": "No."}}, 402)
    assert isinstance(error, PrivacyBudgetExceeded)
    assert (error.scope, error.suggestions) == ("block", [])


def test_offers_are_all_that_would_do_and_suggestions_those_of_the_same_request() -> None:
    offers = [{"epsilon": 2.0}, {"kind": "cohort.count", "epsilon": 0.3}, {"request_budget": "/budget"}]
    details = {"try": offers, "retry_after": 90, "scope": "user"}
    error = errors.from_body({"error": {"code": "quota_spent", "message": "No.", "details": details}}, 429)
    assert isinstance(error, PrivacyBudgetExceeded)
    assert (error.offers, error.suggestions, error.retry_after) == (offers, [{"epsilon": 2.0}], 90)
    bare = errors.from_body({"error": {"code": "push_too_small", "message": "No."}}, 422)
    assert (bare.offers, bare.retry_after) == ([], None)


COUNTING = "How many patients coughed?"


@pytest.mark.parametrize(("bound", "spent"), [(None, 300_000), (9.0, 300_000), (0.2, 200_000)])
def test_the_cheapest_kind_is_chosen_within_the_bound(
    stack: Stack, ada: Person, bound: float | None, spent: int
) -> None:
    with client_of(stack, ada) as client, pytest.raises(NodeUnavailable):
        client.query(COUNTING, bound, kind="cohort", model="steady")
    (row,) = stack.rows(ada)
    assert (row.kind, row.epsilon_micro) == ("cohort.count", spent)


@pytest.mark.parametrize("bound", [None, 0.0, 2.0])
def test_what_is_published_is_asked_at_no_cost_within_any_bound(stack: Stack, ada: Person, bound: float | None) -> None:
    node = rows.node(people.hospital("lakeside", "Lakeside"))
    node.status["releases"] = [{"kind": "cards", "words": ["velorapine"]}]
    node.save()
    try:
        with client_of(stack, ada) as client, pytest.raises(NodeUnavailable):
            client.query("How many patients take velorapine?", bound, kind="cohort", model="steady")
    finally:
        node.delete()
    (row,) = stack.rows(ada)
    assert (row.kind, row.epsilon_micro) == ("cohort.released", 0)


@pytest.mark.parametrize("bound", [None, 2.0])
def test_several_hospitals_are_asked_together_only_if_the_caller_says_so(
    stack: Stack, ada: Person, bound: float | None
) -> None:
    """None with records is in this network, so the router refuses; that it was asked for shows in the refusal."""
    with client_of(stack, ada) as client, pytest.raises(NodeUnavailable, match="At least three hospitals"):
        client.query(COUNTING, bound, kind="cohort.count", across=True, model="steady")
    assert stack.rows(ada) == []


def test_a_spent_allowance_comes_with_offers_and_nothing_is_charged(stack: Stack, ada: Person) -> None:
    ada.exhaust("user_epsilon")
    with client_of(stack, ada) as client, pytest.raises(PrivacyBudgetExceeded) as refused:
        client.query(COUNTING, kind="cohort", model="steady")
    assert refused.value.offers == [{"kind": "general"}, {"request_budget": "/budget"}]
    assert refused.value.retry_after is not None
    assert stack.rows(ada) == []


def test_a_response_says_why_its_kind_was_chosen() -> None:
    privacy = {"kind": "cohort.count", "epsilon": 0.3, "delta": 0.0, "unit": "patient", "adjacency": "swap"}
    privacy |= {"mechanism": "count", "remaining": {"user": 1.0, "department": 1.0, "block": 1.0}, "receipt": None}
    document = {"id": f"chatcmpl-{uuid.uuid4().hex}", "model": "m", "privacy": privacy}
    assert answers.make("About 5.", document, "stop").chosen is None
    why = {"kind": "cohort.count", "why": "The question asks how many."}
    assert answers.make("About 5.", document | {"privacy": privacy | {"chosen": why}}, "stop").chosen == why


def test_responses_do_not_change(stack: Stack, ada: Person) -> None:
    with client_of(stack, ada) as client:
        response = client.query(PROMPT, model="steady")
    with pytest.raises(AttributeError):
        response.text = "x"  # type: ignore[misc]
    assert replace(response, text="x").text == "x"
