"""Ranges of whole days, in the site's time zone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

from django.utils import timezone

FIRST_YEAR, LAST_YEAR = 2020, 2100
"""Dates outside of these are mistakes."""


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


def month(first: date) -> Period:
    """The month that begins on ``first``, cut off after today."""
    following = (first.replace(day=1) + timedelta(days=32)).replace(day=1)
    return Period(first.replace(day=1), min(following - timedelta(days=1), timezone.localdate()))


def recent_months(count: int) -> list[date]:
    """The first days of this month and of those before it, newest first."""
    first = timezone.localdate().replace(day=1)
    found = [first]
    while len(found) < count:
        found.append((found[-1] - timedelta(days=1)).replace(day=1))
    return found
