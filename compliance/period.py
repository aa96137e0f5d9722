"""Ranges of whole days, in the site's time zone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from django.utils import timezone

FIRST_YEAR, LAST_YEAR = 2020, 2100
"""Dates outside of these are mistakes."""
LONGEST_REPORT = 400
"""Days that a report may cover."""


@dataclass(frozen=True, slots=True)
class Period:
    """From the start of ``start`` to the end of ``end``, both included."""

    start: date
    end: date

    @property
    def bounds(self) -> tuple[datetime, datetime]:
        """The first instant of the period and the first one after it."""
        zone = timezone.get_current_timezone()
        return (
            datetime.combine(self.start, time.min, tzinfo=zone),
            datetime.combine(self.end + timedelta(days=1), time.min, tzinfo=zone),
        )

    @property
    def days(self) -> list[date]:
        """Every day of the period."""
        return [self.start + timedelta(days=n) for n in range((self.end - self.start).days + 1)]


def today() -> Period:
    """The present day."""
    day = timezone.localdate()
    return Period(day, day)


def last_days(count: int) -> Period:
    """The last ``count`` days, today included."""
    day = timezone.localdate()
    return Period(day - timedelta(days=count - 1), day)


def month_to_date() -> Period:
    """From the first of this month to today."""
    day = timezone.localdate()
    return Period(day.replace(day=1), day)


def _first_of_quarter(day: date) -> date:
    return day.replace(month=(day.month - 1) // 3 * 3 + 1, day=1)


def _months_on(first: date, count: int) -> date:
    months = first.year * 12 + first.month - 1 + count
    return date(months // 12, months % 12 + 1, 1)


_WHOLE: dict[str, Callable[[date], tuple[date, date]]] = {
    "daily": lambda day: (day, day + timedelta(days=1)),
    "weekly": lambda day: (day - timedelta(days=day.weekday()), day + timedelta(days=7 - day.weekday())),
    "monthly": lambda day: (day.replace(day=1), _months_on(day.replace(day=1), 1)),
    "quarterly": lambda day: (_first_of_quarter(day), _months_on(_first_of_quarter(day), 3)),
}
"""First day, and first day after, of the day, week (from Monday), month or quarter that a day is in."""


def whole(kind: str, day: date) -> Period:
    """The day, week, month or quarter that ``day`` is in, to its last day.

    Raises:
        KeyError: no such kind, or one that a calendar does not divide into.
    """
    start, following = _WHOLE[kind](day)
    return Period(start, following - timedelta(days=1))


def latest_complete(kind: str) -> Period:
    """The last day, week, month or quarter that is over.

    Raises:
        KeyError: as of :func:`whole`.
    """
    return whole(kind, whole(kind, timezone.localdate()).start - timedelta(days=1))


def name(start: date, end: date, kind: str = "range") -> str:
    """A period as people say it: ``March 2026``, ``2nd quarter 2026``, ``3 March 2026``, ``3 to 9 March 2026``."""
    if kind == "monthly":
        return f"{start:%B %Y}"
    if kind == "quarterly":
        nth = (start.month - 1) // 3 + 1
        return f"{('1st', '2nd', '3rd', '4th')[nth - 1]} quarter {start.year}"
    last = f"{end.day} {end:%B %Y}"
    if start == end:
        return last
    if (start.year, start.month) == (end.year, end.month):
        return f"{start.day} to {last}"
    first = f"{start.day} {start:%B}" if start.year == end.year else f"{start.day} {start:%B %Y}"
    return f"{first} to {last}"
