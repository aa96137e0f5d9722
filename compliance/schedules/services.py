"""The only writer of schedules and deliveries: who gets which report, what is due, and sending it.

A report is made for each period once, whoever looks and however often; of several that nobody made, the latest. Mail
goes out at least once: a worker that dies while it sends leaves the delivery to the next one, ten minutes later.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from smtplib import SMTPException
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.mail import EmailMessage
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone

from accounts import principals
from accounts.models import Hospital
from accounts.principals import Principal
from compliance import access, period, reports
from compliance.models import Report, ReportState
from compliance.schedules.models import REPEATED, DeliveryState, ReportDelivery, ReportSchedule
from fdrouter import evidence
from fdrouter.errors import DomainError, InvalidParameter, NotFound, PolicyDenied

log = logging.getLogger(__name__)

MOST_RECIPIENTS = 10
MOST_ATTEMPTS = 5
LOST_AFTER = timedelta(minutes=10)
"""A delivery that is being sent for longer than this lost its worker."""
BATCH = 50


# --- schedules ------------------------------------------------------------------------------------------------------
def visible(principal: Principal) -> QuerySet[ReportSchedule]:
    """Schedules within reach, newest first."""
    within = access.reach(principal)
    rows = ReportSchedule.objects.select_related("owner").order_by("-active", "-created_at")
    return rows if within is None else rows.filter(hospital=within)


def deliveries(principal: Principal) -> QuerySet[ReportDelivery]:
    """What was sent, or was not, newest first."""
    rows = ReportDelivery.objects.filter(schedule__in=visible(principal).order_by())
    return (
        rows.select_related("schedule", "report")
        .defer("report__pdf", "report__facts", "report__attached")
        .order_by("-created_at")
    )


def create(
    principal: Principal, *, kind: str, hospital: str = "", recipients: Sequence[str], attach: bool = False
) -> ReportSchedule:
    """A report of every period from the present one on, each when it is over.

    Raises:
        NotFound: the portal or the hospital is not this person's.
        PolicyDenied: auditors read reports, officers request them.
        InvalidParameter: no such kind or hospital, or not one to ten recipients.
    """
    within = _officer(principal, hospital)
    if kind not in dict(REPEATED):
        raise InvalidParameter("There is no such kind of report.", field="kind")
    if within and not Hospital.objects.filter(pk=within).exists():
        raise InvalidParameter("There is no such hospital.", field="hospital")
    if not 1 <= len(recipients) <= MOST_RECIPIENTS:
        raise InvalidParameter(f"Name 1 to {MOST_RECIPIENTS} recipients.", field="recipients")
    with transaction.atomic():
        made = ReportSchedule.objects.create(
            kind=kind,
            hospital=within,
            recipients=list(recipients),
            attach=attach,
            owner_id=principal.user_id,
            last_end=period.latest_complete(kind).end,
        )
        _record(made, "created", principal.user_id)
    return made


def set_active(principal: Principal, schedule_id: UUID, *, active: bool) -> ReportSchedule:
    """Stops a schedule or starts it again; periods in between are not made up for.

    Raises:
        NotFound: there is none within reach. PolicyDenied: not an officer.
    """
    _officer(principal)
    with transaction.atomic():
        found = visible(principal).select_for_update(of=("self",)).filter(pk=schedule_id).first()
        if found is None:
            raise NotFound
        if found.active != active:
            found.active = active
            if active:
                found.last_end = max(found.last_end, period.latest_complete(found.kind).end)
            found.save(update_fields=["active", "last_end"])
            _record(found, "started" if active else "stopped", principal.user_id)
    return found


def _officer(principal: Principal, hospital: str = "") -> str:
    within = access.reach(principal, hospital) or ""
    if not access.may_request_reports(principal):
        raise PolicyDenied("Only a privacy officer can schedule reports.")
    return within


def _record(schedule: ReportSchedule, outcome: str, actor: int | None = None) -> None:
    details = {"kind": schedule.kind, "recipients": len(schedule.recipients), "attach": schedule.attach}
    evidence.record(
        evidence.Event(
            kind="report.schedule",
            outcome=outcome,
            actor_id=actor,
            subject=schedule.pk,
            hospital=schedule.hospital or None,
            details=details,
        )
    )


# --- making ---------------------------------------------------------------------------------------------------------
def make_due() -> int:
    """Requests the report of the last complete period of each active schedule that has none yet; returns how many."""
    made = 0
    for kind, _ in REPEATED:
        latest = period.latest_complete(kind)
        for schedule in ReportSchedule.objects.filter(active=True, kind=kind, last_end__lt=latest.end)[:BATCH]:
            made += _make(schedule, latest)
    return made


def _make(schedule: ReportSchedule, covered: period.Period) -> bool:
    """Moves the schedule on and requests its report together: whoever comes second finds it moved."""
    with transaction.atomic():
        mine = ReportSchedule.objects.filter(pk=schedule.pk, active=True, last_end=schedule.last_end)
        if not mine.update(last_end=covered.end):
            return False
        try:
            with transaction.atomic():
                owner = principals.for_user(schedule.owner_id)
                report, _ = reports.request(owner, covered, kind=schedule.kind, hospital=schedule.hospital)
        except DomainError as error:  # the owner has lost the post: somebody else has to take the schedule over
            mine = ReportSchedule.objects.filter(pk=schedule.pk)
            mine.update(active=False)
            _record(schedule, f"ended_{error.code}"[:40])
            return False
        ReportDelivery.objects.create(
            schedule=schedule, report=report, start=covered.start, end=covered.end, next_at=timezone.now()
        )
    return True


# --- sending --------------------------------------------------------------------------------------------------------
def send_due() -> int:
    """Sends what is ready, and ends what will never be; returns how many mails went out."""
    now = timezone.now()
    ended = Q(report__state__in=[ReportState.DONE, ReportState.FAILED])
    ready = ReportDelivery.objects.filter(
        ended, Q(state__in=[DeliveryState.WAITING, DeliveryState.SENDING]), next_at__lte=now
    )
    ids = list(ready.order_by("next_at").values_list("pk", flat=True)[:BATCH])
    return sum(_deliver(pk) for pk in ids)


def _deliver(pk: int) -> bool:
    now = timezone.now()
    open_ones = ReportDelivery.objects.filter(
        pk=pk, state__in=[DeliveryState.WAITING, DeliveryState.SENDING], next_at__lte=now
    )
    claimed = open_ones.update(state=DeliveryState.SENDING, attempts=F("attempts") + 1, next_at=now + LOST_AFTER)
    if not claimed:
        return False
    delivery = ReportDelivery.objects.select_related("schedule", "report").get(pk=pk)
    if delivery.report.state == ReportState.FAILED:
        return _end(delivery, DeliveryState.FAILED, f"report_{delivery.report.reason}"[:40])
    if not settings.EMAIL_HOST:
        return _end(delivery, DeliveryState.FAILED, "no_mail_server")
    try:
        _mail(delivery.schedule, delivery.report).send()
    except (OSError, SMTPException) as error:
        log.warning("report not mailed", extra={"report": str(delivery.report_id), "error": type(error).__name__})
        if delivery.attempts >= MOST_ATTEMPTS:
            return _end(delivery, DeliveryState.FAILED, "mail_refused")
        _step(delivery, state=DeliveryState.WAITING, next_at=timezone.now() + timedelta(minutes=2**delivery.attempts))
        return False
    return _end(delivery, DeliveryState.SENT, "")


def _step(delivery: ReportDelivery, **values: Any) -> int:
    mine = ReportDelivery.objects.filter(pk=delivery.pk, state=DeliveryState.SENDING, attempts=delivery.attempts)
    return mine.update(**values)


def _end(delivery: ReportDelivery, state: DeliveryState, reason: str) -> bool:
    """Ends the delivery with its evidence; ``True`` if this call did it and the mail went out."""
    with transaction.atomic():
        if not _step(delivery, state=state, reason=reason, ended_at=timezone.now()):
            return False
        schedule = delivery.schedule
        details = {"schedule": str(schedule.pk), "recipients": len(schedule.recipients), "attach": schedule.attach}
        details |= {"period": f"{delivery.start}/{delivery.end}", "reason": reason}
        evidence.record(
            evidence.Event(
                kind="report.mail",
                outcome=state.value,
                subject=delivery.report_id,
                hospital=schedule.hospital or None,
                details=details,
            )
        )
    return state == DeliveryState.SENT


def _mail(schedule: ReportSchedule, report: Report) -> EmailMessage:
    place = Hospital.objects.filter(pk=report.hospital).values_list("name", flat=True).first()
    values = {
        "report": report,
        "name": period.name(report.start, report.end, report.kind),
        "place": place or "all hospitals of the network",
        "page": settings.BASE_URL + reverse("compliance:reports"),
        "download": settings.BASE_URL + reverse("compliance:report-download", args=[report.pk]),
        "attach": schedule.attach,
    }
    message = EmailMessage(
        subject=f"Privacy report, {values['name']}, {values['place']}",
        body=render_to_string("compliance/report_mail.txt", values),
        from_email=settings.DEFAULT_FROM_EMAIL,
        to=list(schedule.recipients),
    )
    if schedule.attach:
        message.attach(file_name(report), bytes(report.pdf or b""), "application/pdf")
    return message


def file_name(report: Report) -> str:
    """What the file is called."""
    return f"privacy-report-{report.start}-{report.end}-{report.hospital or 'network'}.pdf"
