"""The port through which every app records evidence, and which ``compliance.log`` is bound to.

``accounts``, ``privacy`` and ``federation`` may not import ``compliance``; they call :func:`record` inside the
transaction of the action that it documents. Without a bound log the call fails: an action that cannot be recorded
does not happen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened.

    ``kind`` is dotted (``session.sign_in``, ``policy.decision``, ``request.submit``). ``details`` holds ids, sizes,
    digests and figures only, never contents. What may name a patient goes into ``private``: it is encrypted under a
    key of its own, which can be destroyed, and only a commitment to it becomes part of the log's tree.
    """

    kind: str
    outcome: str = "ok"
    actor_id: int | None = None
    subject: UUID | None = None
    hospital: str | None = None
    department: str | None = None
    purpose: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    private: dict[str, Any] | None = None


_append: Callable[[Iterable[Event]], None] | None = None
_tend: Callable[[], int] | None = None
_witness: Callable[[dict[str, Any]], dict[str, Any]] | None = None


def bind(
    append: Callable[[Iterable[Event]], None],
    tend: Callable[[], int] | None = None,
    witness: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> None:
    """Names the functions that append events in the current transaction, tend the log, and witness another one.

    Called once, by the wiring.
    """
    global _append, _tend, _witness
    _append, _tend, _witness = append, tend, witness


def record(*events: Event) -> None:
    """Appends ``events`` in the current transaction.

    Raises:
        RuntimeError: no log is bound, so the action must not go on.
    """
    if _append is None:
        raise RuntimeError("no evidence log is bound")
    _append(events)


def tend() -> int:
    """Gives events that wait their places in the log's tree, and signs it when it is time; returns how many got one.

    A node's loop calls this every second. Never inside an action's transaction.
    """
    if _tend is None:
        raise RuntimeError("no evidence log is bound")
    return _tend()


def witness(document: dict[str, Any]) -> dict[str, Any]:
    """A node's answer to the coordinator's checkpoint: see ``compliance.log.witnessing``."""
    if _witness is None:
        raise RuntimeError("no evidence log is bound")
    return _witness(document)
