"""The one tree of errors that a caller can act on.

Domain code raises these; interfaces translate them (HTTP in ``fdrouter.api``). ``code`` is stable and machine
readable, ``message`` is a plain sentence that is safe to show to anybody, ``details`` holds numbers and ids only,
never prompts, answers, keys or exception texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

MAX_WHY = 300


class DomainError(Exception):
    """Root of every expected failure."""

    code: ClassVar[str] = "domain_error"
    default_message: ClassVar[str] = "The request could not be completed."

    def __init__(self, message: str | None = None, **details: Any) -> None:
        self.message = message or self.default_message
        self.details: Mapping[str, Any] = details
        super().__init__(self.message)


class InvalidParameter(DomainError):
    """A value is missing, malformed or out of range; ``details['field']`` names it."""

    code = "invalid_parameter"
    default_message = "A value of the request is not valid."


class PayloadTooLarge(DomainError):
    """The request is larger than the site accepts."""

    code = "payload_too_large"
    default_message = "The request is too large."


class UnknownModel(DomainError):
    """No node serves a model of this name."""

    code = "model_not_found"
    default_message = "No node serves a model of this name."


class Unauthenticated(DomainError):
    """No valid credential came with the request."""

    code = "unauthenticated"
    default_message = "Sign in or send a valid access token."


class PolicyDenied(DomainError):
    """The actor may not do this; ``details['policies']`` names the deciding policies."""

    code = "policy_denied"
    default_message = "The access policy does not allow this request."


class NotFound(DomainError):
    """It does not exist, or not for this actor: the two look the same."""

    code = "not_found"
    default_message = "There is nothing here."


class NothingReleased(NotFound):
    """A hospital has published nothing that answers this; other kinds read its records, for a privacy cost."""

    code = "nothing_released"
    default_message = "This hospital has published nothing that answers this."


class Conflict(DomainError):
    """The same key was used for another request, or the state has moved on."""

    code = "conflict"
    default_message = "This does not fit the present state."


class Cancelled(Conflict):
    """The request was stopped by its asker."""

    code = "cancelled"
    default_message = "The request was stopped."


class IdempotencyConflict(Conflict):
    """An idempotency key came back with a different request."""

    code = "idempotency_conflict"
    default_message = "This idempotency key belongs to a different request."


class QuotaSpent(DomainError):
    """A quota that refills (user or department) cannot pay; ``details['scope']`` says which."""

    code = "quota_spent"
    default_message = "Today's allowance is used up."


class BlockExhausted(DomainError):
    """A hospital's privacy block cannot pay; it never refills."""

    code = "block_exhausted"
    default_message = "This hospital's privacy budget cannot pay for the request, and it does not refill."


class PushTooSmall(DomainError):
    """Epsilon, contexts and length leave the records no influence on the text."""

    code = "push_too_small"
    default_message = "With these settings the records could not influence the answer."


class ClaimMissing(DomainError):
    """The mechanism has no current claim sheet, so nobody could say what it promises."""

    code = "claim_missing"
    default_message = "This kind of answer has no current claim sheet at the hospital, so it is not given."


class NoNode(DomainError):
    """No node that may answer is up."""

    code = "no_node"
    default_message = "No hospital node that may answer this is available right now."


class NodeFailed(DomainError):
    """A node or its engine failed, answered nonsense or presented a wrong identity."""

    code = "node_failed"
    default_message = "The hospital's node failed to answer."


class NodeTimeout(NodeFailed):
    """A node or its engine did not answer in time."""

    code = "node_timeout"
    default_message = "The hospital's node did not answer in time."


class DependencyUnavailable(DomainError):
    """PostgreSQL, Redis or another part this process needs is not reachable."""

    code = "dependency_unavailable"
    default_message = "A part of the system is not reachable right now. Try again in a moment."


def _tree(root: type[DomainError]) -> list[type[DomainError]]:
    return [root, *(found for child in root.__subclasses__() for found in _tree(child))]


def from_code(code: str, message: str | None = None, details: Mapping[str, Any] | None = None) -> DomainError:
    """The error that a stored row or a node's answer names; an unknown code is a node's failure.

    A detail ``why`` is the sentence that the node refused with.
    """
    known = {error.code: error for error in _tree(DomainError)[1:] if error.__module__ == __name__}
    found = dict(details or {})
    why = found.pop("why", None)
    error = known.get(code, NodeFailed)(message or (why[:MAX_WHY] if isinstance(why, str) else None))
    error.details = found  # not as keywords: a node names them
    return error
