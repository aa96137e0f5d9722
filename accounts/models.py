"""Who people are, where they work, and which patients are in whose care."""

from __future__ import annotations

from django.contrib.auth.models import AbstractUser
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q


class Role(models.TextChoices):
    """What a person does; policies in ``configs/policy`` are written over these."""

    ATTENDING = "attending"
    RESIDENT = "resident"
    NURSE = "nurse"
    PHARMACIST = "pharmacist"
    RESEARCHER = "researcher"
    PRIVACY_OFFICER = "privacy_officer", "privacy officer"
    ADMINISTRATOR = "administrator"
    NODE_OPERATOR = "node_operator", "node operator"
    AUDITOR = "auditor"


CLINICAL_ROLES = (Role.ATTENDING, Role.RESIDENT, Role.NURSE, Role.PHARMACIST, Role.RESEARCHER)


class Hospital(models.Model):
    """A member of the network. ``code`` names it in policies, routes and evidence."""

    code = models.SlugField(primary_key=True, max_length=40)
    name = models.CharField(max_length=120)
    time_zone = models.CharField(max_length=60, default="UTC")

    def __str__(self) -> str:
        return self.name


class Department(models.Model):
    """A department of one hospital."""

    hospital = models.ForeignKey(Hospital, on_delete=models.PROTECT, related_name="departments")
    code = models.SlugField(max_length=40)
    name = models.CharField(max_length=120)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["hospital", "code"], name="department_once_per_hospital")]
        ordering = ["hospital_id", "code"]

    def __str__(self) -> str:
        return f"{self.name}, {self.hospital_id}"


class User(AbstractUser):
    """One person, one account; API clients are users of their own."""


class Membership(models.Model):
    """The one post that a person holds now. ``version`` moves with every change, so cached decisions go stale.

    Without a hospital the post is network-wide (an officer of the whole network).
    """

    user = models.ForeignKey(User, on_delete=models.PROTECT, related_name="memberships")
    role = models.CharField(max_length=24, choices=Role.choices)
    hospital = models.ForeignKey(Hospital, on_delete=models.PROTECT, null=True, blank=True)
    department = models.ForeignKey(Department, on_delete=models.PROTECT, null=True, blank=True)
    active = models.BooleanField(default=True)
    version = models.PositiveBigIntegerField(default=1)
    since = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user"], condition=Q(active=True), name="one_active_membership"),
            models.CheckConstraint(
                condition=~Q(role__in=[str(r) for r in CLINICAL_ROLES])
                | Q(department__isnull=False, hospital__isnull=False),
                name="clinical_role_has_department",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user} ({self.role})"


class ApiToken(models.Model):
    """A bearer token. Only its SHA-256 is stored; ``prefix`` lets its owner recognise it.

    Without ``scopes`` it does whatever its owner's post may; with some it is of use for these alone.
    """

    digest = models.BinaryField(unique=True, max_length=32)
    prefix = models.CharField(max_length=12)
    name = models.CharField(max_length=80)
    scopes = ArrayField(models.CharField(max_length=80), default=list, blank=True)
    membership = models.ForeignKey(Membership, on_delete=models.CASCADE, related_name="tokens")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"


class CareRelation(models.Model):
    """A patient is in the care of a department of the same hospital. The node keeps its own and decides last."""

    department = models.ForeignKey(Department, on_delete=models.CASCADE, related_name="patients")
    patient_reference = models.CharField(max_length=64)
    label = models.CharField(max_length=80, help_text="Sex and birth decade, never a name.")
    since = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["department", "patient_reference"],
                condition=Q(ended_at__isnull=True),
                name="care_relation_once",
            )
        ]

    def __str__(self) -> str:
        return f"{self.patient_reference} in {self.department}"
