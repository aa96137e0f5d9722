"""The only place where errors become HTTP: RFC 9457 problem details, and OpenAI's error shape under ``/v1``."""

from __future__ import annotations

import logging
from typing import Any

import django.db
import msgspec
import psycopg
from django.http import HttpResponse
from rest_framework.exceptions import APIException, AuthenticationFailed, NotAuthenticated
from rest_framework.renderers import JSONRenderer
from rest_framework.response import Response
from rest_framework.views import exception_handler as drf_exception_handler
from rest_framework.views import set_rollback

from fdrouter import errors

log = logging.getLogger(__name__)

# Django's own, and those of the connections that the request path holds beside Django's.
_UNREACHABLE = (
    django.db.OperationalError,
    django.db.InterfaceError,
    psycopg.OperationalError,
    psycopg.InterfaceError,
)

STATUS: dict[type[errors.DomainError], int] = {
    errors.InvalidParameter: 422,
    errors.PayloadTooLarge: 413,
    errors.UnknownModel: 404,
    errors.Unauthenticated: 401,
    errors.PolicyDenied: 403,
    errors.NotFound: 404,
    errors.NothingReleased: 404,
    errors.Conflict: 409,
    errors.IdempotencyConflict: 409,
    errors.Cancelled: 409,
    errors.QuotaSpent: 429,
    errors.BlockExhausted: 402,
    errors.ClaimMissing: 503,
    errors.PushTooSmall: 422,
    errors.NoNode: 503,
    errors.NodeFailed: 502,
    errors.NodeTimeout: 504,
    errors.DependencyUnavailable: 503,
}
_OPENAI_TYPES = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    429: "rate_limit_error",
}
_encode = msgspec.json.Encoder().encode


def status_of(error: errors.DomainError) -> int:
    """The HTTP status of an error: that of its nearest listed class, 500 for an unlisted one."""
    return next((STATUS[cls] for cls in type(error).__mro__ if cls in STATUS), 500)


def as_domain_error(error: Exception) -> errors.DomainError | None:
    """The error itself, or what it means to a caller; ``None`` for a fault of ours."""
    if isinstance(error, errors.DomainError):
        return error
    if isinstance(error, _UNREACHABLE):
        return errors.DependencyUnavailable()
    if isinstance(error, RecursionError):  # no document of ours is nested that deep
        return errors.InvalidParameter("The body is nested too deep.", field="body")
    return None


def problem(error: errors.DomainError) -> dict[str, Any]:
    """RFC 9457 problem details."""
    status = status_of(error)
    return {
        "type": f"urn:fdrouter:problem:{error.code}",
        "title": error.message,
        "status": status,
        "code": error.code,
        "details": dict(error.details),
    }


def openai_error(error: errors.DomainError) -> dict[str, Any]:
    """The body that OpenAI clients expect, with our details beside it."""
    status = status_of(error)
    kind = _OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {
        "error": {
            "message": error.message,
            "type": kind,
            "code": error.code,
            "param": error.details.get("field"),
            "details": dict(error.details),
        }
    }


def openai_response(error: errors.DomainError) -> HttpResponse:
    """The error as a response under ``/v1``."""
    status = status_of(error)
    response = HttpResponse(_encode(openai_error(error)), status=status, content_type="application/json")
    if status == 401:
        response["WWW-Authenticate"] = "Bearer"
    for name, value in waiting(error).items():
        response[name] = value
    return response


def waiting(error: errors.DomainError) -> dict[str, str]:
    """Headers of a refusal that time may cure: when, and that OpenAI's clients need not try before.

    A quota that nobody can say the reset of (or that is too small even when full) has the second one only.
    """
    if not isinstance(error, errors.QuotaSpent):
        return {}
    seconds = error.details.get("retry_after")
    return {"x-should-retry": "false"} | ({"Retry-After": str(seconds)} if isinstance(seconds, int) else {})


def method_not_allowed(*allowed: str) -> HttpResponse:
    """405 in OpenAI's shape."""
    methods = ", ".join(allowed)
    body = {"message": f"Use {methods} here.", "type": "invalid_request_error", "code": "method_not_allowed"}
    data = _encode({"error": {**body, "param": None, "details": {}}})
    return HttpResponse(data, status=405, content_type="application/json", headers={"Allow": methods})


def exception_handler(exc: Exception, context: dict[str, Any]) -> Response:
    """DRF's handler: domain errors become problem details, DRF's own keep their status in the same shape.

    A fault becomes a 500 that says nothing about it; the log gets its type and place.
    """
    if (request := context.get("request")) is not None:
        request.accepted_renderer = JSONRenderer()  # whatever the view gives when all is well
        request.accepted_media_type = JSONRenderer.media_type  # not there yet where nothing that is accepted is given
    if (error := as_domain_error(exc)) is not None:
        set_rollback()
        return _problem_response(problem(error), status_of(error), waiting(error))
    response = drf_exception_handler(exc, context)
    if response is None:
        set_rollback()
        log.error("unhandled error", exc_info=exc, extra={"reason": type(exc).__name__})
        return _problem_response(_bare_problem("internal_error", "Something went wrong."), 500)
    if isinstance(exc, NotAuthenticated | AuthenticationFailed):
        body = problem(errors.Unauthenticated())
    else:
        code = exc.default_code if isinstance(exc, APIException) else "not_found"
        detail = getattr(exc, "detail", "Not found.")
        title = detail if isinstance(detail, str) else errors.InvalidParameter.default_message
        body = _bare_problem(code, title[:300], response.data if isinstance(response.data, dict) else {})
    return _problem_response(body, response.status_code, dict(response.headers))


def _bare_problem(code: str, title: str, details: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"type": f"urn:fdrouter:problem:{code}", "title": title, "code": code, "details": details or {}}


def _problem_response(body: dict[str, Any], status: int, headers: dict[str, str] | None = None) -> Response:
    kept = {name: value for name, value in (headers or {}).items() if name.lower() != "content-type"}
    return Response(body | {"status": status}, status, headers=kept, content_type="application/problem+json")
