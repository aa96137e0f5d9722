"""Attempts to learn more from records than a budget gives. Kinds, amounts, sizes, digests are read, no words."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from statistics import median
from typing import Annotated

import msgspec

from compliance.anomalies.registry import rule
from compliance.anomalies.rows import Asked, Hit, Rows, over

Count = Annotated[int, msgspec.Meta(ge=2, le=10_000)]
NARROWING = ("cohort.count", "cohort.choice")
SPENT = ("quota_spent", "block_exhausted")
MICRO = 1_000_000


class RefusalParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``refusals`` for want of budget in a day."""

    refusals: Count


class NarrowingParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A chain of ``questions`` of at most ``epsilon`` each, at most ``minutes`` and ``bytes`` of length apart."""

    questions: Count
    epsilon: Annotated[float, msgspec.Meta(gt=0.0, le=10.0)]
    minutes: Annotated[int, msgspec.Meta(ge=1, le=24 * 60)]
    bytes: Annotated[int, msgspec.Meta(ge=0, le=10_000)]


class RisingParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``questions`` today, more on each of ``days`` active days, and ``factor`` times the usual."""

    questions: Count
    days: Annotated[int, msgspec.Meta(ge=2, le=30)]
    factor: Annotated[float, msgspec.Meta(ge=1.0, le=100.0)]


@rule(
    "budget-refusals",
    version=1,
    title="Many refusals for want of budget",
    looks_for="One person who is refused many times in a day because a quota or a block cannot pay.",
    parameters=RefusalParameters,
)
def budget_refusals(rows: Rows, limits: RefusalParameters) -> Iterator[Hit]:
    for person in rows.people.values():
        found = [row for row in rows.signals_of(person.id) if row.outcome in SPENT]
        if len(found) >= limits.refusals:
            blocks = sum(row.outcome == "block_exhausted" for row in found)
            yield Hit(
                person=person.id,
                score=over(len(found), limits.refusals),
                sentence=f"Refused {len(found)} times for want of budget, {blocks} of them by a hospital's block.",
                seqs=tuple(row.seq for row in found),
            )


def longest_chain(asked: list[Asked], limits: NarrowingParameters) -> list[Asked]:
    """The longest run of different questions of one kind to the same hospitals, alike in size, in quick succession."""
    chains: dict[tuple[str, tuple[str, ...]], list[Asked]] = {}
    best: list[Asked] = []
    for row in asked:
        if row.kind not in NARROWING or row.epsilon_micro > limits.epsilon * MICRO:
            continue
        key = (row.kind, row.hospitals)
        chain = chains.get(key, [])
        if row.digest in {earlier.digest for earlier in chain}:
            continue  # the same question again is answered by the stored release, and narrows nothing
        follows = bool(chain) and (
            row.at - chain[-1].at <= timedelta(minutes=limits.minutes)
            and abs(row.size - chain[-1].size) <= limits.bytes
        )
        chains[key] = [*chain, row] if follows else [row]
        best = max(best, chains[key], key=len)
    return best


@rule(
    "narrowing",
    version=1,
    title="Small questions in series",
    looks_for="A series of cheap counts or choices, alike in length and in quick succession, as if to narrow a cohort.",
    not_covered="Questions are sealed and their digests keyed: likeness is by kind, hospitals, epsilon and length.",
    parameters=NarrowingParameters,
)
def narrowing(rows: Rows, limits: NarrowingParameters) -> Iterator[Hit]:
    for person, asked in rows.by_person():
        chain = longest_chain(asked, limits)
        if len(chain) >= limits.questions:
            total = sum(row.epsilon_micro for row in chain) / MICRO
            yield Hit(
                person=person.id,
                score=over(len(chain), limits.questions),
                sentence=f"{len(chain)} small questions in series, alike in kind and length; epsilon {total:g}.",
                requests=tuple(row.id for row in chain),
            )


@rule(
    "near-identical",
    version=1,
    title="More and more questions alike",
    looks_for="A number of near-identical questions to records that rises from day to day.",
    not_covered="Near-identical means: another digest, but the same kind, hospitals and epsilon.",
    parameters=RisingParameters,
)
def near_identical(rows: Rows, limits: RisingParameters) -> Iterator[Hit]:
    for person, asked in rows.by_person():
        groups: dict[tuple[str, tuple[str, ...], int], dict[bytes, Asked]] = {}
        for row in asked:
            if row.epsilon_micro:
                groups.setdefault((row.kind, row.hospitals, row.epsilon_micro), {}).setdefault(row.digest, row)
        largest = max(groups.values(), key=len, default={})
        past = [day.alike for day in rows.days_of(person.id)]
        latest = [*past[-(limits.days - 1) :], len(largest)]
        rising = len(latest) == limits.days and all(a < b for a, b in zip(latest, latest[1:], strict=False))
        if len(largest) < limits.questions or not rising:
            continue
        usual = median(past)
        if len(largest) >= limits.factor * usual:
            kind, before = next(iter(largest.values())).kind, ", ".join(map(str, latest[:-1]))
            yield Hit(
                person=person.id,
                score=over(len(largest), limits.questions),
                sentence=f"{len(largest)} questions alike ({kind}), after {before} on the days before.",
                requests=tuple(row.id for row in largest.values()),
            )
