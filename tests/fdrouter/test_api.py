"""Errors as HTTP: one status a code, problem details under /api, OpenAI's shape under /v1."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from rest_framework import exceptions

from fdrouter import api, errors


def every_error(root: type[errors.DomainError] = errors.DomainError) -> list[type[errors.DomainError]]:
    return [root, *(found for child in root.__subclasses__() for found in every_error(child))]


# A node's own subclasses stay at the node: what leaves it has a code of this tree or is a failure of the node.
CONCRETE = [e for e in every_error() if e is not errors.DomainError and e.__module__ == errors.__name__]


@pytest.mark.parametrize("error", CONCRETE, ids=lambda error: error.__name__)
def test_every_error_has_a_status_of_its_own_and_a_plain_sentence(error: type[errors.DomainError]) -> None:
    assert api.status_of(error()) in range(400, 600)
    assert error.default_message.endswith(".")
    assert api.problem(error())["code"] == error.code


def test_codes_are_unique() -> None:
    codes = [error.code for error in CONCRETE]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidParameter, 422),
        (errors.PushTooSmall, 422),
        (errors.Unauthenticated, 401),
        (errors.PolicyDenied, 403),
        (errors.BlockExhausted, 402),
        (errors.QuotaSpent, 429),
        (errors.NotFound, 404),
        (errors.UnknownModel, 404),
        (errors.IdempotencyConflict, 409),
        (errors.PayloadTooLarge, 413),
        (errors.NoNode, 503),
        (errors.NodeFailed, 502),
        (errors.NodeTimeout, 504),
        (errors.DependencyUnavailable, 503),
        (errors.DomainError, 500),
    ],
)
def test_statuses(error: type[errors.DomainError], status: int) -> None:
    assert api.status_of(error()) == status


def test_an_unlisted_error_takes_the_status_of_its_parent() -> None:
    class Sub(errors.QuotaSpent):
        code = "sub"

    assert api.status_of(Sub()) == 429


@pytest.mark.parametrize("error", CONCRETE, ids=lambda error: error.__name__)
def test_a_stored_code_becomes_its_error_again(error: type[errors.DomainError]) -> None:
    found = errors.from_code(error.code, "Said so.", {"scope": "user"})
    assert type(found) is error
    assert (found.message, dict(found.details)) == ("Said so.", {"scope": "user"})


@pytest.mark.parametrize("code", ["", "nonsense", "domain_error", "__init__"])
def test_an_unknown_code_is_a_failure_of_the_node(code: str) -> None:
    assert type(errors.from_code(code)) is errors.NodeFailed


@pytest.mark.parametrize("name", ["message", "self", "code", "details"])
def test_details_that_a_node_names_cannot_break_the_error(name: str) -> None:
    found = errors.from_code("node_failed", "Said so.", {name: "x"})
    assert (found.message, dict(found.details)) == ("Said so.", {name: "x"})


def test_openai_shape() -> None:
    error = errors.InvalidParameter("Bad.", field="privacy.epsilon", low=0)
    response = api.openai_response(error)
    assert (response.status_code, response["Content-Type"]) == (422, "application/json")
    assert json.loads(response.content) == {
        "error": {
            "message": "Bad.",
            "type": "invalid_request_error",
            "code": "invalid_parameter",
            "param": "privacy.epsilon",
            "details": {"field": "privacy.epsilon", "low": 0},
        }
    }


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.Unauthenticated, "authentication_error"),
        (errors.PolicyDenied, "permission_error"),
        (errors.QuotaSpent, "rate_limit_error"),
        (errors.BlockExhausted, "insufficient_quota"),
        (errors.NotFound, "invalid_request_error"),
        (errors.NodeFailed, "server_error"),
    ],
)
def test_openai_types(error: type[errors.DomainError], kind: str) -> None:
    assert api.openai_error(error())["error"]["type"] == kind


def test_an_unauthenticated_answer_says_how_to_authenticate() -> None:
    assert api.openai_response(errors.Unauthenticated())["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.QuotaSpent(scope="user"), 429, "quota_spent"),
        (exceptions.NotAuthenticated(), 401, "unauthenticated"),
        (exceptions.ParseError(), 400, "parse_error"),
        (exceptions.MethodNotAllowed("PUT"), 405, "method_not_allowed"),
        (exceptions.ValidationError({"kind": ["wrong"]}), 400, "invalid"),
        (psycopg.OperationalError("password=hunter2"), 503, "dependency_unavailable"),
        (ZeroDivisionError("the patient's name"), 500, "internal_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
@pytest.mark.django_db
def test_rest_errors_are_problem_details(error: Exception, status: int, code: str) -> None:
    response = api.exception_handler(error, {})
    assert response is not None
    body: dict[str, Any] = response.data
    assert (response.status_code, body["status"], body["code"]) == (status, status, code)
    assert response.content_type == "application/problem+json"
    assert set(body) == {"type", "title", "status", "code", "details"}
    assert "hunter2" not in json.dumps(body) and "patient" not in json.dumps(body)
