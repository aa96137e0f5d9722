"""Sign-ins that look like a guessed password."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated

import msgspec

from compliance.anomalies.registry import rule
from compliance.anomalies.rows import Hit, Rows, Signal, over


class SignInParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``failures`` in a row, each ``minutes`` or less before the next, and then a success."""

    failures: Annotated[int, msgspec.Meta(ge=2, le=1000)]
    minutes: Annotated[int, msgspec.Meta(ge=1, le=24 * 60)]


@rule(
    "sign-ins",
    version=1,
    title="Failed sign-ins, then success",
    looks_for="Several failed sign-ins to one account in a row, and then one that succeeds.",
    not_covered="Attempts at a name that does not exist belong to nobody, and tokens of programs do not fail here.",
    parameters=SignInParameters,
)
def sign_ins(rows: Rows, limits: SignInParameters) -> Iterator[Hit]:
    gap = timedelta(minutes=limits.minutes)
    for person in rows.people.values():
        run: list[Signal] = []
        worst: list[Signal] = []
        for row in rows.signals_of(person.id):
            if row.kind != "session.sign_in":
                continue
            if run and row.at - run[-1].at > gap:
                run = []
            if row.outcome == "failed":
                run.append(row)
                continue
            if row.at >= rows.start and len(run) >= max(limits.failures, len(worst) - 1):
                worst = [*run, row]
            run = []
        if worst:
            failed = len(worst) - 1
            yield Hit(
                person=person.id,
                score=over(failed, limits.failures),
                sentence=f"{failed} failed sign-ins in a row, then one that succeeded.",
                seqs=tuple(row.seq for row in worst),
            )
