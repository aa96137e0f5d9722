"""``/fhir``: AuditEvent for officers and auditors, Provenance for who asked. Parse, call one service, render."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_safe
from drf_spectacular.utils import extend_schema
from rest_framework.authentication import SessionAuthentication
from rest_framework.permissions import AllowAny
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import principals
from accounts.principals import Principal
from accounts.tokens import TokenAuthentication
from compliance import access
from compliance.fhir import audit, provenance, resources, search
from fdrouter import api
from fdrouter.errors import InvalidParameter, NotFound

BAD_REQUEST = 400


class AuditToken(TokenAuthentication):
    """Tokens of officers and auditors, also those that are for this alone."""

    scope = resources.AUDIT_SCOPE


class ProvenanceToken(TokenAuthentication):
    """Tokens of people who ask, also those that are for this alone."""

    scope = resources.PROVENANCE_SCOPE


class FhirRenderer(JSONRenderer):
    """JSON by FHIR's name."""

    media_type = resources.CONTENT_TYPE
    charset = "utf-8"


class PlainRenderer(JSONRenderer):
    """The same for who asks for ``application/json``: R4 answers both as FHIR."""

    charset = "utf-8"


class FhirView(APIView):
    """Answers and errors as FHIR resources."""

    renderer_classes = (FhirRenderer, PlainRenderer)

    def get_exception_handler(self) -> Callable[[Exception, dict[str, Any]], Response]:
        return _outcome

    def finalize_response(self, request: Request, response: Any, *args: Any, **kwargs: Any) -> Any:
        response = super().finalize_response(request, response, *args, **kwargs)
        response["Cache-Control"] = "no-store"
        return response


def _outcome(exc: Exception, context: dict[str, Any]) -> Response:
    response = api.exception_handler(exc, context)
    body = resources.operation_outcome(response.data)
    # R4 says 400 where a search parameter is wrong; elsewhere our API says 422.
    response.status_code = BAD_REQUEST if isinstance(exc, InvalidParameter) else response.status_code
    response.data, response.content_type = body, resources.CONTENT_TYPE
    return response


def principal_of(request: Request) -> Principal:
    """The acting person, from a token or a session."""
    if isinstance(request.auth, Principal):
        return request.auth
    return principals.for_user(request.user.pk or 0)


@extend_schema(exclude=True)
class Metadata(FhirView):
    """What this server can do; open to all, as R4 has it."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    def get(self, request: Request) -> Response:
        return Response(resources.capability_statement())


@extend_schema(exclude=True)
class AuditEvents(FhirView):
    """Search. What was found is on record before it is sent."""

    authentication_classes = (AuditToken, SessionAuthentication)

    def get(self, request: Request) -> Response:
        principal = principal_of(request)
        access.reach(principal)
        asked = search.parse(dict(request.query_params.lists()))
        with transaction.atomic():
            page = search.page(principal, asked)
            found = audit.resources(page.events)
            audit.record_search(principal, asked, len(page.events))
        return Response(resources.bundle(asked, page, found))


@extend_schema(exclude=True)
class AuditEvent(FhirView):
    """One event by its number."""

    authentication_classes = (AuditToken, SessionAuthentication)

    def get(self, request: Request, seq: int) -> Response:
        principal = principal_of(request)
        with transaction.atomic():
            found = audit.get(principal, seq)
            audit.record_read(principal, f"AuditEvent/{seq}")
        response = Response(found)
        response["ETag"] = 'W/"1"'
        return response


@extend_schema(exclude=True)
class Provenances(FhirView):
    """Where an answer comes from: of one target, for the person who asked."""

    authentication_classes = (ProvenanceToken, SessionAuthentication)

    def get(self, request: Request) -> Response:
        principal = principal_of(request)
        unknown = set(request.query_params) - {"target", "_format"}
        if unknown or not request.query_params.get("target"):
            raise InvalidParameter("Name one target.", field=min(unknown) if unknown else "target")
        with transaction.atomic():
            found = provenance.search(principal, request.query_params["target"])
            audit.record_read(principal, "Provenance", subject=UUID(found["id"]) if found else None)
        return Response(provenance.bundle(request.query_params["target"], found))


@extend_schema(exclude=True)
class Provenance(FhirView):
    """The same by its id, which is the question's."""

    authentication_classes = (ProvenanceToken, SessionAuthentication)

    def get(self, request: Request, request_id: UUID) -> Response:
        principal = principal_of(request)
        with transaction.atomic():
            found = provenance.get(principal, request_id)
            audit.record_read(principal, f"Provenance/{request_id}", subject=request_id)
        return Response(found)


@extend_schema(exclude=True)
class Unknown(FhirView):
    """Every other address under ``/fhir``: there is no such resource, whoever asks."""

    authentication_classes = ()
    permission_classes = (AllowAny,)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        raise NotFound("There is no such resource here.")


@require_safe
def smart_configuration(request: HttpRequest) -> JsonResponse:
    """``/.well-known/smart-configuration`` and the same under ``/fhir``."""
    return JsonResponse(resources.smart_configuration())
