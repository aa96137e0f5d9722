"""Daily quotas of people and departments. They are policy, not the privacy guarantee: that is the hospital's block."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from django.db.models import BigIntegerField, F
from django.db.models.functions import Greatest

from accounts.models import Hospital
from accounts.principals import Principal
from privacy import limits
from privacy.dp.units import MICRO, micro
from privacy.ledger import Charge
from privacy.models import Scope, ScopeKind, Unit

__all__ = ["MICRO", "QuotaScopes", "department_key", "hospital_key", "micro", "scopes_for", "user_key"]


@dataclass(frozen=True, slots=True)
class QuotaScopes:
    """Ids of the scopes that a person's requests are charged to."""

    user_epsilon: int
    department_epsilon: int
    hospital_epsilon: int
    user_requests: int
    department_requests: int

    def charges(self, epsilon_micro: int) -> tuple[Charge, ...]:
        """One request, and its epsilon where it has one."""
        requests = (Charge(self.user_requests, 1), Charge(self.department_requests, 1))
        if not epsilon_micro:
            return requests
        payers = (self.user_epsilon, self.department_epsilon, self.hospital_epsilon)
        return (*(Charge(scope, epsilon_micro) for scope in payers), *requests)


def user_key(user_id: int) -> str:
    return f"user:{user_id}"


def department_key(department_id: int) -> str:
    return f"department:{department_id}"


def hospital_key(hospital: str) -> str:
    return f"hospital:{hospital}"


def _wanted(principal: Principal) -> list[Scope]:
    """The person's scopes as they are opened: nothing used, caps from the limits that count now."""
    hospital, department = principal.hospital or "", principal.department or ""
    limit = limits.effective()
    home = Hospital.objects.get(pk=hospital) if hospital else None
    zone = home.time_zone if home else "UTC"
    user, ward = user_key(principal.user_id), department_key(principal.department_id or 0)
    ward_name = (department or "network").capitalize()
    named = [
        (ScopeKind.USER, user, Unit.MICRO_EPSILON, principal.display_name),
        (ScopeKind.USER, user, Unit.REQUESTS, principal.display_name),
        (ScopeKind.DEPARTMENT, ward, Unit.MICRO_EPSILON, ward_name),
        (ScopeKind.DEPARTMENT, ward, Unit.REQUESTS, ward_name),
        (ScopeKind.HOSPITAL, hospital_key(hospital or "network"), Unit.MICRO_EPSILON, home.name if home else "network"),
    ]
    return [
        Scope(
            kind=kind,
            key=key,
            unit=unit,
            cap=limit.cap(kind, unit, hospital, department),
            label=label,
            resets=True,
            period=datetime.now(ZoneInfo(zone)).date(),
            time_zone=zone,
            hospital=hospital,
        )
        for kind, key, unit, label in named
    ]


def _move(scope: Scope) -> None:
    """A person who changed hospital takes their own quota along: it has the new one's limit, day and officer."""
    room = Greatest(F("extra"), F("used") - scope.cap, output_field=BigIntegerField())
    own = Scope.objects.filter(kind=scope.kind, key=scope.key, unit=scope.unit)
    own.update(hospital=scope.hospital, time_zone=scope.time_zone, cap=scope.cap, extra=room)


def scopes_for(principal: Principal) -> QuotaScopes:
    """The person's scopes, opened on first use. Two processes may open at once."""
    wanted = _wanted(principal)
    Scope.objects.bulk_create(wanted, ignore_conflicts=True)
    rows = Scope.objects.filter(key__in={scope.key for scope in wanted}).values_list("kind", "unit", "hospital", "id")
    found = {}
    opened = {(scope.kind, scope.unit): scope for scope in wanted}
    for kind, unit, hospital, pk in rows:
        found[kind, unit] = pk
        if kind == ScopeKind.USER and hospital != (principal.hospital or ""):
            _move(opened[kind, unit])
    return QuotaScopes(
        user_epsilon=found[ScopeKind.USER, Unit.MICRO_EPSILON],
        department_epsilon=found[ScopeKind.DEPARTMENT, Unit.MICRO_EPSILON],
        hospital_epsilon=found[ScopeKind.HOSPITAL, Unit.MICRO_EPSILON],
        user_requests=found[ScopeKind.USER, Unit.REQUESTS],
        department_requests=found[ScopeKind.DEPARTMENT, Unit.REQUESTS],
    )
