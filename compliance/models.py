"""Evidence rows. ``compliance.log`` (and the set-based steps in SQL) append; nobody changes or deletes."""

from __future__ import annotations

from django.db import models


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
