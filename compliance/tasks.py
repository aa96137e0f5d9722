"""Celery tasks of this app (queue ``reports``, and ``default`` for the log): parse an id, call one service."""

from __future__ import annotations

import logging
from typing import Any
from uuid import UUID

from celery import Task, shared_task
from celery.exceptions import SoftTimeLimitExceeded
from django.db import OperationalError

from compliance import log as evidence_log
from compliance import reports
from compliance.anomalies import services as anomalies
from compliance.controls import exceptions
from compliance.models import Report
from compliance.schedules import services as schedules
from fdrouter.errors import DomainError

log = logging.getLogger(__name__)

SOFT_SECONDS, HARD_SECONDS = 240, 300


@shared_task(
    bind=True,
    name="compliance.tasks.render_report",
    acks_late=True,
    reject_on_worker_lost=True,
    soft_time_limit=SOFT_SECONDS,
    time_limit=HARD_SECONDS,
    autoretry_for=(OperationalError,),
    retry_backoff=5,
    max_retries=20,
)
def render_report(self: Task[Any, Any], report_id: str) -> str:
    """Renders one report. Delivered again, it does nothing, or takes over what a killed worker left."""
    key = UUID(report_id)
    report = reports.claim(key)
    if report is None:
        seconds = reports.held_for(key)
        if seconds is None:
            return "nothing to do"
        raise self.retry(countdown=seconds + 1)
    try:
        from compliance import pdf, signing  # load fonts and layout code that only this worker needs

        reports.render(report, pdf.render, signing.sign)
    except reports.Superseded:
        return "superseded"
    except SoftTimeLimitExceeded:
        return _failed(report, "timed_out")
    except DomainError as error:
        return _failed(report, error.code)
    except OperationalError:
        raise
    except Exception as error:  # noqa: BLE001  (a renderer may raise anything, and the report must not hang)
        # The text of the error may quote figures and is not kept.
        log.error("report not rendered", extra={"report": report_id, "error": type(error).__name__})
        return _failed(report, "render_failed")
    return "done"


def _failed(report: Report, reason: str) -> str:
    try:
        reports.fail(report, reason)
    except reports.Superseded:
        return "superseded"
    return "failed"


@shared_task(name="compliance.tasks.resume_reports", soft_time_limit=50, time_limit=60)
def resume_reports() -> int:
    """Enqueues open reports that nobody works on."""
    return reports.resume()


@shared_task(name="compliance.tasks.scheduled_reports", soft_time_limit=240, time_limit=300)
def scheduled_reports() -> int:
    """Requests the reports whose period is over, and sends those that are ready."""
    schedules.make_due()
    return schedules.send_due()


@shared_task(name="compliance.tasks.end_exceptions", soft_time_limit=50, time_limit=60)
def end_exceptions() -> int:
    """Marks the exceptions from controls whose day is over; they count no more in any case."""
    return exceptions.end_expired()


@shared_task(name="compliance.tasks.find_anomalies", soft_time_limit=480, time_limit=540)
def find_anomalies() -> int:
    """Runs the anomaly rules over what is new; returns how many findings were made or grew."""
    done = anomalies.run()
    return done.found + done.grown


@shared_task(name="compliance.tasks.tend_log", soft_time_limit=50, time_limit=60)
def tend_log() -> int:
    """Gives waiting events their places in the log's tree, and signs a checkpoint when it is time."""
    return evidence_log.tend()


@shared_task(name="compliance.tasks.witness_log", soft_time_limit=50, time_limit=60)
def witness_log() -> int:
    """Asks the hospitals' nodes to cosign the latest checkpoint; returns how many did."""
    from compliance.log import cosigning

    return cosigning.ask_all()
