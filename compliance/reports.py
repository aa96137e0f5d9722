"""The only writer of reports: request, claim, freeze, finish or fail, download. Each is compare-and-set, with evidence.

What the renderer makes is the same for the same facts, byte for byte; a signature has a time and comes after it, so
that both digests are kept: that of the document, and that of the signed file.

A worker holds a row under a lease. When it is killed the lease runs out, and the next attempt renders the same frozen
facts; a late worker's result is refused, because the attempt has moved on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import F, Q
from django.utils import timezone

from accounts import principals
from accounts.models import Hospital
from accounts.principals import Principal
from compliance import access, enclosures, facts, period, selectors
from compliance import log as evidence_log
from compliance.models import REPORT_OPEN, Report, ReportKind, ReportState
from compliance.period import FIRST_YEAR, LONGEST_REPORT, Period
from fdrouter import evidence
from fdrouter.errors import Conflict, InvalidParameter, NotFound, PolicyDenied

LEASE = timedelta(seconds=90)
"""Longer than any step between two signs of life."""
QUEUE_PATIENCE = timedelta(seconds=60)
OPEN_ONCE = "report_open_once"

Renderer = Callable[[dict[str, Any], str, dict[str, bytes]], bytes]
"""(facts, their digest, files to attach) -> PDF."""


@dataclass(frozen=True, slots=True)
class Signed:
    """A signed document: its bytes, and the name in the certificate."""

    pdf: bytes
    by: str


Signer = Callable[[bytes], Signed | None]
"""PDF -> the signed one; ``None``: this process has no key to sign with."""


def unsigned(document: bytes) -> None:
    """The signer of a process without a key."""


class Superseded(Exception):
    """Another attempt holds the report now; this one's work is dropped."""


def _event(report: Report, kind: str, outcome: str = "ok", actor: int | None = None, **details: Any) -> evidence.Event:
    details |= {"period": f"{report.start}/{report.end}"}
    return evidence.Event(
        kind=kind,
        outcome=outcome,
        actor_id=actor,
        subject=report.pk,
        hospital=report.hospital or None,
        details=details,
    )


# --- asking -------------------------------------------------------------------------------------------------------
def request(
    principal: Principal, covered: Period, *, kind: str = ReportKind.RANGE, hospital: str = ""
) -> tuple[Report, bool]:
    """Queues a report of the period; asked for twice at once, it is made once.

    Returns the report and whether this call made it.

    Raises:
        NotFound: the portal or the hospital is not this person's.
        PolicyDenied: auditors read reports, officers request them.
        InvalidParameter: no such period, kind or hospital.
    """
    within = access.reach(principal, hospital) or ""
    if not access.may_request_reports(principal):
        _refuse(principal, covered, within)
    _check(covered, kind)
    if within and not Hospital.objects.filter(pk=within).exists():
        raise InvalidParameter("There is no such hospital.", field="hospital")
    with transaction.atomic():
        report, created = _open_once(principal, covered, kind, within)
        if created:
            evidence.record(_event(report, "report.request", actor=principal.user_id))
        enqueue(report.pk)
    return report, created


def _check(covered: Period, kind: str) -> None:
    if kind not in ReportKind.values:
        raise InvalidParameter("There is no such kind of report.", field="kind")
    if covered.start.year < FIRST_YEAR or covered.start > timezone.localdate():
        raise InvalidParameter("Choose a period that has begun.", field="start")
    if not 1 <= (covered.end - covered.start).days + 1 <= LONGEST_REPORT:
        raise InvalidParameter(f"A report covers 1 to {LONGEST_REPORT} days.", field="end")
    if kind != ReportKind.RANGE and covered != period.whole(kind, covered.start):
        raise InvalidParameter("These days are not the whole of a period of this kind.", field="start")


def _refuse(principal: Principal, covered: Period, hospital: str) -> None:
    evidence.record(
        evidence.Event(
            kind="report.request",
            outcome="denied",
            actor_id=principal.user_id,
            hospital=hospital or None,
            details={"period": f"{covered.start}/{covered.end}", "role": principal.role},
        )
    )
    raise PolicyDenied("Only a privacy officer can request a report.")


def _open_once(principal: Principal, covered: Period, kind: str, hospital: str) -> tuple[Report, bool]:
    what = {"hospital": hospital, "start": covered.start, "end": covered.end}
    still_open = Report.objects.filter(**what, state__in=REPORT_OPEN)
    found = still_open.first()
    if found is not None:
        return found, False
    try:
        with transaction.atomic():
            made = Report.objects.create(**what, kind=kind, requested_by_id=principal.user_id)
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


def render(report: Report, renderer: Renderer, signer: Signer = unsigned) -> None:
    """Freezes the facts unless an earlier attempt did, renders them, signs, stores the PDF and its digests.

    Raises:
        Superseded: another attempt took over.
        Unauthenticated, NotFound: who asked has lost the post.
        LogDamaged: the log does not continue what was signed, and no report may say that it does.
    """
    if report.facts is None:
        principal = principals.for_user(report.requested_by_id)
        evidence_log.sequence()
        evidence_log.checkpoint(force=True)
        frozen = facts.collect(principal, Period(report.start, report.end), report.hospital, report.kind)
        _step(
            report,
            facts=frozen.facts,
            facts_sha256=facts.digest(frozen.facts),
            attached=enclosures.encoded(frozen.files),
            progress=30,
        )
    _step(report, progress=45)
    document = renderer(report.facts or {}, report.facts_sha256, enclosures.decoded(report.attached))
    _step(report, progress=85)
    signed = signer(document)
    _step(report, progress=95)
    finish(report, document, signed)


def finish(report: Report, document: bytes, signed: Signed | None = None) -> None:
    """Stores the PDF; the row never changes again."""
    pdf = signed.pdf if signed else document
    digests = {
        "pdf_sha256": hashlib.sha256(pdf).hexdigest(),
        "document_sha256": hashlib.sha256(document).hexdigest(),
        "signed_by": signed.by if signed else "",
    }
    with transaction.atomic():
        _step(report, state=ReportState.DONE, pdf=pdf, **digests, progress=100, finished_at=timezone.now())
        evidence.record(
            _event(
                report,
                "report.finish",
                sha256=report.pdf_sha256,
                document_sha256=report.document_sha256,
                facts_sha256=report.facts_sha256,
                signed=signed is not None,
                bytes=len(pdf),
            )
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
