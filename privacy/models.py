"""Budgets and what was charged to them. ``privacy.ledger`` is the only writer; the arithmetic is in ``sql/``."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import F, Q


class ScopeKind(models.TextChoices):
    """Blocks carry the guarantee; quotas are policy and refill daily."""

    BLOCK = "block", "hospital dataset block"
    USER = "user"
    DEPARTMENT = "department"
    HOSPITAL = "hospital"


class Unit(models.TextChoices):
    """What a scope counts, always in whole units."""

    NANO_RDP = "nano_rdp", "Renyi divergence at the block's order, 1e-9"
    FEMTO_DELTA = "femto_delta", "delta of approximate mechanisms, plain sum, 1e-15"
    MICRO_EPSILON = "micro_epsilon", "epsilon, plain sum, 1e-6"
    REQUESTS = "requests"


class Scope(models.Model):
    """One budget. ``used`` lies between 0 and ``cap + extra`` because the database says so.

    A block's ``cap`` is the Renyi filter's at the frozen order ``alpha`` for (``epsilon``, ``delta``); it never
    resets, and once ``retired_at`` is set it pays for nothing any more. Its second row, in ``FEMTO_DELTA``, holds what
    mechanisms with a delta of their own may add to the filter's. A quota has ``resets=True`` and starts again on each
    day of its ``time_zone``; ``extra`` is what was granted to it (or, negative, handed over to another quota) for the
    present day alone.
    """

    kind = models.CharField(max_length=16, choices=ScopeKind.choices)
    key = models.CharField(max_length=80)
    unit = models.CharField(max_length=16, choices=Unit.choices)
    cap = models.BigIntegerField()
    used = models.BigIntegerField(default=0)
    extra = models.BigIntegerField(default=0, db_default=0)
    resets = models.BooleanField(default=False)
    period = models.DateField(null=True, blank=True)
    time_zone = models.CharField(max_length=60, default="UTC")
    hospital = models.CharField(max_length=40, blank=True)
    label = models.CharField(max_length=120, blank=True)
    epsilon = models.FloatField(null=True, blank=True)
    delta = models.FloatField(null=True, blank=True)
    alpha = models.FloatField(null=True, blank=True)
    retired_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["kind", "key", "unit"], name="scope_once"),
            models.CheckConstraint(condition=Q(retired_at=None) | Q(kind="block"), name="only_blocks_retire"),
            models.CheckConstraint(
                condition=Q(used__gte=0) & Q(used__lte=F("cap") + F("extra")), name="scope_not_overspent"
            ),
            models.CheckConstraint(
                condition=~Q(kind="block")
                | Q(resets=False, extra=0, epsilon__isnull=False, delta__isnull=False, alpha__isnull=False),
                name="block_is_a_frozen_filter",
            ),
            models.CheckConstraint(condition=Q(resets=False) | Q(period__isnull=False), name="quota_has_a_period"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.key} ({self.unit})"

    @property
    def left(self) -> int:
        """What the row's own period has left; a period that is over starts again with the next charge."""
        return self.limit - self.used

    @property
    def limit(self) -> int:
        """What may be used of it in its present period, grants included."""
        return self.cap + self.extra


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


class Curve(models.Model):
    """The Renyi divergences of what a reservation pays for, in nano-RDP at the orders of ``grid``; append-only.

    None where a release has no finite divergence. Filters use one order alone; the curve is for reports and auditors.
    """

    reservation = models.OneToOneField(Reservation, on_delete=models.PROTECT, primary_key=True, related_name="curve")
    grid = models.CharField(max_length=24)
    nano = ArrayField(models.BigIntegerField(null=True))

    def __str__(self) -> str:
        return f"{self.pk} on {self.grid}"


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


class LimitDocument(models.Model):
    """A document of daily limits that somebody applied; append-only, the newest one counts."""

    document = models.JSONField()
    digest = models.CharField(max_length=64)
    applied_by = models.CharField(max_length=150)
    applied_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"limits {self.digest[:12]}"


class GrantState(models.TextChoices):
    """A wish for more is decided once."""

    REQUESTED = "requested"
    APPROVED = "approved"
    DENIED = "denied"


class QuotaGrant(models.Model):
    """A wish for more of a quota on one day, from nowhere (``source`` null) or out of another quota.

    ``amount`` counts in the units of ``scope``. Approval takes a second person.
    """

    id = models.UUIDField(primary_key=True)
    scope = models.ForeignKey(Scope, on_delete=models.PROTECT, related_name="grants")
    source = models.ForeignKey(Scope, on_delete=models.PROTECT, null=True, related_name="handed_over")
    amount = models.BigIntegerField()
    reason = models.CharField(max_length=300)
    state = models.CharField(max_length=12, choices=GrantState.choices, default=GrantState.REQUESTED)
    period = models.DateField(help_text="The quota's day for which it was asked.")
    requested_by = models.BigIntegerField()
    requested_at = models.DateTimeField(auto_now_add=True)
    decided_by = models.BigIntegerField(null=True)
    decided_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(amount__gt=0), name="grant_is_positive"),
            models.CheckConstraint(condition=~Q(source=F("scope")), name="grant_from_elsewhere"),
            models.CheckConstraint(
                condition=Q(state="requested", decided_by=None, decided_at=None)
                | Q(decided_by__isnull=False, decided_at__isnull=False) & ~Q(state="requested"),
                name="grant_decided_by_somebody",
            ),
            models.CheckConstraint(condition=~Q(decided_by=F("requested_by")), name="grant_by_a_second_person"),
            models.UniqueConstraint(
                fields=["scope", "requested_by", "period"],
                condition=Q(state="requested"),
                name="grant_one_open_wish",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.id} {self.state}"
