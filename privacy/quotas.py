"""Daily quotas of people and departments. They are policy, not the privacy guarantee: that is the hospital's block."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from accounts.models import Hospital
from accounts.principals import Principal
from privacy.ledger import Charge
from privacy.models import Scope, ScopeKind, Unit

MICRO = 1_000_000
USER_EPSILON = 10.0
DEPARTMENT_EPSILON = {"emergency": 20.0, "radiology": 10.0, "general": 5.0, "research": 2.0}
OTHER_DEPARTMENT_EPSILON = 10.0
USER_REQUESTS = 2_000
DEPARTMENT_REQUESTS = 50_000


@dataclass(frozen=True, slots=True)
class QuotaScopes:
    """Ids of the scopes that a person's requests are charged to."""

    user_epsilon: int
    department_epsilon: int
    user_requests: int
    department_requests: int

    def charges(self, epsilon_micro: int) -> tuple[Charge, ...]:
        """One request, and its epsilon where it has one."""
        requests = (Charge(self.user_requests, 1), Charge(self.department_requests, 1))
        if not epsilon_micro:
            return requests
        epsilon = (Charge(self.user_epsilon, epsilon_micro), Charge(self.department_epsilon, epsilon_micro))
        return (*epsilon, *requests)


def micro(epsilon: float) -> int:
    """Epsilon in whole millionths, rounded up: a charge is never less than the claim."""
    scaled = round(epsilon * MICRO)
    return scaled if scaled >= epsilon * MICRO - 1e-6 else scaled + 1


def user_key(user_id: int) -> str:
    return f"user:{user_id}"


def department_key(department_id: int) -> str:
    return f"department:{department_id}"


def scopes_for(principal: Principal) -> QuotaScopes:
    """The person's scopes, created with their default caps on first use. Two processes may create at once."""
    department = principal.department or "network"
    zone = Hospital.objects.get(pk=principal.hospital).time_zone if principal.hospital else "UTC"
    today = datetime.now(ZoneInfo(zone)).date()
    department_id = principal.department_id or 0
    wanted = [
        (ScopeKind.USER, user_key(principal.user_id), Unit.MICRO_EPSILON, micro(USER_EPSILON), principal.display_name),
        (ScopeKind.USER, user_key(principal.user_id), Unit.REQUESTS, USER_REQUESTS, principal.display_name),
        (
            ScopeKind.DEPARTMENT,
            department_key(department_id),
            Unit.MICRO_EPSILON,
            micro(DEPARTMENT_EPSILON.get(department, OTHER_DEPARTMENT_EPSILON)),
            department.capitalize(),
        ),
        (
            ScopeKind.DEPARTMENT,
            department_key(department_id),
            Unit.REQUESTS,
            DEPARTMENT_REQUESTS,
            department.capitalize(),
        ),
    ]
    common = {"resets": True, "period": today, "time_zone": zone, "hospital": principal.hospital or ""}
    Scope.objects.bulk_create(
        [Scope(kind=k, key=key, unit=unit, cap=cap, label=label, **common) for k, key, unit, cap, label in wanted],
        ignore_conflicts=True,
    )
    keys: dict[tuple[str, str], str] = {(kind, unit): key for kind, key, unit, _, _ in wanted}
    rows = Scope.objects.filter(key__in=set(keys.values())).values_list("kind", "key", "unit", "id")
    found = {(kind, unit): pk for kind, key, unit, pk in rows if keys.get((kind, unit)) == key}
    return QuotaScopes(
        user_epsilon=found[ScopeKind.USER, Unit.MICRO_EPSILON],
        department_epsilon=found[ScopeKind.DEPARTMENT, Unit.MICRO_EPSILON],
        user_requests=found[ScopeKind.USER, Unit.REQUESTS],
        department_requests=found[ScopeKind.DEPARTMENT, Unit.REQUESTS],
    )
