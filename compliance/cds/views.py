"""``/cds-services``: discovery, the card, and its feedback. Parse, authenticate, call one service, render."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path, reverse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST, require_safe

from compliance.cds import hooks
from compliance.fhir import resources
from fdrouter import api
from fdrouter.errors import DomainError, InvalidParameter


def _outcomes(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
    """Errors as OperationOutcome, which CDS clients read."""

    @wraps(view)
    def answered(request: HttpRequest) -> HttpResponse:
        try:
            return view(request)
        except DomainError as error:
            problem = api.problem(error)
            status = 400 if isinstance(error, InvalidParameter) else int(problem["status"])
            response = JsonResponse(resources.operation_outcome(problem | {"status": status}), status=status)
            if status == 401:
                response["WWW-Authenticate"] = "Bearer"
            return response

    return answered


def _client(request: HttpRequest) -> hooks.Client:
    return hooks.authenticate(request.headers.get("Authorization", ""), resources.absolute(request.path))


def _body(request: HttpRequest) -> Any:
    try:
        return json.loads(request.body)
    except (ValueError, RecursionError):
        raise InvalidParameter("The body is not JSON.", field="body") from None


@require_safe
def services(request: HttpRequest) -> HttpResponse:
    """What is offered; open to all, as it tells nothing of anybody."""
    return JsonResponse(hooks.discovery())


@csrf_exempt
@require_POST
@_outcomes
def call(request: HttpRequest) -> HttpResponse:
    """The card."""
    client = _client(request)
    address = resources.absolute(reverse("federation:ask"))
    response = JsonResponse(hooks.card(client, _body(request), address))
    response["Cache-Control"] = "no-store"
    return response


@csrf_exempt
@require_POST
@_outcomes
def feedback(request: HttpRequest) -> HttpResponse:
    """What became of a card."""
    client = _client(request)
    hooks.feedback(client, _body(request))
    return JsonResponse({})


urlpatterns = [
    path("cds-services", services, name="cds-services"),
    path(f"cds-services/{hooks.SERVICE}", call, name="cds-call"),
    path(f"cds-services/{hooks.SERVICE}/feedback", feedback, name="cds-feedback"),
]
