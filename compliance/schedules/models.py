"""Schedules of reports, and what became of each period's report."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q

REPEATED = [
    ("daily", "Every day"),
    ("weekly", "Every week"),
    ("monthly", "Every month"),
    ("quarterly", "Every quarter"),
]
"""Kinds of a report that a calendar repeats, with their words here."""


class ReportSchedule(models.Model):
    """A report of every period of a kind, for a hospital or the network, made when the period is over.

    ``last_end`` is the last day that a report was made for (or, at first, the day before the first one's period);
    of several periods that nobody made a report of, the latest one is made up for. ``attach`` sends the document
    itself; otherwise the mail only says where it is.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    kind = models.CharField(max_length=12, choices=REPEATED)
    hospital = models.CharField(max_length=40, blank=True, help_text="Empty: the whole network.")
    recipients = models.JSONField(help_text="Mail addresses.")
    attach = models.BooleanField(default=False)
    active = models.BooleanField(default=True)
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="report_schedules")
    created_at = models.DateTimeField(auto_now_add=True)
    last_end = models.DateField()

    class Meta:
        app_label = "compliance"

    def __str__(self) -> str:
        return f"{self.kind} {self.hospital or 'network'}"


class DeliveryState(models.TextChoices):
    """What a delivery waits for, or how it ended."""

    WAITING = "waiting", "Waiting for the report"
    SENDING = "sending", "Sending"
    SENT = "sent", "Sent"
    FAILED = "failed", "Failed"


DELIVERY_TRANSITIONS: dict[DeliveryState, frozenset[DeliveryState]] = {
    DeliveryState.WAITING: frozenset({DeliveryState.SENDING, DeliveryState.FAILED}),
    DeliveryState.SENDING: frozenset({DeliveryState.WAITING, DeliveryState.SENT, DeliveryState.FAILED}),
    DeliveryState.SENT: frozenset(),
    DeliveryState.FAILED: frozenset(),
}


class ReportDelivery(models.Model):
    """One period's report of a schedule on its way to the recipients. One row a period, whoever makes it."""

    schedule = models.ForeignKey(ReportSchedule, on_delete=models.PROTECT, related_name="deliveries")
    report = models.ForeignKey("compliance.Report", on_delete=models.PROTECT, related_name="deliveries")
    start = models.DateField()
    end = models.DateField()
    state = models.CharField(max_length=12, choices=DeliveryState.choices, default=DeliveryState.WAITING)
    reason = models.CharField(max_length=40, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_at = models.DateTimeField(help_text="Not before then; of one that is being sent, when it counts as lost.")
    created_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "compliance"
        constraints = [
            models.UniqueConstraint(fields=["schedule", "start", "end"], name="report_delivery_once"),
            models.CheckConstraint(
                condition=Q(state__in=["sent", "failed"], ended_at__isnull=False)
                | ~Q(state__in=["sent", "failed"]) & Q(ended_at=None),
                name="report_delivery_ends_once",
            ),
        ]
        indexes = [models.Index(fields=["state", "next_at"], name="report_delivery_due")]

    def __str__(self) -> str:
        return f"{self.schedule_id} {self.start} {self.state}"
