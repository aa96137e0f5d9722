"""The life of a release: one table of transitions, taken one at a time by compare-and-set, each with its evidence."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import models

from fdrouter.errors import Conflict
from fdrouter.evidence import Event, record


class ReleaseState(models.TextChoices):
    """Named by what has happened; ``MAKING`` is when the block has paid."""

    PLANNED = "planned"
    APPROVED = "approved"
    MAKING = "making"
    PUBLISHED = "published"
    FAILED = "failed"
    WITHDRAWN = "withdrawn"


TRANSITIONS: dict[ReleaseState, frozenset[ReleaseState]] = {
    ReleaseState.PLANNED: frozenset({ReleaseState.APPROVED, ReleaseState.WITHDRAWN}),
    ReleaseState.APPROVED: frozenset({ReleaseState.MAKING, ReleaseState.WITHDRAWN}),
    ReleaseState.MAKING: frozenset({ReleaseState.PUBLISHED, ReleaseState.FAILED}),
    ReleaseState.PUBLISHED: frozenset({ReleaseState.WITHDRAWN}),
    ReleaseState.FAILED: frozenset(),
    ReleaseState.WITHDRAWN: frozenset(),
}
TERMINAL = frozenset(state for state, following in TRANSITIONS.items() if not following)
_EVENTS = {
    ReleaseState.APPROVED: "release.approve",
    ReleaseState.MAKING: "release.begin",
    ReleaseState.PUBLISHED: "release.publish",
    ReleaseState.FAILED: "release.fail",
    ReleaseState.WITHDRAWN: "release.withdraw",
}


def note(release: UUID, kind: str, outcome: str = "ok", **details: Any) -> None:
    """Records evidence about a release in the current transaction."""
    record(Event(kind=kind, outcome=outcome, subject=release, hospital=settings.HOSPITAL_ID, details=details))


def advance(
    release: UUID,
    before: ReleaseState,
    after: ReleaseState,
    *,
    outcome: str = "ok",
    details: dict[str, Any] | None = None,
    **values: Any,
) -> None:
    """Moves a release on if it is still where the caller saw it, and records that, in the current transaction.

    Raises:
        Conflict: it is elsewhere by now, or there is no such way.
    """
    from federation.node.released.models import Release

    if after not in TRANSITIONS[before]:
        raise Conflict(f"A release that is {before} cannot become {after}.")
    if not Release.objects.filter(pk=release, state=before).update(state=after, **values):
        now = Release.objects.filter(pk=release).values_list("state", flat=True).first()
        raise Conflict(f"This release is {now or 'gone'} by now, so it cannot become {after}.")
    note(release, _EVENTS[after], outcome, **(details or {}))
