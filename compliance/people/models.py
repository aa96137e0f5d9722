"""Access reviews and their lines. ``compliance.people.reviews`` is their only writer; every step is an event."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import F, Q


class ReviewState(models.TextChoices):
    """Named by how it ended, if it did."""

    OPEN = "open", "Open"
    COMPLETED = "completed", "Completed"
    CLOSED = "closed", "Closed early"


REVIEW_TRANSITIONS: dict[ReviewState, frozenset[ReviewState]] = {
    ReviewState.OPEN: frozenset({ReviewState.COMPLETED, ReviewState.CLOSED}),
    ReviewState.COMPLETED: frozenset(),
    ReviewState.CLOSED: frozenset(),
}


class LineState(models.TextChoices):
    """What was decided about one post. Overtaken: it changed or ended before anybody decided."""

    OPEN = "open", "Open"
    CERTIFIED = "certified", "Certified"
    REVOKED = "revoked", "Revoked"
    OVERTAKEN = "overtaken", "Overtaken"


LINE_TRANSITIONS: dict[LineState, frozenset[LineState]] = {
    LineState.OPEN: frozenset({LineState.CERTIFIED, LineState.REVOKED, LineState.OVERTAKEN}),
    LineState.CERTIFIED: frozenset(),
    LineState.REVOKED: frozenset(),
    LineState.OVERTAKEN: frozenset(),
}


class AccessReview(models.Model):
    """A campaign: every active post of a hospital or department as it was when an officer started it."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    hospital = models.CharField(max_length=40, blank=True, help_text="Empty: the whole network.")
    department = models.CharField(max_length=40, blank=True, help_text="Its code; empty: all of them.")
    state = models.CharField(max_length=12, choices=ReviewState.choices, default=ReviewState.OPEN)
    started_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    started_at = models.DateTimeField()
    due = models.DateField()
    ended_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+")
    ended_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "compliance"
        constraints = [
            models.UniqueConstraint(
                fields=["hospital", "department"], condition=Q(state="open"), name="access_review_open_once"
            ),
            models.CheckConstraint(
                condition=Q(state="open", ended_by=None, ended_at=None)
                | ~Q(state="open") & Q(ended_by__isnull=False, ended_at__isnull=False),
                name="access_review_ended_by_somebody",
            ),
            models.CheckConstraint(
                condition=Q(department="") | ~Q(hospital=""), name="access_review_department_has_hospital"
            ),
        ]
        indexes = [models.Index(fields=["-started_at"], name="access_review_latest")]

    def __str__(self) -> str:
        return f"access review {str(self.pk)[:8]} {self.state}"


class AccessReviewLine(models.Model):
    """One post as it was at the start, which never changes, and what was decided about it, once."""

    review = models.ForeignKey(AccessReview, on_delete=models.PROTECT, related_name="lines")
    membership = models.ForeignKey("accounts.Membership", on_delete=models.PROTECT, related_name="+")
    membership_version = models.PositiveBigIntegerField()
    person = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    username = models.CharField(max_length=150)
    role = models.CharField(max_length=24)
    hospital = models.CharField(max_length=40, blank=True)
    department = models.CharField(max_length=40, blank=True)
    since = models.DateTimeField()
    last_sign_in = models.DateTimeField(null=True)
    tokens = models.PositiveIntegerField()
    state = models.CharField(max_length=12, choices=LineState.choices, default=LineState.OPEN)
    reason = models.CharField(max_length=400, blank=True)
    decided_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+")
    decided_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "compliance"
        constraints = [
            models.UniqueConstraint(fields=["review", "membership"], name="access_review_line_once"),
            models.CheckConstraint(
                condition=Q(state="open", decided_by=None, decided_at=None, reason="")
                | ~Q(state="open") & Q(decided_by__isnull=False, decided_at__isnull=False),
                name="access_review_line_decided_by_somebody",
            ),
            models.CheckConstraint(condition=~Q(state="revoked") | ~Q(reason=""), name="access_review_revoked_why"),
            models.CheckConstraint(
                condition=Q(decided_by=None) | ~Q(decided_by=F("person")), name="access_review_not_ones_own"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.username} ({self.role}) {self.state}"
