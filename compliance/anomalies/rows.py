"""The rows that rules look at: what happened in one window, and the habits of those who did it. No contents."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from typing import TypeVar
from uuid import UUID

R = TypeVar("R")
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who acts, in their present post. Names are those of the account."""

    id: int
    given: str = ""
    surname: str = ""
    role: str = ""
    hospital: str = ""
    department: int | None = None
    department_code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request. ``hour`` is the hour of the day at the person's hospital; ``size`` is of the sealed text, bytes."""

    id: UUID
    person: int
    at: datetime
    hour: int
    kind: str
    purpose: str = "TREAT"
    department: int | None = None
    hospitals: tuple[str, ...] = ()
    patient: str = ""
    digest: bytes = b""
    epsilon_micro: int = 0
    size: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One event of the log that is no request: a sign-in, or a refusal. ``asked`` is the kind that was refused."""

    seq: int
    person: int
    at: datetime
    kind: str
    outcome: str
    asked: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Care:
    """A patient in the care of a department for a while, as the coordinator knows it."""

    patient: str
    department: int
    since: datetime
    ended: datetime | None = None
    label: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A patient that an officer flagged. ``kind``: ``vip`` or ``staff``; ``user`` is the patient's own account."""

    patient: str
    hospital: str
    kind: str
    user: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PastDay:
    """One person's day before the window. Days without a request have no row.

    ``patients``: the most different patients within one hour. ``alike``: the most different questions of one kind,
    asked of the same hospitals at the same epsilon.
    """

    person: int
    department: int | None
    day: date
    requests: int
    patients: int = 0
    alike: int = 0


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Everything that the rules may look at: one window ``[start, end)`` and what came before it.

    ``hours`` holds for each person how many requests of the past fell into each hour of the day (24 numbers). ``care``
    covers the patients that occur; ``past`` covers the people and their departments.
    """

    start: datetime
    end: datetime
    people: Mapping[int, Person]
    asked: tuple[Asked, ...] = ()
    signals: tuple[Signal, ...] = ()
    care: tuple[Care, ...] = ()
    watched: tuple[Watched, ...] = ()
    past: tuple[PastDay, ...] = ()
    hours: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def by_person(self) -> Iterator[tuple[Person, list[Asked]]]:
        """Everybody who asked something, with their requests in order of time."""
        return ((self.people[person], rows) for person, rows in self._asked.items() if person in self.people)

    def care_of(self, patient: str) -> list[Care]:
        """The patient's relations, of all departments."""
        return self._care.get(patient, [])

    def charts(self) -> Iterator[tuple[Person, str, list[Asked]]]:
        """Each person with each patient that they asked about."""
        for person, rows in self.by_person():
            for patient, theirs in _grouped(rows, lambda row: row.patient).items():
                if patient:
                    yield person, patient, theirs

    def days_of(self, person: int) -> list[PastDay]:
        """The person's own past days, oldest first."""
        return self._past.get(person, [])

    def signals_of(self, person: int) -> list[Signal]:
        """The person's events in order of time."""
        return self._signals.get(person, [])

    @cached_property
    def _asked(self) -> dict[int, list[Asked]]:
        return _grouped(sorted(self.asked, key=lambda row: (row.at, row.id)), lambda row: row.person)

    @cached_property
    def _care(self) -> dict[str, list[Care]]:
        return _grouped(self.care, lambda row: row.patient)

    @cached_property
    def _past(self) -> dict[int, list[PastDay]]:
        return _grouped(sorted(self.past, key=lambda row: row.day), lambda row: row.person)

    @cached_property
    def _signals(self) -> dict[int, list[Signal]]:
        return _grouped(sorted(self.signals, key=lambda row: (row.at, row.seq)), lambda row: row.person)

    @cached_property
    def requests_by_department(self) -> dict[int | None, list[int]]:
        """Requests on each past day of each person, by department."""
        found = _grouped(self.past, lambda row: row.department)
        return {place: [day.requests for day in days] for place, days in found.items()}


def _grouped(rows: Iterable[R], key: Callable[[R], K]) -> dict[K, list[R]]:
    found: dict[K, list[R]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """What a rule found about one person in the window, and the rows it rests on.

    ``score`` is 0 to 100: 50 is the rule's limit, 100 is twice the limit or more. ``sentence`` holds figures only.
    """

    person: int
    score: int
    sentence: str
    patient: str = ""
    requests: tuple[UUID, ...] = ()
    seqs: tuple[int, ...] = ()

    @property
    def weight(self) -> int:
        """How many rows it rests on."""
        return len(self.requests) + len(self.seqs)


def over(measure: float, limit: float) -> int:
    """A score from how far a measure is beyond its limit."""
    return max(0, min(100, round(50 * measure / limit)))
