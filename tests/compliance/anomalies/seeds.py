"""Rows for the rules: one person with a steady past, and requests by the minute."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from compliance.anomalies.parameters import parameters
from compliance.anomalies.registry import RULES
from compliance.anomalies.rows import Asked, Care, Hit, PastDay, Person, Rows, Signal

START = datetime(2026, 3, 10, tzinfo=UTC)
END = START + timedelta(days=1)
NINE = START + timedelta(hours=9)
ANNA = Person(id=1, given="Anna", surname="Weber", role="attending", hospital="north", department=7)
BEN = Person(id=2, given="Ben", surname="Okafor", role="nurse", hospital="north", department=7)
FAR = Person(id=3, given="Ben", surname="Okafor", role="nurse", hospital="lake", department=8)
DAYTIME = tuple(30 if 8 <= hour < 17 else 0 for hour in range(24))


def asked(nth: int, *, at: datetime | None = None, kind: str = "chart", **fields: Any) -> Asked:
    """Anna's ``nth`` request, a minute after the one before, from nine o'clock unless told."""
    moment = at or NINE + timedelta(minutes=nth)
    values: dict[str, Any] = {"person": ANNA.id, "department": 7, "hour": moment.hour, "digest": bytes([nth % 256])}
    return Asked(id=UUID(int=nth + 1), at=moment, kind=kind, **(values | fields))


def signals(count: int, kind: str, outcome: str, *, minutes: int = 1, **fields: Any) -> list[Signal]:
    """Anna's events of one kind, some minutes apart, from nine o'clock."""
    values: dict[str, Any] = {"person": ANNA.id} | fields
    return [
        Signal(seq=n + 1, at=NINE + timedelta(minutes=n * minutes), kind=kind, outcome=outcome, **values)
        for n in range(count)
    ]


def past(days: int, person: int = 1, **each: Any) -> list[PastDay]:
    """A past of alike days before the window."""
    values: dict[str, Any] = {"requests": 8, "patients": 3, "alike": 2} | each
    return [
        PastDay(person=person, department=7, day=(START - timedelta(days=n)).date(), **values)
        for n in range(days, 0, -1)
    ]


def care(patient: str = "p0", **fields: Any) -> Care:
    """A relation of the department since a month before."""
    values: dict[str, Any] = {"department": 7, "since": START - timedelta(days=30), "label": "Female, born 1950s"}
    return Care(patient=patient, **(values | fields))


def rows(requests: Sequence[Asked] = (), **fields: Any) -> Rows:
    """One window."""
    people = {person.id: person for person in (ANNA, BEN, FAR)}
    given: dict[str, Any] = {name: value if name == "hours" else tuple(value) for name, value in fields.items()}
    return Rows(start=START, end=END, people=people, asked=tuple(requests), **given)


def hits(rule: str, found: Rows) -> list[Hit]:
    """What a rule finds at the product's own limits."""
    return list(RULES[rule].find(found, parameters().rules[rule]))
