"""What a hospital's node keeps: records grouped by patient, and what was taken in. Nothing here leaves the site."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVectorField
from django.db import models

from federation.node.released.models import Release, ReleasedCard, ReleasedNote, ReleaseMember  # noqa: F401


class Sex(models.TextChoices):
    """Administrative gender, as FHIR codes it."""

    FEMALE = "female"
    MALE = "male"
    OTHER = "other"
    UNKNOWN = "unknown"


class Department(models.TextChoices):
    """The departments whose staff may have a patient in their care; the codes are the same at every hospital."""

    EMERGENCY = "emergency"
    RADIOLOGY = "radiology"
    GENERAL = "general"
    RESEARCH = "research"
    CARDIOLOGY = "cardiology"
    ONCOLOGY = "oncology"


class Patient(models.Model):
    """The unit of privacy: everything on record about one person.

    ``lines``, ``vector`` and ``codes`` are derived from this patient's resources and notes alone
    (``federation.node.documents``); a search score is therefore a function of one patient's record. Names, addresses
    and telephone numbers of the source are not kept.
    """

    source_id = models.CharField(max_length=64, unique=True)
    reference = models.CharField(max_length=24, unique=True, help_text="Pseudonym, keyed to this node.")
    birth_year = models.PositiveSmallIntegerField(null=True)
    sex = models.CharField(max_length=8, choices=Sex, default=Sex.UNKNOWN)
    digest = models.BinaryField(max_length=32)
    last_updated = models.DateTimeField(null=True)
    lines = ArrayField(
        models.TextField(), default=list, help_text="The record as text, facts first, newest notes next."
    )
    fact_lines = models.PositiveSmallIntegerField(default=0, help_text="How many of the lines are structured facts.")
    codes = ArrayField(models.CharField(max_length=80), default=list)
    vector = SearchVectorField(null=True)
    stale = models.BooleanField(default=True, help_text="A resource changed after lines, vector and codes were made.")
    block = models.PositiveIntegerField(
        default=1, db_default=1, help_text="The block that pays for this patient, from the first ingest on, for good."
    )

    class Meta:
        indexes = [
            GinIndex(fields=["vector"], name="node_patient_vector"),
            GinIndex(fields=["codes"], name="node_patient_codes"),
            models.Index(fields=["id"], condition=models.Q(stale=True), name="node_patient_stale"),
            models.Index(fields=["block"], name="node_patient_block"),
        ]

    def __str__(self) -> str:
        return self.reference


class Resource(models.Model):
    """One FHIR resource, trimmed to what search and charts use."""

    resource_type = models.CharField(max_length=32)
    source_id = models.CharField(max_length=64)
    patient = models.ForeignKey(Patient, on_delete=models.CASCADE, related_name="resources")
    code = models.CharField(max_length=80, blank=True)
    text = models.CharField(max_length=300, blank=True)
    date = models.DateField(null=True)
    body = models.JSONField(default=dict)
    digest = models.BinaryField(max_length=32)
    last_updated = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["resource_type", "source_id"], name="node_resource_source")]
        indexes = [models.Index(fields=["patient", "resource_type"], name="node_resource_patient")]

    def __str__(self) -> str:
        return f"{self.resource_type} {self.pk}"


class Note(models.Model):
    """The text of one DocumentReference."""

    resource = models.OneToOneField(Resource, on_delete=models.CASCADE, related_name="note")
    patient = models.ForeignKey(Patient, on_delete=models.CASCADE, related_name="notes")
    date = models.DateField(null=True)
    text = models.TextField()

    class Meta:
        indexes = [models.Index(fields=["patient", "-date"], name="node_note_patient")]

    def __str__(self) -> str:
        return f"Note {self.pk}"


class CareAssignment(models.Model):
    """A department's staff have this patient in their care, as the patient's encounters show."""

    patient = models.ForeignKey(Patient, on_delete=models.CASCADE, related_name="care")
    department = models.CharField(max_length=16, choices=Department)
    since = models.DateField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["department", "patient"], name="node_care_once"),
            models.CheckConstraint(condition=models.Q(department__in=Department.values), name="node_care_department"),
        ]

    def __str__(self) -> str:
        return f"{self.department} {self.patient_id}"


class IngestRun(models.Model):
    """One pass over the data folder; ``taken`` and ``skipped`` are its report (counts and places, never contents)."""

    class State(models.TextChoices):
        """RUNNING ends in DONE, or in FAILED with a reason; a killed run is found and failed by the next one."""

        RUNNING = "running"
        DONE = "done"
        FAILED = "failed"

    state = models.CharField(max_length=8, choices=State, default=State.RUNNING)
    reason = models.CharField(max_length=120, blank=True)
    started_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True)
    taken = models.JSONField(default=dict, help_text="Resource type -> {new, changed, unchanged, removed}.")
    skipped = models.JSONField(default=dict, help_text="Reason -> {count, places: ['file:line', ...]}.")
    summary = models.JSONField(default=dict, help_text="Files, lines, bytes, patients, seconds.")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["state"], condition=models.Q(state="running"), name="node_ingest_one_running"
            ),
        ]

    def __str__(self) -> str:
        return f"Ingest {self.pk} {self.state}"


class IngestFile(models.Model):
    """How far one file was read. An unchanged file that is done is not read again."""

    name = models.CharField(max_length=255, unique=True)
    digest = models.BinaryField(max_length=32)
    size = models.BigIntegerField()
    offset = models.BigIntegerField(default=0, help_text="Bytes whose lines are committed.")
    line = models.BigIntegerField(default=0, help_text="Lines committed.")
    waiting = models.BigIntegerField(
        default=0, help_text="Lines skipped for a patient unknown at the time; new patients make the file read again."
    )
    done = models.BooleanField(default=False)

    def __str__(self) -> str:
        return self.name
