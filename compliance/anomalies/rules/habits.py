"""What is unlike a person's own past: many patients in a row, odd hours, unusual volume, unusual purposes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from statistics import median
from typing import Annotated

import msgspec

from compliance.anomalies.registry import rule
from compliance.anomalies.robust import robust_z, share_near
from compliance.anomalies.rows import Asked, Hit, Rows, over

Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
Days = Annotated[int, msgspec.Meta(ge=1, le=366)]
Factor = Annotated[float, msgspec.Meta(ge=1.0, le=100.0)]
Share = Annotated[float, msgspec.Meta(gt=0.0, lt=1.0)]


class SerialParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``patients`` within ``minutes`` and ``factor`` times the usual; another limit without ``days`` of past."""

    minutes: Annotated[int, msgspec.Meta(ge=1, le=24 * 60)]
    patients: Count
    factor: Factor
    days: Days
    patients_without_past: Count


class HoursParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An hour is odd when less than ``share`` of the past lies within ``margin`` hours of it."""

    days: Days
    requests_of_past: Count
    margin: Annotated[int, msgspec.Meta(ge=0, le=6)]
    share: Share
    requests: Count


class VolumeParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Robust deviations above the own past and above the department's; ``requests`` is the least that counts."""

    days: Days
    requests: Count
    own: Factor
    department: Factor


class PurposeParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The purposes of use that a role usually has, and how many others in a day are remarkable."""

    usual: dict[str, tuple[str, ...]]
    requests: Count


def most_patients(asked: Sequence[Asked], span: timedelta) -> list[Asked]:
    """The stretch of at most ``span`` with the most different patients; ``asked`` in order of time."""
    best: list[Asked] = []
    most, first = 0, 0
    counts: dict[str, int] = {}
    for last, row in enumerate(asked):
        counts[row.patient] = counts.get(row.patient, 0) + 1
        while row.at - asked[first].at > span:
            left = asked[first].patient
            counts[left] -= 1
            if not counts[left]:
                del counts[left]
            first += 1
        if len(counts) > most:
            most, best = len(counts), list(asked[first : last + 1])
    return best


@rule(
    "serial-cases",
    version=1,
    title="Many patients in a short time",
    looks_for="One person who asks about far more different patients in a short time than is their habit.",
    parameters=SerialParameters,
)
def serial_cases(rows: Rows, limits: SerialParameters) -> Iterator[Hit]:
    for person, asked in rows.by_person():
        stretch = most_patients([row for row in asked if row.patient], timedelta(minutes=limits.minutes))
        patients = len({row.patient for row in stretch})
        past = [day.patients for day in rows.days_of(person.id) if day.patients]
        if len(past) >= limits.days:
            usual = median(past)
            limit, habit = max(limits.patients, limits.factor * usual), f"usually {usual:g}"
        else:
            limit, habit = limits.patients_without_past, "with little past to compare with"
        if patients >= limit:
            yield Hit(
                person=person.id,
                score=over(patients, limit),
                sentence=f"Asked about {patients} different patients within {limits.minutes} minutes, {habit}.",
                requests=tuple(row.id for row in stretch),
            )


@rule(
    "odd-hours",
    version=1,
    title="Odd hours",
    looks_for="Requests at hours of the day at which this person hardly ever works.",
    not_covered="There are no rosters here: a new shift looks odd until it has become the habit.",
    parameters=HoursParameters,
)
def odd_hours(rows: Rows, limits: HoursParameters) -> Iterator[Hit]:
    for person, asked in rows.by_person():
        hours = rows.hours.get(person.id, ())
        if len(rows.days_of(person.id)) < limits.days or sum(hours) < limits.requests_of_past:
            continue
        odd = [row for row in asked if share_near(hours, row.hour, limits.margin) < limits.share]
        if len(odd) >= limits.requests:
            spelled = ", ".join(f"{hour}:00" for hour in sorted({row.hour for row in odd}))
            yield Hit(
                person=person.id,
                score=over(len(odd), limits.requests),
                sentence=f"{len(odd)} requests at hours that are not this person's ({spelled}).",
                requests=tuple(row.id for row in odd),
            )


@rule(
    "volume",
    version=1,
    title="Unusual volume",
    looks_for="Far more requests in a day than this person's own days and the department's people have.",
    parameters=VolumeParameters,
)
def volume(rows: Rows, limits: VolumeParameters) -> Iterator[Hit]:
    for person, asked in rows.by_person():
        number = len(asked)
        own = [day.requests for day in rows.days_of(person.id)]
        if number < limits.requests or len(own) < limits.days:
            continue
        place = person.department
        others = rows.requests_by_department.get(place, []) if place is not None else []
        mine, theirs = robust_z(number, own), robust_z(number, others or own)
        if mine >= limits.own and theirs >= limits.department:
            yield Hit(
                person=person.id,
                score=over(mine, limits.own),
                sentence=(
                    f"{number} requests in a day; usually {median(own):g}, and {median(others or own):g} in the"
                    f" department ({mine:.1f} and {theirs:.1f} robust deviations)."
                ),
                requests=tuple(row.id for row in asked),
            )


@rule(
    "purpose",
    version=1,
    title="Unusual purpose of use",
    looks_for="Several requests for purposes that the person's role does not usually have.",
    parameters=PurposeParameters,
)
def purpose(rows: Rows, limits: PurposeParameters) -> Iterator[Hit]:
    for person, asked in rows.by_person():
        usual = limits.usual.get(person.role)
        if usual is None:
            continue
        found = [row for row in asked if row.purpose not in usual]
        if len(found) >= limits.requests:
            named = ", ".join(sorted({row.purpose for row in found}))
            yield Hit(
                person=person.id,
                score=over(len(found), limits.requests),
                sentence=f"{len(found)} requests for purposes unusual for the role ({named}).",
                requests=tuple(row.id for row in found),
            )
