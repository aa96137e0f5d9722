"""Findings of the rules, the patients that officers flag, and cases with their notes."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q


class CaseState(models.TextChoices):
    """Named by how far it is."""

    OPEN = "open", "Open"
    ASSIGNED = "assigned", "Assigned"
    DECIDED = "decided", "Decided"
    CLOSED = "closed", "Closed"


CASE_TRANSITIONS: dict[CaseState, frozenset[CaseState]] = {
    CaseState.OPEN: frozenset({CaseState.ASSIGNED}),
    CaseState.ASSIGNED: frozenset({CaseState.ASSIGNED, CaseState.DECIDED}),
    CaseState.DECIDED: frozenset({CaseState.CLOSED, CaseState.OPEN}),
    CaseState.CLOSED: frozenset({CaseState.OPEN}),
}
"""Assigned to assigned is another person's turn; back to open is a case that is looked at again."""
CASE_WAITING = (CaseState.OPEN, CaseState.ASSIGNED)
"""States in which the clock runs."""


class Decision(models.TextChoices):
    """How a case ended."""

    NO_ISSUE = "no_issue", "No issue"
    REMINDER = "policy_reminder", "Policy reminder"
    SANCTION = "sanction_referred", "Sanction referred"
    BREACH = "breach_suspected", "Breach suspected"


class AnomalyCase(models.Model):
    """What an officer looks into. ``compliance.anomalies.cases`` is its only writer; every step is an event.

    ``version`` moves with every step: who saw an older one changes nothing. Without a hospital it is the network's;
    without a person nobody is suspected yet. ``due_at`` is when it is overdue.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    hospital = models.CharField(max_length=40, blank=True, help_text="Empty: the whole network.")
    person = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+")
    state = models.CharField(max_length=12, choices=CaseState.choices, default=CaseState.OPEN)
    version = models.PositiveIntegerField(default=1)
    opened_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    opened_at = models.DateTimeField()
    due_at = models.DateTimeField()
    assignee = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+")
    decision = models.CharField(max_length=20, choices=Decision.choices, blank=True)
    decided_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+")
    decided_at = models.DateTimeField(null=True)
    closed_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "compliance"
        constraints = [
            models.CheckConstraint(
                condition=Q(state="open", assignee=None, decision="", decided_by=None, decided_at=None, closed_at=None)
                | Q(state="assigned", assignee__isnull=False, decision="", decided_by=None, decided_at=None)
                & Q(closed_at=None)
                | Q(state="decided", decided_by__isnull=False, decided_at__isnull=False, closed_at=None)
                & ~Q(decision="")
                | Q(state="closed", decided_by__isnull=False, decided_at__isnull=False, closed_at__isnull=False)
                & ~Q(decision=""),
                name="anomaly_case_has_what_its_state_needs",
            ),
            models.CheckConstraint(
                condition=Q(person=None)
                | (Q(decided_by=None) | ~Q(decided_by=F("person"))) & (Q(assignee=None) | ~Q(assignee=F("person"))),
                name="anomaly_case_is_not_ones_own",
            ),
        ]
        indexes = [
            models.Index(fields=["due_at"], condition=Q(state__in=["open", "assigned"]), name="anomaly_case_waiting"),
            models.Index(fields=["-opened_at"], name="anomaly_case_latest"),
        ]

    def __str__(self) -> str:
        return f"case {str(self.pk)[:8]} {self.state}"


class AnomalyCaseNote(models.Model):
    """What somebody wrote about a case. ``text`` is sealed under the data key; rows are appended only."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    case = models.ForeignKey(AnomalyCase, on_delete=models.PROTECT, related_name="notes")
    by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    at = models.DateTimeField()
    text = models.BinaryField()

    class Meta:
        app_label = "compliance"
        indexes = [models.Index(fields=["case", "at"], name="anomaly_note_of_case")]

    def __str__(self) -> str:
        return f"note on {self.case_id}"


class AnomalyFinding(models.Model):
    """What a rule found about a person in a window, once. It only grows, while the window lasts.

    ``requests`` and ``seqs`` (events) are the rows it rests on, ``weight`` how many there were; of each the first
    ``KEPT_ROWS`` are kept. A finding belongs to one case at most.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    rule = models.CharField(max_length=40)
    version = models.PositiveSmallIntegerField()
    person = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    hospital = models.CharField(max_length=40, blank=True, help_text="The person's; empty: the network's.")
    department = models.CharField(max_length=40, blank=True)
    patient_reference = models.CharField(max_length=64, blank=True)
    start = models.DateTimeField()
    end = models.DateTimeField()
    score = models.PositiveSmallIntegerField()
    sentence = models.CharField(max_length=400)
    requests = ArrayField(models.UUIDField(), default=list)
    seqs = ArrayField(models.BigIntegerField(), default=list)
    weight = models.PositiveIntegerField()
    found_at = models.DateTimeField(auto_now_add=True)
    case = models.ForeignKey(AnomalyCase, on_delete=models.PROTECT, null=True, related_name="findings")

    class Meta:
        app_label = "compliance"
        constraints = [
            models.UniqueConstraint(fields=["rule", "person", "patient_reference", "start"], name="anomaly_once"),
            models.CheckConstraint(condition=Q(score__lte=100), name="anomaly_score_to_100"),
        ]
        indexes = [
            models.Index(fields=["-start", "-score"], name="anomaly_latest"),
            models.Index(fields=["case"], name="anomaly_of_case"),
        ]

    def __str__(self) -> str:
        return f"{self.rule} {self.start:%Y-%m-%d}"


class AnomalyCursor(models.Model):
    """Until when rows have been looked at: one row. It only moves on."""

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    upto = models.DateTimeField()

    class Meta:
        app_label = "compliance"
        constraints = [models.CheckConstraint(condition=Q(id=1), name="anomaly_cursor_is_one")]

    def __str__(self) -> str:
        return f"looked at until {self.upto}"


class WatchKind(models.TextChoices):
    """Why a patient is flagged."""

    VIP = "vip", "Well known"
    STAFF = "staff", "Works here"


class WatchedPatient(models.Model):
    """A patient whose charts an officer wants to be looked after. ``user`` is the patient's own account, if any."""

    hospital = models.CharField(max_length=40)
    patient_reference = models.CharField(max_length=64)
    kind = models.CharField(max_length=8, choices=WatchKind.choices)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+")
    added_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    added_at = models.DateTimeField(auto_now_add=True)
    removed_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+")
    removed_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "compliance"
        constraints = [
            models.UniqueConstraint(
                fields=["hospital", "patient_reference", "kind"],
                condition=Q(removed_at=None),
                name="watched_patient_once",
            ),
            models.CheckConstraint(
                condition=Q(removed_at=None, removed_by=None) | Q(removed_at__isnull=False, removed_by__isnull=False),
                name="watched_patient_removed_by_somebody",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} at {self.hospital}"
