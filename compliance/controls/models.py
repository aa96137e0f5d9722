"""Exceptions from controls: accepted for a while, by a person, with a reason and an end."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q


class ExceptionState(models.TextChoices):
    """An exception ends once: withdrawn by a person, or by its date."""

    ACTIVE = "active", "In force"
    WITHDRAWN = "withdrawn", "Withdrawn"
    EXPIRED = "expired", "Expired"


EXCEPTION_TRANSITIONS: dict[ExceptionState, frozenset[ExceptionState]] = {
    ExceptionState.ACTIVE: frozenset({ExceptionState.WITHDRAWN, ExceptionState.EXPIRED}),
    ExceptionState.WITHDRAWN: frozenset(),
    ExceptionState.EXPIRED: frozenset(),
}


class ControlException(models.Model):
    """Why a control may be unmet for now. ``compliance.controls.exceptions`` is its only writer.

    Without a hospital it counts for the whole network. It ends with ``expires_on`` (that day included) whether or not
    anybody has marked the row by then.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    control = models.CharField(max_length=64)
    hospital = models.CharField(max_length=40, blank=True, help_text="Empty: the whole network.")
    reason = models.CharField(max_length=400)
    owner = models.CharField(max_length=120, help_text="Who answers for what is missing meanwhile.")
    expires_on = models.DateField()
    state = models.CharField(max_length=12, choices=ExceptionState.choices, default=ExceptionState.ACTIVE)
    made_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    made_at = models.DateTimeField(auto_now_add=True)
    ended_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+")
    ended_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "compliance"
        constraints = [
            models.UniqueConstraint(
                fields=["control", "hospital"], condition=Q(state="active"), name="control_exception_once"
            ),
            models.CheckConstraint(
                condition=Q(state="active", ended_at=None, ended_by=None)
                | Q(state="withdrawn", ended_at__isnull=False, ended_by__isnull=False)
                | Q(state="expired", ended_at__isnull=False, ended_by=None),
                name="control_exception_ends_once",
            ),
        ]
        indexes = [models.Index(fields=["control", "-made_at"], name="control_exception_latest")]

    def __str__(self) -> str:
        return f"{self.control} until {self.expires_on} {self.state}"
