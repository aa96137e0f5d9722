"""The only writer of reports: request, claim, freeze, finish or fail, download. Each is compare-and-set, with evidence.

A worker holds a row under a lease. When it is killed the lease runs out, and the next attempt renders the same frozen
facts; a late worker's result is refused, because the attempt has moved on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F, Q
from django.utils import timezone

from accounts import principals
from accounts.models import Hospital
from accounts.principals import Principal
from compliance import access, facts, selectors
from compliance.models import REPORT_OPEN, Report, ReportState
from compliance.period import FIRST_YEAR
from fdrouter import evidence
from fdrouter.errors import Conflict, InvalidParameter, NotFound, PolicyDenied

LEASE = timedelta(seconds=90)
"""Longer than any step between two signs of life."""
QUEUE_PATIENCE = timedelta(seconds=60)
OPEN_ONCE = "report_open_once"

Renderer = Callable[[dict[str, Any], str], bytes]
"""(facts, their digest) -> PDF."""


class Superseded(Exception):
    """Another attempt holds the report now; this one's work is dropped."""


def _event(report: Report, kind: str, outcome: str = "ok", actor: int | None = None, **details: Any) -> evidence.Event:
    details |= {"month": f"{report.month:%Y-%m}"}
    return evidence.Event(
        kind=kind,
        outcome=outcome,
        actor_id=actor,
        subject=report.pk,
        hospital=report.hospital or None,
        details=details,
    )


# --- asking -------------------------------------------------------------------------------------------------------
def request(principal: Principal, *, month: date, hospital: str = "") -> tuple[Report, bool]:
    """Queues a report of the month that begins on ``month``; asked for twice at once, it is made once.

    Returns the report and whether this call made it.

    Raises:
        NotFound: the portal or the hospital is not this person's.
        PolicyDenied: auditors read reports, officers request them.
        InvalidParameter: no such month or hospital.
    """
    within = access.reach(principal, hospital) or ""
    if not access.may_request_reports(principal):
        _refuse(principal, month, within)
    if month.day != 1 or month.year < FIRST_YEAR or month > timezone.localdate():
        raise InvalidParameter("Choose a month that has begun.", field="month")
    if within and not Hospital.objects.filter(pk=within).exists():
        raise InvalidParameter("There is no such hospital.", field="hospital")
    with transaction.atomic():
        report, created = _open_once(principal, month, within)
        if created:
            evidence.record(_event(report, "report.request", actor=principal.user_id))
        enqueue(report.pk)
    return report, created


def _refuse(principal: Principal, month: date, hospital: str) -> None:
    evidence.record(
        evidence.Event(
            kind="report.request",
            outcome="denied",
            actor_id=principal.user_id,
            hospital=hospital or None,
            details={"month": f"{month:%Y-%m}", "role": principal.role},
        )
    )
    raise PolicyDenied("Only a privacy officer can request a report.")


def _open_once(principal: Principal, month: date, hospital: str) -> tuple[Report, bool]:
    still_open = Report.objects.filter(hospital=hospital, month=month, state__in=REPORT_OPEN)
    found = still_open.first()
    if found is not None:
        return found, False
    try:
        with transaction.atomic():
            made = Report.objects.create(hospital=hospital, month=month, requested_by_id=principal.user_id)
        return made, True
    except IntegrityError as error:
        if OPEN_ONCE not in str(error):
            raise
    return still_open.get(), False


def enqueue(report_id: UUID) -> None:
    """Sends the id to a worker once this transaction is committed. A broker that is down loses nothing: see resume."""
    from compliance import tasks  # the tasks call this module

    transaction.on_commit(lambda: tasks.render_report.delay(str(report_id)), robust=True)


