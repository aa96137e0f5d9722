"""Calls of ``/fhir`` with tokens, and people's tokens, for its tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.test import Client

from accounts import principals
from accounts.models import Membership, User


def token(user: User, scopes: Iterable[str] = ()) -> str:
    return principals.issue_token(Membership.objects.get(user=user, active=True), "siem", scopes)


def get(path: str, bearer: str | None, **parameters: Any) -> Any:
    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
    return Client().get(f"/fhir/{path}", parameters, headers=headers)


def found(path: str, bearer: str, **parameters: Any) -> Any:
    """The body of an answer that must be well."""
    response = get(path, bearer, **parameters)
    assert response.status_code == 200, response.content
    assert response.headers["Content-Type"].startswith("application/fhir+json")
    return response.json()


def events(bearer: str, **parameters: Any) -> list[dict[str, Any]]:
    """The resources of a search's page."""
    return [entry["resource"] for entry in found("AuditEvent", bearer, **parameters).get("entry", [])]
