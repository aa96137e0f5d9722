"""The lean handler itself: faults that leak nothing, floods that are cut off, callers that are gone."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any

import psycopg
import pytest
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse
from django.urls import URLResolver, path
from django.urls.resolvers import RegexPattern

from fdrouter.errors import DomainError, QuotaSpent
from federation.api import openai
from federation.api.lean import LeanHandler

SECRET = "patient 17 of ward 3"
SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "POST",
    "path": "/v1/probe",
    "query_string": b"",
    "headers": [],
}
View = Callable[[HttpRequest], Any]


def handler(view: View) -> LeanHandler:
    found = LeanHandler()
    found._resolver = URLResolver(RegexPattern(r"^/"), [path("v1/probe", view)])
    return found


async def call(lean: LeanHandler, *parts: bytes, leave: bool = False) -> tuple[int | None, bytes, dict[str, str], int]:
    """Status, body and headers of the answer, and how many parts of the body were read."""
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": part, "more_body": leave or n < len(parts)}
        for n, part in enumerate(parts or (b"",), start=1)
    ]
    messages.append({"type": "http.disconnect"})
    sent: list[Mapping[str, Any]] = []
    read = 0

    async def receive() -> dict[str, Any]:
        nonlocal read
        read += 1
        return messages.pop(0)

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    await lean(SCOPE, receive, send)
    if not sent:
        return None, b"", {}, read
    headers = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]), headers, read


async def echo(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(len(request.body)))


async def test_a_fault_becomes_a_500_that_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(request: HttpRequest) -> HttpResponse:
        raise ZeroDivisionError(SECRET)

    with caplog.at_level(logging.ERROR):
        status, body, headers, _ = await call(handler(broken))
    assert status == 500
    assert SECRET.encode() not in body
    assert json.loads(body)["error"]["code"] == "internal_error"
    assert headers["x-content-type-options"] == "nosniff"
    (record,) = [record for record in caplog.records if record.name == "federation.api.lean"]
    assert record.__dict__["reason"] == "ZeroDivisionError"
    from fdrouter.logs import JsonFormatter

    assert SECRET not in JsonFormatter().format(record)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (OperationalError(SECRET), 503, "dependency_unavailable"),
        (psycopg.OperationalError(SECRET), 503, "dependency_unavailable"),
        (psycopg.InterfaceError(SECRET), 503, "dependency_unavailable"),
        (RecursionError(SECRET), 422, "invalid_parameter"),
        (QuotaSpent(scope="user"), 429, "quota_spent"),
        (DomainError(), 500, "domain_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
async def test_what_is_known_has_its_own_status(error: Exception, status: int, code: str) -> None:
    async def failing(request: HttpRequest) -> HttpResponse:
        raise error

    found, body, _, _ = await call(handler(failing))
    assert (found, json.loads(body)["error"]["code"]) == (status, code)
    assert SECRET.encode() not in body


async def test_a_body_up_to_the_limit_is_read_whole() -> None:
    half = b"a" * (openai.MAX_BODY_BYTES // 2)
    status, body, _, _ = await call(handler(echo), half, half)
    assert (status, body) == (200, str(openai.MAX_BODY_BYTES).encode())


async def test_one_byte_more_is_too_large() -> None:
    status, body, _, _ = await call(handler(echo), b"a" * openai.MAX_BODY_BYTES, b"a")
    assert (status, json.loads(body)["error"]["code"]) == (413, "payload_too_large")


async def test_a_flood_is_cut_off_before_its_end() -> None:
    parts = [b"a" * 1024 * 1024] * 50
    status, _, _, read = await call(handler(echo), *parts)
    assert status == 413
    assert read < 12


async def test_a_caller_that_leaves_while_sending_gets_no_answer() -> None:
    assert (await call(handler(echo), b"a", leave=True))[0] is None


async def test_an_address_that_is_not_there_is_told_in_the_same_shape() -> None:
    lean = LeanHandler()
    status, body, _, _ = await call(lean)
    assert (status, json.loads(body)["error"]["code"]) == (404, "not_found")
