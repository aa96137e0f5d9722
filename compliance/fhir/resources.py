"""Bundles, errors and the statements of what is offered, as FHIR R4 and SMART describe them."""

from __future__ import annotations

import uuid
from typing import Any

from django.conf import settings
from django.urls import reverse
from django.utils import timezone

from compliance.fhir import mapping
from compliance.fhir.mapping import Resource
from compliance.fhir.search import PARAMETERS, Page, Search

CONTENT_TYPE = "application/fhir+json"
AUDIT_SCOPE = "system/AuditEvent.rs"
PROVENANCE_SCOPE = "user/Provenance.rs"

#: R4's ``issue-type`` by HTTP status; others are "processing".
_ISSUES = {400: "invalid", 401: "login", 403: "forbidden", 404: "not-found", 406: "not-supported", 422: "invalid"}
_ISSUES |= {405: "not-supported", 429: "throttled", 500: "exception", 503: "transient"}


def absolute(path: str) -> str:
    """An address of this site as others use it."""
    return settings.BASE_URL.rstrip("/") + path


def bundle(search: Search, page: Page, resources: list[Resource]) -> Resource:
    """A page of a search, with the address of the next one while there is more."""
    address = absolute(reverse("fhir:audit-events"))
    links = [{"relation": "self", "url": _with(address, search.query())}]
    if search.after is not None:
        links.append({"relation": "first", "url": _with(address, _first(search).query())})
    if page.following is not None:
        links.append({"relation": "next", "url": _with(address, search.query(_after=page.following))})
    entries = [
        {"fullUrl": f"{address}/{resource['id']}", "resource": resource, "search": {"mode": "match"}}
        for resource in resources
    ]
    found: Resource = {
        "resourceType": "Bundle",
        "id": str(uuid.uuid4()),
        "type": "searchset",
        "timestamp": mapping.instant(timezone.now()),
        "link": links,
    }
    if page.total is not None:
        found["total"] = page.total
    if entries:
        found["entry"] = entries
    return found


def _first(search: Search) -> Search:
    return Search(where=search.where, given=tuple(pair for pair in search.given if pair[0] != "_after"))


def _with(address: str, query: str) -> str:
    return f"{address}?{query}" if query else address


def operation_outcome(problem: dict[str, Any]) -> Resource:
    """An error. ``problem`` is what RFC 9457 would say: the words are the same everywhere."""
    status = int(problem["status"])
    issue: Resource = {
        "severity": "error" if status < 500 else "fatal",
        "code": _ISSUES.get(status, "processing"),
        "details": {"text": str(problem["title"])},
    }
    if field := problem.get("details", {}).get("field"):
        issue["diagnostics"] = f"parameter: {field}"
    return {"resourceType": "OperationOutcome", "issue": [issue]}


def capability_statement() -> Resource:
    """``GET /fhir/metadata``: what this server answers, and nothing else."""
    parameters = [
        {"name": name, "type": kind, "documentation": words} for name, (kind, words) in sorted(PARAMETERS.items())
    ]
    security = {
        "cors": False,
        "service": [{"text": "Bearer tokens that this site issues"}],
        "description": "Bearer tokens of privacy officers and auditors, who see what their post may see. A token "
        f"may be narrowed to {AUDIT_SCOPE}. There is no OAuth authorization server here.",
    }
    audit: Resource = {
        "type": "AuditEvent",
        "supportedProfile": [mapping.PROFILE + name for name in ("Query", "PatientQuery", "Read")],
        "documentation": "The evidence log. Rows are only ever added; each read is a row itself.",
        "interaction": [{"code": "read"}, {"code": "search-type"}],
        "versioning": "no-version",
        "searchParam": parameters,
    }
    provenance = {
        "type": "Provenance",
        "documentation": "Where an answer comes from, for the person who asked.",
        "interaction": [{"code": "read"}, {"code": "search-type"}],
        "versioning": "no-version",
        "searchParam": [
            {"name": "target", "type": "reference", "documentation": "The question's UUID, as urn:uuid: or alone."}
        ],
    }
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": "2026-11-27",
        "kind": "instance",
        "software": {"name": "fdrouter", "version": settings.SPECTACULAR_SETTINGS["VERSION"]},
        "implementation": {"description": "fdrouter: evidence of requests", "url": absolute("/fhir")},
        "fhirVersion": "4.0.1",
        "format": ["json", CONTENT_TYPE],
        "rest": [{"mode": "server", "security": security, "resource": [audit, provenance]}],
    }


def smart_configuration() -> dict[str, Any]:
    """What of SMART App Launch is offered here: the names of scopes that tokens have, and no flow to get one.

    There is no ``token_endpoint``, so a client that looks for one stops here rather than at a refusal.
    """
    return {
        "scopes_supported": [AUDIT_SCOPE, PROVENANCE_SCOPE],
        "grant_types_supported": [],
        "response_types_supported": [],
        "token_endpoint_auth_methods_supported": [],
        "code_challenge_methods_supported": [],
        "capabilities": [],
        "service_documentation": absolute(reverse("fhir:metadata")),
    }
