"""The patient access report: looking at it and taking it away are each an event, which names nobody in clear."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from django.db import transaction
from django.utils import timezone

from accounts.models import Role
from accounts.principals import Principal
from compliance import access, export
from compliance.subjects import selectors
from compliance.subjects.selectors import Access, Subject
from fdrouter import evidence
from fdrouter.errors import PolicyDenied

COLUMNS = (
    *("at", "user", "name", "role", "department", "hospital", "kind", "purpose", "outcome", "reason", "node"),
    *("in_care_at_the_time", "accounting", "accounting_reason", "request", "events"),
)
LIMITS = (
    "These are the accesses that went through this coordinator. The hospital's node keeps a log of its own, which is "
    "not asked yet: what happened there alone is not in this report.",
    "An attempt that policy refused before it became a request is in the log without the patient it was about.",
    "Answers over many records name no patient. Whether this patient's record was among those that an answer was made "
    "from can never be told, not even to the patient: that is what the privacy guarantee promises. What can be told is "
    "how much such answers have cost a hospital's records as a whole.",
    "The care relation is the one that the coordinator had been told at that time. The node keeps its own and decides.",
)


def may_ask(principal: Principal) -> bool:
    """Officers answer patients. Auditors see that somebody did, in the log, not about whom."""
    return principal.sees_portal and principal.role == Role.PRIVACY_OFFICER


def require_officer(principal: Principal) -> None:
    """Raises:
    NotFound: the portal is not there for this person. PolicyDenied: not an officer; recorded.
    """
    access.reach(principal)
    if may_ask(principal):
        return
    evidence.record(
        evidence.Event(kind="patient.report", outcome="denied", actor_id=principal.user_id, hospital=principal.hospital)
    )
    raise PolicyDenied("Only a privacy officer asks who has used a chart.")


def look(principal: Principal, asked: Subject) -> list[Access]:
    """The report, on the page.

    Raises:
        PolicyDenied: not an officer.
    """
    return _recorded(principal, asked, "patient.report")


def as_csv(principal: Principal, asked: Subject) -> str:
    """The report as a table, safe to open in a spreadsheet.

    Raises:
        PolicyDenied: not an officer.
    """
    found = _recorded(principal, asked, "patient.export", format="csv")
    return export.line(COLUMNS) + "".join(_line(row) for row in found)


def as_json(principal: Principal, asked: Subject) -> str:
    """The report with its limits and the events of each access, times in UTC.

    Raises:
        PolicyDenied: not an officer.
    """
    found = _recorded(principal, asked, "patient.export", format="json")
    document = {
        "hospital": asked.hospital,
        "patient_reference": asked.reference,
        "start": asked.period.start.isoformat(),
        "end": asked.period.end.isoformat(),
        "made_at": _at(timezone.now()),
        "counts": selectors.counts(found),
        "care_relations": [
            {"department": row.department.code, "since": _at(row.since), "ended": row.ended_at and _at(row.ended_at)}
            for row in selectors.relations(asked)
        ],
        "accesses": [asdict(row) for row in found],
        "limits": list(LIMITS),
    }
    return json.dumps(document, default=_spelled, indent=1, ensure_ascii=False)


def _recorded(principal: Principal, asked: Subject, kind: str, **details: str) -> list[Access]:
    require_officer(principal)
    with transaction.atomic():
        found = selectors.accesses(asked)
        covered = {"start": asked.period.start.isoformat(), "end": asked.period.end.isoformat()}
        evidence.record(
            evidence.Event(
                kind=kind,
                actor_id=principal.user_id,
                hospital=asked.hospital,
                purpose="PATRQT",
                details={"rows": len(found), **covered, **details},
                private={"patient_reference": asked.reference},
            )
        )
    return found


def _at(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="seconds")


def _spelled(value: Any) -> str:
    return _at(value) if isinstance(value, datetime) else str(value)


def _line(row: Access) -> str:
    return export.line(
        (
            *(_at(row.at), row.username, row.name, row.role, row.department, row.hospital, row.kind, row.purpose),
            *(row.outcome, row.reason, row.node, "yes" if row.in_care else "no"),
            *("counts" if row.accounting.owed else "exempt", row.accounting.reason, row.request),
            " ".join(str(step.seq) for step in row.steps),
        )
    )


FORMATS: dict[str, tuple[str, Callable[[Principal, Subject], str]]] = {
    "csv": ("text/csv; charset=utf-8", as_csv),
    "json": ("application/json", as_json),
}
