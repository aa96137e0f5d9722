"""Findings, cases and flagged patients within the reach of who asks. Nobody sees what is about themselves."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db.models import Count, F, OuterRef, Q, QuerySet, Subquery
from django.utils import timezone

from accounts.models import User
from accounts.principals import Principal
from compliance import access
from compliance.anomalies.models import (
    CASE_WAITING,
    AnomalyCase,
    AnomalyCursor,
    AnomalyFinding,
    CaseState,
    WatchedPatient,
)
from compliance.models import Event
from compliance.period import Period
from federation.models import Inference

FINDING_STATES = {"waiting": "In no case", "working": "In a case", "decided": "Decided", "closed": "Closed"}
FINDING_SORTS = {
    "time": "start",
    "rule": "rule",
    "person": "person__username",
    "department": "department",
    "hospital": "hospital",
    "patient": "patient_reference",
    "score": "score",
    "rows": "weight",
    "state": "case__state",
    "sentence": "sentence",
}
CASE_SORTS = {
    "due": "due_at",
    "opened": "opened_at",
    "person": "person__username",
    "hospital": "hospital",
    "state": "state",
    "assignee": "assignee__username",
    "decision": "decision",
    "findings": "linked",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class FindingFilter:
    """What the page may narrow by; empty values do not narrow."""

    period: Period | None = None
    hospital: str = ""
    rule: str = ""
    person: str = ""
    state: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFilter:
    """As of findings; ``state`` may also be ``overdue`` or ``waiting``."""

    hospital: str = ""
    person: str = ""
    state: str = ""
    assignee: str = ""


def visible_findings(principal: Principal, hospital: str | None = None) -> QuerySet[AnomalyFinding]:
    """Findings about the people of the hospitals within reach."""
    within = access.reach(principal, hospital)
    rows = AnomalyFinding.objects.exclude(person_id=principal.user_id)
    return rows if within is None else rows.filter(hospital=within)


def findings(principal: Principal, chosen: FindingFilter, sort: str = "-time") -> QuerySet[AnomalyFinding]:
    """The rows of the page, with person and case."""
    rows = visible_findings(principal, chosen.hospital).select_related("person", "case")
    if chosen.period is not None:
        begin, end = chosen.period.bounds
        rows = rows.filter(start__gte=begin, start__lt=end)
    if chosen.rule:
        rows = rows.filter(rule=chosen.rule)
    if chosen.person:
        rows = rows.filter(person__username__icontains=chosen.person)
    states = {"working": CASE_WAITING, "decided": [CaseState.DECIDED], "closed": [CaseState.CLOSED]}
    if chosen.state == "waiting":
        rows = rows.filter(case=None)
    elif chosen.state:
        rows = rows.filter(case__state__in=states[chosen.state])
    return rows.order_by(*_order(sort, FINDING_SORTS), F("start").desc(), F("score").desc(), "pk")


def rule_counts(principal: Principal, chosen: FindingFilter) -> dict[str, int]:
    """How many of the chosen findings each rule has."""
    rows = findings(principal, chosen).order_by()
    return dict(rows.values_list("rule").annotate(n=Count("pk")).order_by("rule"))


def visible_cases(principal: Principal, hospital: str | None = None) -> QuerySet[AnomalyCase]:
    """Cases of the hospitals within reach; those of the network are the network's."""
    within = access.reach(principal, hospital)
    rows = AnomalyCase.objects.exclude(person_id=principal.user_id)
    return rows if within is None else rows.filter(hospital=within)


def cases(principal: Principal, chosen: CaseFilter, sort: str = "due") -> QuerySet[AnomalyCase]:
    """The rows of the page: ``linked`` is how many findings a case has."""
    rows = visible_cases(principal, chosen.hospital).select_related("person", "assignee", "opened_by", "decided_by")
    rows = rows.annotate(linked=Count("findings"))
    if chosen.state == "overdue":
        rows = rows.filter(state__in=CASE_WAITING, due_at__lt=timezone.now())
    elif chosen.state == "waiting":
        rows = rows.filter(state__in=CASE_WAITING)
    elif chosen.state:
        rows = rows.filter(state=chosen.state)
    if chosen.person:
        rows = rows.filter(person__username__icontains=chosen.person)
    if chosen.assignee:
        rows = rows.filter(assignee__username__icontains=chosen.assignee)
    return rows.order_by(*_order(sort, CASE_SORTS), "due_at", "pk")


def _order(sort: str, allowed: dict[str, str]) -> list[Any]:
    column = F(allowed[sort.removeprefix("-")])
    return [column.desc(nulls_last=True) if sort.startswith("-") else column.asc(nulls_last=True)]


@dataclass(frozen=True, slots=True)
class Queue:
    """What waits for a person: cases by their clock, oldest first, and findings that no case has."""

    cases: list[AnomalyCase]
    waiting: int
    overdue: int
    findings: int
    looked_at: datetime | None


def queue(principal: Principal, rows: int = 8) -> Queue:
    """The review queue of the Today page."""
    waiting = cases(principal, CaseFilter(state="waiting"))
    return Queue(
        cases=list(waiting[:rows]),
        waiting=waiting.count(),
        overdue=cases(principal, CaseFilter(state="overdue")).count(),
        findings=visible_findings(principal).filter(case=None).count(),
        looked_at=looked_at(),
    )


def looked_at() -> datetime | None:
    """Until when the rules have looked at rows; ``None``: never."""
    return AnomalyCursor.objects.values_list("upto", flat=True).first()


def timeline(principal: Principal, case: AnomalyCase) -> QuerySet[Event]:
    """The steps of a visible case as the log has them, oldest first, ``actor`` with each. Reads are left out."""
    name = User.objects.filter(pk=OuterRef("actor_id")).values("username")[:1]
    rows = Event.objects.filter(subject=case.pk, kind="anomaly.case").exclude(outcome="read")
    return rows.annotate(actor=Subquery(name)).order_by("seq")


def linkable(principal: Principal, case: AnomalyCase) -> QuerySet[AnomalyFinding]:
    """Findings about the same person that no case has."""
    if case.person_id is None:
        return AnomalyFinding.objects.none()
    rows = visible_findings(principal).filter(case=None, person=case.person_id, hospital=case.hospital)
    return rows.order_by("-start", "-score", "pk")


def linked_requests(findings: list[AnomalyFinding], limit: int) -> QuerySet[Inference]:
    """The requests that findings rest on, without contents, newest first."""
    keys: set[UUID] = {key for row in findings for key in row.requests}
    rows = Inference.objects.filter(pk__in=keys).select_related("user", "node").defer("request", "answer", "receipt")
    return rows.order_by("-created_at", "pk")[:limit]


def linked_events(findings: list[AnomalyFinding], limit: int) -> QuerySet[Event]:
    """The events that findings rest on, newest first."""
    return Event.objects.filter(seq__in={seq for row in findings for seq in row.seqs}).order_by("-seq")[:limit]


def watched(principal: Principal) -> QuerySet[WatchedPatient]:
    """Flagged patients of the hospitals within reach; a person's own flag is not shown to them."""
    within = access.reach(principal)
    rows = WatchedPatient.objects.filter(removed_at=None).select_related("user", "added_by")
    rows = rows.filter(~Q(user=principal.user_id) | Q(user=None)).order_by("hospital", "patient_reference", "kind")
    return rows if within is None else rows.filter(hospital=within)
