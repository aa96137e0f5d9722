"""The rows that rules look at: what happened in one window, and the habits of those who did it. No contents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from uuid import UUID


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


@dataclass(frozen=True, slots=True, kw_only=True)
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
        found: dict[int, list[Asked]] = {}
        for row in sorted(self.asked, key=lambda row: (row.at, row.id)):
            found.setdefault(row.person, []).append(row)
        return ((self.people[person], rows) for person, rows in found.items() if person in self.people)

    def charts(self) -> Iterator[tuple[Person, str, list[Asked]]]:
        """Each person with each patient that they asked about."""
        for person, rows in self.by_person():
            found: dict[str, list[Asked]] = {}
            for row in rows:
                if row.patient:
                    found.setdefault(row.patient, []).append(row)
            for patient, theirs in found.items():
                yield person, patient, theirs

    def days_of(self, person: int) -> list[PastDay]:
        """The person's own past days, oldest first."""
        return sorted((row for row in self.past if row.person == person), key=lambda row: row.day)

    def signals_of(self, person: int) -> list[Signal]:
        """The person's events in order of time."""
        return sorted((row for row in self.signals if row.person == person), key=lambda row: (row.at, row.seq))


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
