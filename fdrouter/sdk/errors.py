"""What the SDK raises. Every error has the router's ``code``, a plain ``message`` and ``details``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class RouterError(Exception):
    """Root of the SDK's errors.

    ``status`` is the HTTP status (``None`` when the request was not answered or not sent), ``charged`` says whether
    the request was paid for although it failed (``None`` when the router did not say), ``request_id`` names it in the
    history. ``offers`` are single changes that would each have an answer, best first, and ``retry_after`` is how many
    seconds until a spent allowance refills (``None`` where waiting does not help).
    """

    code = "router_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        details: Mapping[str, Any] | None = None,
        status: int | None = None,
    ) -> None:
        self.message = message
        self.code = code or type(self).code
        self.details: dict[str, Any] = dict(details or {})
        self.status = status
        self.charged: bool | None = self.details.get("charged")
        self.request_id: str | None = self.details.get("id")
        super().__init__(message)

    @property
    def offers(self) -> list[dict[str, Any]]:
        """``{"epsilon"}``, ``{"contexts"}`` and ``{"max_tokens"}`` change that value alone; ``{"kind"}`` (with its
        ``epsilon``) asks in another way, without the parameters of the first; ``{"hospitals"}`` asks other records;
        ``{"request_budget"}`` is the page where more can be asked for.
        """
        return list(self.details.get("try", ()))

    @property
    def retry_after(self) -> int | None:
        seconds = self.details.get("retry_after")
        return seconds if isinstance(seconds, int) else None


class PrivacyBudgetExceeded(RouterError):
    """The caller's own bound, a daily allowance or a hospital's block does not pay for this.

    ``scope`` is ``request`` (the bound given with the request), ``user``, ``department``, ``hospital`` or ``block``.
    ``suggestions`` are those of ``offers`` that change a number of the same request, such as ``{"epsilon": 2.4}`` or
    ``{"contexts": 96}``; it is empty where only waiting helps (allowances refill daily), another kind, or nothing does.
    """

    code = "privacy_budget_exceeded"

    @property
    def scope(self) -> str:
        return str(self.details.get("scope", "block" if self.code == "block_exhausted" else "user"))

    @property
    def suggestions(self) -> list[dict[str, float]]:
        return [offer for offer in self.offers if offer.keys() <= {"epsilon", "contexts", "max_tokens"}]


class PolicyDenied(RouterError):
    """The access policy does not let this person ask this."""

    code = "policy_denied"


class NotAuthenticated(RouterError):
    """There is no token, or the router does not accept it."""

    code = "unauthenticated"


class IdentityMismatch(RouterError):
    """The token belongs to somebody else, or to another department, than the client was made for."""

    code = "identity_mismatch"


class InvalidRequest(RouterError):
    """A value is missing, malformed or out of range; ``details["field"]`` names it where the router knows."""

    code = "invalid_parameter"


class NotOffered(InvalidRequest):
    """The argument would promise something that this version does not do."""

    code = "not_offered"


class NotFound(RouterError):
    """There is no such model, hospital or request, or not for this person."""

    code = "not_found"


class Conflict(RouterError):
    """The idempotency key belongs to a different request."""

    code = "conflict"


class NodeUnavailable(RouterError):
    """No node could answer, or the one that was asked failed; ``charged`` says whether it was paid for."""

    code = "node_failed"


class RouterUnreachable(RouterError):
    """The router could not be reached, or broke off, also on repeating. Repeating it with the same idempotency key
    (``details["idempotency_key"]``) is safe: the request is charged once.
    """

    code = "unreachable"


class ReceiptInvalid(RouterError):
    """The answer came with a receipt that is not the node's, or speaks of another answer. Do not rely on it.

    ``response`` is the answer all the same.
    """

    code = "receipt_invalid"

    def __init__(self, message: str, response: Any) -> None:
        self.response = response
        super().__init__(message)


_BY_CODE: dict[str, type[RouterError]] = {
    "quota_spent": PrivacyBudgetExceeded,
    "block_exhausted": PrivacyBudgetExceeded,
    "no_node": NodeUnavailable,
    "node_timeout": NodeUnavailable,
    "claim_missing": NodeUnavailable,
    "dependency_unavailable": RouterUnreachable,
}
_BY_STATUS: dict[int, type[RouterError]] = {
    400: InvalidRequest,
    401: NotAuthenticated,
    402: PrivacyBudgetExceeded,
    403: PolicyDenied,
    404: NotFound,
    409: Conflict,
    413: InvalidRequest,
    422: InvalidRequest,
    502: NodeUnavailable,
}


def from_body(body: Any, status: int | None) -> RouterError:
    """The error of a response, in the shape of ``/v1`` (``{"error": {..}}``) or of ``/api/`` (problem details)."""
    inner = body.get("error", body) if isinstance(body, dict) else {}
    inner = inner if isinstance(inner, dict) else {}
    code = str(inner.get("code") or "") or None
    message = str(inner.get("message") or inner.get("title") or "The router did not say what went wrong.")
    details = inner.get("details")
    kind = _BY_CODE.get(code or "") or _BY_STATUS.get(status or 0, RouterError)
    if status is None and kind is RouterError:  # an error inside a stream has no status
        kind = next((cls for cls in _BY_STATUS.values() if cls.code == code), RouterError)
    return kind(message, code=code, details=details if isinstance(details, dict) else {}, status=status)
