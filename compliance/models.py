"""Evidence rows, which ``compliance.log`` (and the set-based steps in SQL) append and nobody changes; and reports."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q


class Event(models.Model):
    """One thing that happened, written in the transaction of the action itself."""

    seq = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(auto_now_add=True)
    kind = models.CharField(max_length=40)
    outcome = models.CharField(max_length=40)
    actor_id = models.BigIntegerField(null=True)
    subject = models.UUIDField(null=True)
    hospital = models.CharField(max_length=40, null=True)
    department = models.CharField(max_length=40, null=True)
    purpose = models.CharField(max_length=16, null=True)
    details = models.JSONField(default=dict)

    class Meta:
        indexes = [
            models.Index(fields=["subject"], name="event_subject"),
            models.Index(fields=["kind", "at"], name="event_kind"),
        ]

    def __str__(self) -> str:
        return f"{self.seq} {self.kind} {self.outcome}"


class ReportState(models.TextChoices):
    """Named by what the report waits for, or by how it ended."""

    QUEUED = "queued"
    RENDERING = "rendering"
    DONE = "done"
    FAILED = "failed"


REPORT_TRANSITIONS: dict[ReportState, frozenset[ReportState]] = {
    ReportState.QUEUED: frozenset({ReportState.RENDERING, ReportState.FAILED}),
    ReportState.RENDERING: frozenset({ReportState.DONE, ReportState.FAILED}),
    ReportState.DONE: frozenset(),
    ReportState.FAILED: frozenset(),
}
REPORT_OPEN = tuple(state for state, following in REPORT_TRANSITIONS.items() if following)


class Report(models.Model):
    """A monthly report. ``compliance.reports`` is its only writer; the database keeps what was frozen or finished.

    ``facts`` are frozen before anything is rendered, so another attempt shows the same figures. ``lease`` is until
    when a worker holds the row; an attempt whose lease is over may be replaced by the next one.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    hospital = models.CharField(max_length=40, blank=True, help_text="Empty: the whole network.")
    month = models.DateField(help_text="The first day of the month.")
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="reports")
    requested_at = models.DateTimeField(auto_now_add=True)
    state = models.CharField(max_length=12, choices=ReportState.choices, default=ReportState.QUEUED)
    reason = models.CharField(max_length=40, blank=True)
    progress = models.PositiveSmallIntegerField(default=0, help_text="Percent.")
    attempt = models.PositiveSmallIntegerField(default=0)
    lease = models.DateTimeField(null=True)
    facts = models.JSONField(null=True)
    facts_sha256 = models.CharField(max_length=64, blank=True)
    pdf = models.BinaryField(null=True)
    pdf_sha256 = models.CharField(max_length=64, blank=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["hospital", "month"],
                condition=Q(state__in=["queued", "rendering"]),
                name="report_open_once",
            ),
            models.CheckConstraint(
                condition=Q(state="done", pdf__isnull=False, facts__isnull=False)
                | ~Q(state="done") & Q(pdf__isnull=True),
                name="report_done_has_its_pdf",
            ),
            models.CheckConstraint(condition=Q(progress__lte=100), name="report_progress_is_percent"),
        ]
        indexes = [models.Index(fields=["-requested_at"], name="report_latest")]

    def __str__(self) -> str:
        return f"{self.month:%Y-%m} {self.hospital or 'network'} {self.state}"
