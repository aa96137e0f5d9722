"""A department's daily allowance by name: what ``fdrouter.BudgetManager`` stands on inside Django.

The rules are the platform's own: caps from the limits that count, days in the hospital's time zone, and the ledger as
the only writer. A charge here is of allowances alone. What the hospital's patients pay is charged to its block with the
release itself, by the node that holds the records.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from django.db import transaction

from accounts.models import Department, Hospital
from fdrouter.errors import InvalidParameter
from privacy import ledger, limits, quotas
from privacy.dp.units import MICRO
from privacy.ledger import Charge, Request
from privacy.models import Scope, ScopeKind, Unit

OWNER = "budget-manager"


class DepartmentBudgets:
    """The allowances of one hospital's departments.

    ``wanted`` gives the limit that the caller takes each department to have, in millionths of epsilon; None takes them
    all as they are. Limits are set for the whole platform and not here, so a figure that differs is refused.

    Raises:
        InvalidParameter: no such hospital or department (``field`` is ``hospital`` or ``limits``), or another limit
            than the one that counts, which ``details['cap']`` gives.
    """

    def __init__(self, wanted: Mapping[str, int] | None, hospital: str | None) -> None:
        self._hospital = _hospital(hospital)
        codes = dict(Department.objects.filter(hospital=self._hospital).values_list("code", "pk"))
        named = codes if wanted is None else wanted
        if unknown := sorted(set(named) - set(codes)):
            raise InvalidParameter(f"{self._hospital.name} has no department {unknown[0]}.", field="limits")
        self._departments = {code: codes[code] for code in named}
        for code, amount in (wanted or {}).items():
            cap = self._scopes(code)[0].cap
            if cap != amount:
                raise InvalidParameter(
                    f"The limit of {code} at {self._hospital.name} is {cap / MICRO:g}. Limits are changed for "
                    "the whole platform, not by a program that spends them.",
                    field="limits",
                    department=code,
                    cap=cap / MICRO,
                )

    @property
    def departments(self) -> list[str]:
        return sorted(self._departments)

    def _scopes(self, department: str) -> list[Scope]:
        """The department's and its hospital's allowance, opened on first use. Two processes may open at once."""
        zone = self._hospital.time_zone
        wanted = [
            (ScopeKind.DEPARTMENT, quotas.department_key(self._departments[department]), department.capitalize()),
            (ScopeKind.HOSPITAL, quotas.hospital_key(self._hospital.pk), self._hospital.pk),
        ]
        limit, unit = limits.effective(), Unit.MICRO_EPSILON
        Scope.objects.bulk_create(
            [
                Scope(
                    kind=kind,
                    key=key,
                    unit=unit,
                    cap=limit.cap(kind, unit, self._hospital.pk, department),
                    label=label,
                    resets=True,
                    period=datetime.now(ZoneInfo(zone)).date(),
                    time_zone=zone,
                    hospital=self._hospital.pk,
                )
                for kind, key, label in wanted
            ],
            ignore_conflicts=True,
        )
        found = {
            (scope.kind, scope.key): scope for scope in Scope.objects.filter(unit=unit, hospital=self._hospital.pk)
        }
        return [found[kind, key] for kind, key, _ in wanted]

    def left(self, department: str) -> int:
        """Millionths of epsilon that a charge may still take today: the less of department and hospital."""
        return min(_left(scope) for scope in self._scopes(department))

    def charge(self, department: str, amount: int) -> int:
        """Takes ``amount`` millionths from department and hospital at once; gives what is :meth:`left`.

        Raises:
            QuotaSpent: one of the two cannot pay; nothing was charged.
        """
        scopes = self._scopes(department)
        with transaction.atomic():
            request = Request(id=uuid.uuid4(), charges=[Charge(scope.pk, amount) for scope in scopes], owner=OWNER)
            ledger.reserve(request)
            ledger.settle(request.id)
            return self.left(department)


def _hospital(code: str | None) -> Hospital:
    if code is not None:
        found = Hospital.objects.filter(pk=code).first()
        if found is None:
            raise InvalidParameter("There is no such hospital.", field="hospital")
        return found
    some = list(Hospital.objects.all()[:2])
    if len(some) != 1:
        raise InvalidParameter("Name the hospital whose departments these are.", field="hospital")
    return some[0]


def _left(scope: Scope) -> int:
    today = datetime.now(UTC).astimezone(ZoneInfo(scope.time_zone)).date()
    # The ledger starts a day with its first charge; until then the row still holds the day before.
    if scope.period is not None and scope.period < today:
        return scope.cap
    return scope.cap + scope.extra - scope.used
