"""Budgets and what was charged to them. ``privacy.ledger`` is the only writer; the arithmetic is in ``sql/``."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q


class ScopeKind(models.TextChoices):
    """Blocks carry the guarantee; quotas are policy and refill daily."""

    BLOCK = "block", "hospital dataset block"
    USER = "user"
    DEPARTMENT = "department"


class Unit(models.TextChoices):
    """What a scope counts, always in whole units."""

    NANO_RDP = "nano_rdp", "Renyi divergence at the block's order, 1e-9"
    MICRO_EPSILON = "micro_epsilon", "epsilon, plain sum, 1e-6"
    REQUESTS = "requests"


class Scope(models.Model):
    """One budget. ``used`` lies between 0 and ``cap`` because the database says so.

    A block's ``cap`` is the Renyi filter's at the frozen order ``alpha`` for (``epsilon``, ``delta``); it never
    resets. A quota has ``resets=True`` and starts again on each day of its ``time_zone``.
    """

    kind = models.CharField(max_length=16, choices=ScopeKind.choices)
    key = models.CharField(max_length=80)
    unit = models.CharField(max_length=16, choices=Unit.choices)
    cap = models.BigIntegerField()
    used = models.BigIntegerField(default=0)
    resets = models.BooleanField(default=False)
    period = models.DateField(null=True, blank=True)
    time_zone = models.CharField(max_length=60, default="UTC")
    hospital = models.CharField(max_length=40, blank=True)
    label = models.CharField(max_length=120, blank=True)
    epsilon = models.FloatField(null=True, blank=True)
    delta = models.FloatField(null=True, blank=True)
    alpha = models.FloatField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["kind", "key", "unit"], name="scope_once"),
            models.CheckConstraint(condition=Q(used__gte=0) & Q(used__lte=F("cap")), name="scope_not_overspent"),
            models.CheckConstraint(
                condition=~Q(kind="block")
                | Q(resets=False, epsilon__isnull=False, delta__isnull=False, alpha__isnull=False),
                name="block_is_a_frozen_filter",
            ),
            models.CheckConstraint(condition=Q(resets=False) | Q(period__isnull=False), name="quota_has_a_period"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.key} ({self.unit})"


class ReservationState(models.TextChoices):
    """A reservation ends once; only ``released`` gives everything back."""

    RESERVED = "reserved"
    SETTLED = "settled"
    RELEASED = "released"
    EXPIRED = "expired"


class Reservation(models.Model):
    """A promise to pay, made before anything is dispatched."""

    id = models.UUIDField(primary_key=True)
    state = models.CharField(max_length=12, choices=ReservationState.choices, default=ReservationState.RESERVED)
    owner = models.CharField(max_length=80, blank=True)
    idempotency_key = models.CharField(max_length=200, null=True, blank=True)
    event = models.JSONField(null=True, blank=True, help_text="The DP event: mechanism, parameters, unit, adjacency.")
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["owner", "idempotency_key"],
                condition=Q(idempotency_key__isnull=False),
                name="reservation_once_per_key",
            )
        ]
        indexes = [models.Index(fields=["expires_at"], condition=Q(state="reserved"), name="reservation_open")]

    def __str__(self) -> str:
        return f"{self.id} {self.state}"


class EntryKind(models.TextChoices):
    """Why ``used`` moved."""

    RESERVE = "reserve"
    REFUND = "refund"
    RESET = "reset"


class Entry(models.Model):
    """One movement of one scope; append-only. The sum over a scope's entries is its ``used``."""

    seq = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(auto_now_add=True)
    reservation = models.ForeignKey(Reservation, on_delete=models.PROTECT, null=True, related_name="entries")
    scope = models.ForeignKey(Scope, on_delete=models.PROTECT, related_name="entries")
    kind = models.CharField(max_length=12, choices=EntryKind.choices)
    amount = models.BigIntegerField()
    period = models.DateField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["reservation", "scope", "kind"],
                condition=Q(reservation__isnull=False),
                name="entry_once",
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.amount} of {self.scope_id}"
