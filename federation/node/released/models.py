"""Releases of a node: plans, cards and synthetic notes, all public, and which patients a corpus in making reads."""

from __future__ import annotations

import uuid

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVectorField
from django.db import models
from django.db.models import F, Q

from federation.node.released.states import ReleaseState


class ReleaseKind(models.TextChoices):
    """What is published."""

    CARDS = "cards", "statistics cards"
    CORPUS = "corpus", "synthetic notes"


_OPEN = [ReleaseState.PLANNED, ReleaseState.APPROVED, ReleaseState.MAKING]


class Release(models.Model):
    """One release from one block's patients. Rows change through ``federation.node.released`` only.

    ``plan`` never changes after its first write (a trigger sees to it) and ``digest`` is the SHA-256 of its canonical
    JSON. ``statement`` is what the hospital signed when it was published. The id is also the reservation's.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    kind = models.CharField(max_length=8, choices=ReleaseKind.choices)
    block = models.PositiveIntegerField(help_text="Number of the block whose patients it is made from, and who pays.")
    plan = models.JSONField()
    digest = models.CharField(max_length=64)
    epsilon = models.FloatField()
    delta = models.FloatField()
    state = models.CharField(max_length=12, choices=ReleaseState.choices, default=ReleaseState.PLANNED)
    reason = models.CharField(max_length=200, blank=True)
    planned_by = models.CharField(max_length=120)
    planned_at = models.DateTimeField(auto_now_add=True)
    approved_by = models.CharField(max_length=120, blank=True)
    approved_at = models.DateTimeField(null=True)
    begun_at = models.DateTimeField(null=True)
    published_at = models.DateTimeField(null=True)
    withdrawn_by = models.CharField(max_length=120, blank=True)
    ended_at = models.DateTimeField(null=True)
    statement = models.JSONField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["kind", "block"], condition=Q(state__in=_OPEN), name="release_one_open_a_kind_and_block"
            ),
            models.CheckConstraint(
                condition=Q(approved_by="") | ~Q(approved_by__iexact=F("planned_by")),
                name="release_by_a_second_person",
            ),
            models.CheckConstraint(
                condition=Q(state__in=[ReleaseState.PLANNED, ReleaseState.WITHDRAWN])
                | ~Q(approved_by="") & Q(approved_at__isnull=False),
                name="release_not_without_approval",
            ),
            models.CheckConstraint(
                condition=~Q(state=ReleaseState.PUBLISHED) | Q(statement__isnull=False, published_at__isnull=False),
                name="release_published_with_a_statement",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.pk} {self.state}"


class ReleaseMember(models.Model):
    """Which group a patient is in, and their rank there, fixed when the making begins. Private; deleted at its end.

    Kept, because a record that changes while a corpus is made must not put its patient into a second group.
    """

    release = models.ForeignKey(Release, on_delete=models.CASCADE, related_name="members")
    patient = models.CharField(max_length=24, help_text="The patient's reference at this node.")
    topic = models.CharField(max_length=80)
    part = models.PositiveSmallIntegerField()
    rank = models.BinaryField(max_length=32)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["release", "patient"], name="release_member_in_one_group")]
        indexes = [models.Index(fields=["release", "topic", "part", "rank"], name="release_member_by_rank")]

    def __str__(self) -> str:
        return f"member {self.pk}"


class ReleasedCard(models.Model):
    """One published histogram: cells by their public labels, and the noisy number of patients in each."""

    release = models.ForeignKey(Release, on_delete=models.CASCADE, related_name="cards")
    name = models.CharField(max_length=40)
    labels = models.JSONField(help_text="One list of words a cell.")
    counts = ArrayField(models.BigIntegerField(), help_text="With noise; may be negative.")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["release", "name"], name="released_card_once")]

    def __str__(self) -> str:
        return f"card {self.name}"


class NoteState(models.TextChoices):
    """A note found ``begun`` after its maker was killed becomes ``lost``: its randomness is not drawn again."""

    BEGUN = "begun"
    DONE = "done"
    LOST = "lost"


class ReleasedNote(models.Model):
    """One synthetic note about a topic, decoded once."""

    release = models.ForeignKey(Release, on_delete=models.CASCADE, related_name="notes")
    topic = models.CharField(max_length=80)
    part = models.PositiveSmallIntegerField()
    state = models.CharField(max_length=8, choices=NoteState.choices, default=NoteState.BEGUN)
    reason = models.CharField(max_length=40, blank=True)
    text = models.TextField(blank=True)
    tokens = models.PositiveSmallIntegerField(default=0)
    vector = SearchVectorField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["release", "topic", "part"], name="released_note_decoded_once"),
            models.CheckConstraint(condition=Q(state="done") | Q(text=""), name="released_note_done_or_empty"),
        ]
        indexes = [GinIndex(fields=["vector"], name="released_note_vector")]

    def __str__(self) -> str:
        return f"note {self.topic} {self.part}"
