"""A circuit breaker: a node that keeps failing is left alone for a while, then tried with one call."""

from __future__ import annotations

import time
from collections.abc import Callable


class CircuitBreaker:
    """Opens after ``threshold`` failures in a row; after ``recovery_seconds`` lets one trial call through.

    One event loop or one thread uses an instance; it holds no lock.
    """

    def __init__(
        self, threshold: int = 5, recovery_seconds: float = 15.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._threshold, self._recovery, self._clock = threshold, recovery_seconds, clock
        self._failures = 0
        self._opened_at: float | None = None
        self._trial = False

    @property
    def state(self) -> str:
        """``closed``, ``open`` or ``half-open``."""
        if self._opened_at is None:
            return "closed"
        return "half-open" if self._clock() - self._opened_at >= self._recovery else "open"

    def allows(self) -> bool:
        """Whether a call may be planned now. Does not take the trial."""
        return self.state == "closed" or (self.state == "half-open" and not self._trial)

    def started(self) -> bool:
        """A call starts; returns whether it is the one trial of the half-open state."""
        if self.state != "half-open" or self._trial:
            return False
        self._trial = True
        return True

    def abandoned(self) -> None:
        """The trial ended and says nothing about the node: it was stopped, or refused for a reason of its own."""
        self._trial = False

    def succeeded(self) -> None:
        self._failures, self._opened_at, self._trial = 0, None, False

    def failed(self) -> None:
        self._failures += 1
        self._trial = False
        if self._failures >= self._threshold or self._opened_at is not None:
            self._opened_at = self._clock()
