"""Evidence rows, which ``compliance.log`` (and steps in SQL) append and nobody changes; their Merkle tree; reports."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models import Q


class Event(models.Model):
    """One thing that happened, written in the transaction of the action itself.

    ``sealed`` is what may name a patient, encrypted under a key of its own (:class:`EventKey`); ``commitment`` is 32
    bytes that bind the log to it and stay when the key is destroyed.
    """

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
    sealed = models.BinaryField(null=True)
    commitment = models.BinaryField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(sealed=None, commitment=None) | Q(sealed__isnull=False, commitment__isnull=False),
                name="event_commits_to_what_is_sealed",
            )
        ]
        indexes = [
            models.Index(fields=["subject"], name="event_subject"),
            models.Index(fields=["kind", "at"], name="event_kind"),
            models.Index(fields=["at", "seq"], name="event_time"),
            models.Index(fields=["actor_id", "at"], name="event_actor"),
        ]

    def __str__(self) -> str:
        return f"{self.seq} {self.kind} {self.outcome}"


class EventKey(models.Model):
    """The key of one event's private part, sealed under the data key. Destroying it erases the private part."""

    event = models.OneToOneField(
        Event, on_delete=models.PROTECT, primary_key=True, db_column="event", related_name="key"
    )
    key = models.BinaryField(null=True)
    destroyed_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(key=None, destroyed_at__isnull=False) | Q(key__isnull=False, destroyed_at=None),
                name="eventkey_there_or_destroyed",
            )
        ]

    def __str__(self) -> str:
        return f"key of event {self.pk}"


class Pending(models.Model):
    """An event without a place in the tree. A trigger writes it with the event; only sequencing takes it away."""

    seq = models.BigIntegerField(primary_key=True)

    def __str__(self) -> str:
        return f"event {self.seq} waits"


class Leaf(models.Model):
    """An event's place in the tree, gapless from 0, and the RFC 6962 hash of its leaf data."""

    index = models.BigIntegerField(primary_key=True)
    event = models.BigIntegerField(unique=True, help_text="No foreign key: it takes its event off the pending ones.")
    hash = models.BinaryField()

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(index__gte=0), name="leaf_index_from_zero")]

    def __str__(self) -> str:
        return f"leaf {self.index} is event {self.event}"


class Tile(models.Model):
    """Up to 256 hashes of one level of the tree, 32 bytes each (C2SP tlog-tiles). Only the last of a level grows."""

    pk = models.CompositePrimaryKey("level", "index")
    level = models.PositiveSmallIntegerField()
    index = models.BigIntegerField()
    hashes = models.BinaryField()

    def __str__(self) -> str:
        return f"tile {self.level}/{self.index}"


class Checkpoint(models.Model):
    """What the process signed about the first ``size`` entries: a C2SP signed note with both of its signatures."""

    size = models.BigIntegerField(primary_key=True)
    root = models.BinaryField()
    note = models.TextField()
    at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"checkpoint of {self.size}"


class Cosignature(models.Model):
    """A witness's signature lines for a checkpoint of this log."""

    checkpoint = models.ForeignKey(Checkpoint, on_delete=models.PROTECT, related_name="cosignatures", db_column="size")
    witness = models.CharField(max_length=40)
    lines = models.TextField()
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["checkpoint", "witness"], name="cosignature_once")]

    def __str__(self) -> str:
        return f"{self.witness} on {self.checkpoint_id}"


class Witnessed(models.Model):
    """Another log's checkpoint that this process cosigned. Its sizes only grow, and no size has two roots."""

    origin = models.CharField(max_length=120)
    size = models.BigIntegerField()
    root = models.BinaryField()
    note = models.TextField()
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["origin", "size"], name="witnessed_one_root")]

    def __str__(self) -> str:
        return f"{self.origin} at {self.size}"


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


class ReportKind(models.TextChoices):
    """How long a report's period is."""

    DAILY = "daily", "Day"
    WEEKLY = "weekly", "Week"
    MONTHLY = "monthly", "Month"
    QUARTERLY = "quarterly", "Quarter"
    RANGE = "range", "Any range"


class Report(models.Model):
    """A report of a period. ``compliance.reports`` is its only writer; the database keeps what was frozen or finished.

    ``facts`` are frozen before anything is rendered, so another attempt shows the same figures; ``attached`` are the
    texts and files (base64) that go into the document beside them, each with its digest in the facts. ``lease`` is
    until when a worker holds the row; an attempt whose lease is over may be replaced by the next one.

    ``document_sha256`` is of the document before its signature, which the same facts give again; ``pdf_sha256`` is of
    what is handed out. ``signed_by`` is empty where nothing signed.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    hospital = models.CharField(max_length=40, blank=True, help_text="Empty: the whole network.")
    kind = models.CharField(max_length=12, choices=ReportKind.choices)
    start = models.DateField(help_text="The first day.")
    end = models.DateField(help_text="The last day, included.")
    requested_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="reports")
    requested_at = models.DateTimeField(auto_now_add=True)
    state = models.CharField(max_length=12, choices=ReportState.choices, default=ReportState.QUEUED)
    reason = models.CharField(max_length=40, blank=True)
    progress = models.PositiveSmallIntegerField(default=0, help_text="Percent.")
    attempt = models.PositiveSmallIntegerField(default=0)
    lease = models.DateTimeField(null=True)
    facts = models.JSONField(null=True)
    facts_sha256 = models.CharField(max_length=64, blank=True)
    attached = models.JSONField(null=True)
    pdf = models.BinaryField(null=True)
    pdf_sha256 = models.CharField(max_length=64, blank=True)
    document_sha256 = models.CharField(max_length=64, blank=True)
    signed_by = models.CharField(max_length=200, blank=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["hospital", "start", "end"],
                condition=Q(state__in=["queued", "rendering"]),
                name="report_open_once",
            ),
            models.CheckConstraint(
                condition=Q(state="done", pdf__isnull=False, facts__isnull=False)
                | ~Q(state="done") & Q(pdf__isnull=True),
                name="report_done_has_its_pdf",
            ),
            models.CheckConstraint(condition=Q(progress__lte=100), name="report_progress_is_percent"),
            models.CheckConstraint(condition=Q(end__gte=models.F("start")), name="report_ends_after_it_begins"),
        ]
        indexes = [models.Index(fields=["-requested_at"], name="report_latest")]

    def __str__(self) -> str:
        return f"{self.start} to {self.end} {self.hospital or 'network'} {self.state}"


# Tables of the app's parts. Django finds a model only when its module is imported with this one.
from compliance.anomalies.models import (  # noqa: E402, F401
    AnomalyCase,
    AnomalyCaseNote,
    AnomalyCursor,
    AnomalyFinding,
    WatchedPatient,
)
from compliance.controls.models import ControlException  # noqa: E402, F401
from compliance.people.models import AccessReview, AccessReviewLine  # noqa: E402, F401
from compliance.schedules.models import ReportDelivery, ReportSchedule  # noqa: E402, F401