def resume() -> int:
    """Enqueues open reports that nobody works on: the worker was killed, or the message never arrived."""
    now = timezone.now()
    forgotten = Report.objects.filter(
        Q(state=ReportState.RENDERING, lease__lt=now)
        | Q(state=ReportState.QUEUED, requested_at__lt=now - QUEUE_PATIENCE)
    )
    ids = list(forgotten.values_list("pk", flat=True)[:50])
    for pk in ids:
        enqueue(pk)
    return len(ids)


# --- rendering ----------------------------------------------------------------------------------------------------
def claim(report_id: UUID) -> Report | None:
    """Takes a queued report, or one whose worker's lease is over; ``None``: nothing to take."""
    now = timezone.now()
    free = Q(state=ReportState.QUEUED) | Q(state=ReportState.RENDERING, lease__lt=now)
    taken = Report.objects.filter(free, pk=report_id).update(
        state=ReportState.RENDERING, attempt=F("attempt") + 1, lease=now + LEASE, progress=5
    )
    return Report.objects.select_related("requested_by").get(pk=report_id) if taken else None


def held_for(report_id: UUID) -> float | None:
    """Seconds for which another worker still holds the report; ``None``: nobody does."""
    row = Report.objects.filter(pk=report_id, state=ReportState.RENDERING).only("lease").first()
    if row is None or row.lease is None:
        return None
    return max(0.0, (row.lease - timezone.now()).total_seconds())


def _step(report: Report, **values: Any) -> None:
    """Changes the row if this attempt still holds it.

    Raises:
        Superseded: it does not.
    """
    mine = Report.objects.filter(pk=report.pk, state=ReportState.RENDERING, attempt=report.attempt)
    if not mine.update(**{"lease": timezone.now() + LEASE, **values}):
        raise Superseded
    for field, value in values.items():
        setattr(report, field, value)


def render(report: Report, renderer: Renderer) -> None:
    """Freezes the facts unless an earlier attempt did, renders them, stores the PDF and its digest.

    Raises:
        Superseded: another attempt took over.
        Unauthenticated, NotFound: who asked has lost the post.
    """
    if report.facts is None:
        principal = principals.for_user(report.requested_by_id)
        frozen = facts.collect(principal, report.month, report.hospital)
        _step(report, facts=frozen, facts_sha256=facts.digest(frozen), progress=30)
    _step(report, progress=45)
    pdf = renderer(report.facts or {}, report.facts_sha256)
    _step(report, progress=90)
    finish(report, pdf)


def finish(report: Report, pdf: bytes) -> None:
    """Stores the PDF; the row never changes again."""
    digest = hashlib.sha256(pdf).hexdigest()
    with transaction.atomic():
        _step(report, state=ReportState.DONE, pdf=pdf, pdf_sha256=digest, progress=100, finished_at=timezone.now())
        evidence.record(
            _event(report, "report.finish", sha256=digest, facts_sha256=report.facts_sha256, bytes=len(pdf))
        )


def fail(report: Report, reason: str) -> None:
    """Ends the report without a PDF. Asking again makes a new one.

    Raises:
        Superseded: another attempt took over.
    """
    with transaction.atomic():
        _step(report, state=ReportState.FAILED, reason=reason, finished_at=timezone.now())
        evidence.record(_event(report, "report.finish", "failed", reason=reason, attempt=report.attempt))


# --- handing out --------------------------------------------------------------------------------------------------
def download(principal: Principal, report_id: UUID) -> Report:
    """A finished report with its PDF; handing it out is recorded.

    Raises:
        NotFound: there is none, or not for this person.
        Conflict: the stored bytes are not those that were finished.
    """
    with transaction.atomic():
        visible = selectors.reports(principal).filter(pk=report_id, state=ReportState.DONE)
        report = visible.defer(None).first()
        if report is None:
            raise NotFound
        if hashlib.sha256(bytes(report.pdf or b"")).hexdigest() != report.pdf_sha256:
            raise Conflict("The stored report does not match its digest.")
        evidence.record(_event(report, "report.download", actor=principal.user_id, sha256=report.pdf_sha256))
    return report
