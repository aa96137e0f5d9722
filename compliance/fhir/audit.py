"""The evidence log read as AuditEvent, and the evidence of reading it."""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from accounts.principals import Principal
from compliance import selectors
from compliance.fhir import mapping
from compliance.fhir.mapping import Resource
from compliance.fhir.search import Search
from compliance.models import Event
from compliance.selectors import EventFilter
from fdrouter.errors import NotFound
from fdrouter.evidence import Event as Evidence
from fdrouter.evidence import record
from federation.models import Inference


def resources(events: Iterable[Event]) -> list[Resource]:
    """The events as AuditEvent; a chart request names its patient by the hospital's own reference."""
    found = list(events)
    charts = [
        event.subject for event in found if event.kind == "request.submit" and event.details.get("kind") == "chart"
    ]
    rows = Inference.objects.filter(pk__in=[key for key in charts if key]) if charts else Inference.objects.none()
    patients = dict(rows.values_list("pk", "patient_reference"))
    return [
        mapping.audit_event(
            event,
            username=getattr(event, "actor", None),
            patient=patients.get(event.subject, "") if event.subject else "",
        )
        for event in found
    ]


def get(principal: Principal, seq: int) -> Resource:
    """One event.

    Raises:
        NotFound: there is none of this number within reach, or the person has no part in the evidence.
    """
    event = selectors.events(principal, EventFilter()).defer("sealed", "commitment").filter(seq=seq).first()
    if event is None:
        raise NotFound
    return resources([event])[0]


def record_search(principal: Principal, search: Search, found: int) -> None:
    """Writes that somebody searched: the parameters as they were understood and how many rows were sent."""
    query = search.query()
    line = f"GET /fhir/AuditEvent?{query}" if query else "GET /fhir/AuditEvent"
    _record(principal, "fhir.search", query=line, rows=found)


def record_read(principal: Principal, resource: str, subject: UUID | None = None) -> None:
    """Writes that somebody read one resource."""
    _record(principal, "fhir.read", subject, resource=resource)


def _record(principal: Principal, kind: str, subject: UUID | None = None, **details: str | int) -> None:
    record(
        Evidence(
            kind=kind,
            actor_id=principal.user_id,
            subject=subject,
            hospital=principal.hospital,
            department=principal.department,
            details=details,
        )
    )
