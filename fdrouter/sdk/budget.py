"""Budgets by department: in memory in any Python process, in the ledger inside Django. The rules are the same."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from threading import Lock
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fdrouter.errors import InvalidParameter, QuotaSpent
from fdrouter.sdk.errors import PrivacyBudgetExceeded
from privacy.dp.units import MICRO, micro

if TYPE_CHECKING:
    from privacy.budget import DepartmentBudgets

MAX_EPSILON = 10_000.0


def _number(value: object, field: str, low: float) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= MAX_EPSILON:
        raise InvalidParameter(f"{field} must be a number from {low:g} to {MAX_EPSILON:g}.", field=field)
    return float(value)


class _Memory:
    """Budgets of this process alone; a process that starts anew starts with full ones."""

    def __init__(self, limits: Mapping[str, int], zone: ZoneInfo, now: Callable[[], datetime]) -> None:
        self._limits, self._zone, self._now = dict(limits), zone, now
        self._used = dict.fromkeys(limits, 0)
        self._lock = Lock()
        self._day: date = self._today()

    def _today(self) -> date:
        return self._now().astimezone(self._zone).date()

    def _roll(self) -> None:
        if (today := self._today()) > self._day:  # a clock that is set back gives nothing back
            self._day, self._used = today, dict.fromkeys(self._limits, 0)

    @property
    def departments(self) -> list[str]:
        return sorted(self._limits)

    def left(self, department: str) -> int:
        with self._lock:
            self._roll()
            return self._limits[department] - self._used[department]

    def charge(self, department: str, amount: int) -> int:
        with self._lock:
            self._roll()
            cap, used = self._limits[department], self._used[department]
            if used + amount > cap:
                raise QuotaSpent(
                    f"Today's privacy budget of {department} cannot pay for this.",
                    scope="department",
                    key=department,
                    unit="micro_epsilon",
                    cap=cap,
                    used=used,
                    needed=amount,
                )
            self._used[department] = used + amount
            return cap - used - amount


class BudgetManager:
    """Daily budgets of epsilon by department.

    What is counted is the plain sum of what queries claim: an allowance of those who ask, and policy. It is no
    guarantee to the patients on record, which is the block of a hospital and a ``PrivacyAccountant``'s business; the
    two figures are never added to each other.

    ``limits`` maps departments to epsilon a day. In a plain Python process they are kept in memory, for this process
    alone, and begin anew at midnight of ``time_zone``. Inside Django, with the privacy app installed, the ledger keeps
    them: ``hospital`` names whose departments they are (not needed where there is one), days are the hospital's own,
    the hospital's allowance pays too, and ``limits`` must say what the platform's limits say, or be None.

    Safe to use from several threads. ``ledger`` tells which of the two it is.

    Raises:
        InvalidParameter: no department, a limit that is no number from 0 to 10000, a limit that differs from the
            platform's, a ``hospital`` without a ledger or a ``time_zone`` with one.
    """

    def __init__(
        self,
        limits: Mapping[str, float] | None = None,
        *,
        hospital: str | None = None,
        time_zone: str | None = None,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        checked = None if limits is None else _checked(limits)
        self.ledger = _inside_django()
        self._budgets: _Memory | DepartmentBudgets
        if self.ledger:
            if time_zone is not None or now is not None:
                raise InvalidParameter("The ledger's days are those of the hospital.", field="time_zone")
            from privacy.budget import DepartmentBudgets

            self._budgets = DepartmentBudgets(checked, hospital)
            return
        if hospital is not None:
            raise InvalidParameter(
                "A hospital's budgets are in its ledger, and there is none in this process: these would be kept in "
                "memory and bind nobody else.",
                field="hospital",
            )
        if checked is None:
            raise InvalidParameter("limits must name departments and their epsilon a day.", field="limits")
        self._budgets = _Memory(checked, _zone(time_zone or "UTC"), now or (lambda: datetime.now(UTC)))

    @property
    def departments(self) -> list[str]:
        """The departments that have a budget here."""
        return self._budgets.departments

    def can_query(self, department: str, epsilon: float) -> bool:
        """Whether the budget pays for ``epsilon`` now. Only :meth:`deduct` takes it, and it looks again.

        Raises:
            InvalidParameter: an unknown department, or an epsilon that is no number above 0.
        """
        return self._amount(department, epsilon) <= self._budgets.left(department)

    def deduct(self, department: str, epsilon: float) -> float:
        """Takes ``epsilon`` (rounded up to a millionth) at once or not at all; gives what is left today.

        Raises:
            PrivacyBudgetExceeded: the budget does not pay for it; nothing was taken.
            InvalidParameter: as for :meth:`can_query`.
        """
        amount = self._amount(department, epsilon)
        try:
            return self._budgets.charge(department, amount) / MICRO
        except QuotaSpent as error:
            raise PrivacyBudgetExceeded(error.message, code=error.code, details=error.details) from error

    def remaining(self, department: str) -> float:
        """Epsilon that is left today."""
        self._known(department)
        return self._budgets.left(department) / MICRO

    def _known(self, department: object) -> None:
        if department not in self._budgets.departments:
            raise InvalidParameter("This department has no budget here.", field="department")

    def _amount(self, department: str, epsilon: float) -> int:
        self._known(department)
        return micro(_number(epsilon, "epsilon", 1e-9))


def _checked(limits: object) -> dict[str, int]:
    if not isinstance(limits, Mapping) or not limits or not all(isinstance(name, str) and name for name in limits):
        raise InvalidParameter("limits must name departments and their epsilon a day.", field="limits")
    # Rounded down: a limit is never more than what was said.
    return {name: math.floor(round(_number(value, "limits", 0) * MICRO, 6)) for name, value in limits.items()}


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidParameter("time_zone is not known.", field="time_zone") from error


def _inside_django() -> bool:
    if "django" not in sys.modules:
        return False
    from django.conf import settings

    return bool(settings.configured) and any(
        name == "privacy" or name.startswith("privacy.") for name in settings.INSTALLED_APPS
    )
