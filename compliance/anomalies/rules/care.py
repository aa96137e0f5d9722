"""Who looked at whose chart: without care, relatives, colleagues, well-known people."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Annotated

import msgspec

from compliance.anomalies.registry import rule
from compliance.anomalies.rows import Asked, Care, Hit, Person, Rows, over

Hours = Annotated[int, msgspec.Meta(ge=0, le=24 * 366)]
Count = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
LABEL_WORDS = frozenset({"female", "male", "other", "unknown", "sex", "born", "the", "and"})
"""What a label is made of by its own rule, and so says nothing of a name."""
_WORD = re.compile(r"[^\W\d_]{3,}")


class CareParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``grace_hours`` after the end of a relation still belong to it: letters and notes are written then."""

    grace_hours: Hours


class RefusedParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``attempts`` of one person in a day."""

    attempts: Count


class NoParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule without a limit."""


class VipParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A care relation that is older than ``settled_hours`` makes an access less remarkable, never unremarked."""

    settled_hours: Hours


def _relations(rows: Rows, person: Person, patient: str, asked: Asked) -> list[Care]:
    department = asked.department or person.department
    return [row for row in rows.care_of(patient) if row.department == department]


def _covered(relations: Sequence[Care], at: datetime, grace: timedelta = timedelta()) -> bool:
    return any(row.since <= at and (row.ended is None or at <= row.ended + grace) for row in relations)


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


@rule(
    "care-relation",
    version=1,
    title="Chart without a care relation",
    looks_for="Requests about a patient who was not, not yet or no longer in the care of the person's department.",
    not_covered="The coordinator knows care relations as the hospitals last told; the node decides by its own.",
    parameters=CareParameters,
)
def care_relation(rows: Rows, limits: CareParameters) -> Iterator[Hit]:
    grace = timedelta(hours=limits.grace_hours)
    for person, patient, asked in rows.charts():
        outside = [
            row
            for row in asked
            if row.reason == "policy_denied" or not _covered(_relations(rows, person, patient, row), row.at, grace)
        ]
        if not outside:
            continue
        known = [care for row in outside for care in _relations(rows, person, patient, row)]
        began = any(care.since <= row.at for care in known for row in outside)
        why = "after the care had ended" if began else "before the care began" if known else "who was never in care"
        refused = sum(row.reason == "policy_denied" for row in outside)
        told = f" The hospital's node refused {_times(refused)}." if refused else ""
        yield Hit(
            person=person.id,
            patient=patient,
            score=min(100, 60 + 10 * len(outside)) if not began else min(100, 45 + 5 * len(outside)),
            sentence=f"Asked {_times(len(outside))} about a patient {why}.{told}",
            requests=tuple(row.id for row in outside),
        )


@rule(
    "refused-charts",
    version=1,
    title="Refused charts",
    looks_for="Several requests about patients that the access policy refused on one day.",
    not_covered="A refusal names no patient, so different patients cannot be told from one.",
    parameters=RefusedParameters,
)
def refused_charts(rows: Rows, limits: RefusedParameters) -> Iterator[Hit]:
    for person in rows.people.values():
        found = [
            row
            for row in rows.signals_of(person.id)
            if (row.kind, row.outcome, row.asked) == ("policy.decision", "denied", "chart")
        ]
        if len(found) >= limits.attempts:
            yield Hit(
                person=person.id,
                score=over(len(found), limits.attempts),
                sentence=f"The policy refused {len(found)} requests about patients; {limits.attempts} are remarkable.",
                seqs=tuple(row.seq for row in found),
            )


def _words(text: str) -> set[str]:
    return {word.casefold() for word in _WORD.findall(text)} - LABEL_WORDS


@rule(
    "same-surname",
    version=1,
    title="Same surname",
    looks_for="Requests about a patient whose label has the person's surname in it.",
    not_covered=(
        "Names of patients are at the hospitals only. Labels are sex and birth decade by their own rule, so a relative"
        " is found only where a hospital's labels say more than they should."
    ),
    parameters=NoParameters,
)
def same_surname(rows: Rows, limits: NoParameters) -> Iterator[Hit]:
    for person, patient, asked in rows.charts():
        surname, labels = _words(person.surname), {row.label for row in rows.care_of(patient)}
        if surname and any(surname <= _words(label) for label in labels):
            yield Hit(
                person=person.id,
                patient=patient,
                score=70,
                sentence=f"Asked {_times(len(asked))} about a patient whose label has the person's own surname.",
                requests=tuple(row.id for row in asked),
            )


def _named(rows: Rows, hospital: str, patient: str) -> Iterator[Person]:
    """People of a hospital whose given name and surname stand in a label of the patient."""
    labels = [words for row in rows.care_of(patient) if (words := _words(row.label))]
    if not labels:  # the ordinary case: sex and decade
        return
    for person in rows.people.values():
        given, surname = _words(person.given), _words(person.surname)
        if person.hospital == hospital and given and surname and any(given | surname <= words for words in labels):
            yield person


@rule(
    "co-worker",
    version=1,
    title="Chart of a colleague",
    looks_for="Requests about a patient who works here, or about oneself.",
    not_covered=(
        "The coordinator does not know which patients have an account: those whom an officer flagged as staff are"
        " covered, and those whose label has given name and surname of somebody at the hospital."
    ),
    parameters=NoParameters,
)
def co_worker(rows: Rows, limits: NoParameters) -> Iterator[Hit]:
    for person, patient, asked in rows.charts():
        flagged = [
            row for row in rows.watched if (row.kind, row.patient, row.hospital) == ("staff", patient, person.hospital)
        ]
        named = list(_named(rows, person.hospital, patient))
        own = person.id in {row.user for row in flagged} | {other.id for other in named}
        if flagged or named:
            whose = "their own chart" if own else "a patient who works at the same hospital"
            yield Hit(
                person=person.id,
                patient=patient,
                score=80 if own else 70,
                sentence=f"Asked {_times(len(asked))} about {whose}.",
                requests=tuple(row.id for row in asked),
            )


@rule(
    "vip",
    version=1,
    title="Chart of a flagged patient",
    looks_for="Every request about a patient whom an officer flagged, by people in charge of them too.",
    parameters=VipParameters,
)
def vip(rows: Rows, limits: VipParameters) -> Iterator[Hit]:
    settled = timedelta(hours=limits.settled_hours)
    flagged = {(row.hospital, row.patient) for row in rows.watched if row.kind == "vip"}
    for person, patient, asked in rows.charts():
        if (person.hospital, patient) not in flagged:
            continue
        calm = all(_covered(_relations(rows, person, patient, row), row.at - settled) for row in asked)
        since = "in their care for a while" if calm else "new to their care, or not in it"
        yield Hit(
            person=person.id,
            patient=patient,
            score=40 if calm else 80,
            sentence=f"Asked {_times(len(asked))} about a flagged patient, {since}.",
            requests=tuple(row.id for row in asked),
        )
