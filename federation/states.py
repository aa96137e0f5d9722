"""The life of an inference: one table of transitions, which the database enforces too (``sql/inference.sql``)."""

from __future__ import annotations

from django.db import models


class InferenceState(models.TextChoices):
    """Named by what the request waits for, or by how it ended."""

    QUEUED = "queued"
    DISPATCHED = "dispatched"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


TRANSITIONS: dict[InferenceState, frozenset[InferenceState]] = {
    InferenceState.QUEUED: frozenset({InferenceState.DISPATCHED, InferenceState.FAILED, InferenceState.CANCELLED}),
    InferenceState.DISPATCHED: frozenset({InferenceState.DONE, InferenceState.FAILED, InferenceState.CANCELLED}),
    InferenceState.DONE: frozenset(),
    InferenceState.FAILED: frozenset(),
    InferenceState.CANCELLED: frozenset(),
}
TERMINAL = frozenset(state for state, following in TRANSITIONS.items() if not following)
