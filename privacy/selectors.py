"""What a person has left today."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db.models import Sum

from accounts.principals import Principal
from privacy import quotas
from privacy.models import Entry, Scope, ScopeKind, Unit


@dataclass(frozen=True, slots=True)
class Gauge:
    """One daily quota in plain units: epsilon (not millionths) or requests.

    ``started_at`` and ``refills_at`` are the quota's present day in its own ``time_zone``, as moments in UTC.
    """

    scope: str
    label: str
    unit: str
    cap: float
    used: float
    time_zone: str
    started_at: datetime
    refills_at: datetime

    @property
    def left(self) -> float:
        return self.cap - self.used

    @property
    def is_privacy(self) -> bool:
        return self.unit == Unit.MICRO_EPSILON

    @property
    def low(self) -> float:
        """Below this the gauge warns: a fifth of the cap."""
        return self.cap * 0.2


def _midnight(day: date, zone: ZoneInfo) -> datetime:
    return datetime.combine(day, time(), tzinfo=zone).astimezone(UTC)


def _gauge(scope: Scope, now: datetime) -> Gauge:
    zone = ZoneInfo(scope.time_zone)
    today = now.astimezone(zone).date()
    # The ledger starts a day with its first charge; until then yesterday's row still holds yesterday's use.
    over = scope.resets and scope.period is not None and scope.period < today
    used, limit = (0, scope.cap) if over else (scope.used, scope.limit)
    scale = quotas.MICRO if scope.unit == Unit.MICRO_EPSILON else 1
    return Gauge(
        scope=scope.kind,
        label=scope.label or scope.key,
        unit=scope.unit,
        cap=limit / scale,
        used=used / scale,
        time_zone=scope.time_zone,
        started_at=_midnight(today, zone),
        refills_at=_midnight(today + timedelta(days=1), zone),
    )


def balances(principal: Principal, *, now: datetime | None = None) -> list[Gauge]:
    """The quotas that the person's requests are charged to: their own first, privacy before requests.

    Only people who may ask have any. Their scopes are opened with the usual caps when this is the first look.
    """
    if not principal.is_clinical:
        return []
    scopes = quotas.scopes_for(principal)
    order = (
        scopes.user_epsilon,
        scopes.department_epsilon,
        scopes.hospital_epsilon,
        scopes.user_requests,
        scopes.department_requests,
    )
    found = Scope.objects.exclude(kind=ScopeKind.BLOCK).in_bulk(order)
    moment = now or datetime.now(UTC)
    return [_gauge(found[pk], moment) for pk in order]


def kept(principal: Principal, reservations: Iterable[UUID]) -> dict[UUID, float]:
    """Epsilon that each reservation holds or has kept of the person's own quota, after what was given back."""
    lines = (
        Entry.objects.filter(
            reservation_id__in=list(reservations),
            scope__kind=ScopeKind.USER,
            scope__key=quotas.user_key(principal.user_id),
            scope__unit=Unit.MICRO_EPSILON,
        )
        .values_list("reservation_id")
        .annotate(total=Sum("amount"))
    )
    return {pk: total / quotas.MICRO for pk, total in lines if pk is not None}
