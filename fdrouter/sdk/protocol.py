"""The conversation with the router, without any I/O: generators that yield calls and are sent the documents.

Both clients, synchronous and not, drive the same generators.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from fdrouter.sdk import answers
from fdrouter.sdk.answers import Response
from fdrouter.sdk.errors import (
    IdentityMismatch,
    InvalidRequest,
    NotOffered,
    PrivacyBudgetExceeded,
    ReceiptInvalid,
    RouterError,
    RouterUnreachable,
    from_body,
)

T = TypeVar("T")
CHAT = "/v1/chat/completions"
GENERAL, COHORT, AUTO = "general", "cohort.", "cohort"
RELEASED = "cohort.released"  # paid for when it was published: asking costs nothing
SCOPE_REQUEST = "request"
_BAD_GATEWAY = (502, 503, 504)


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP call. Every one may be repeated: it reads, or it carries an idempotency key."""

    method: str
    path: str
    body: dict[str, Any] | None = None


Steps = Generator[Call, Any, T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked, as the caller put it. ``bound`` is the most epsilon that it may cost."""

    prompt: str
    kind: str = GENERAL
    bound: float | None = None
    epsilon: float | None = None
    delta: float | None = None
    hospitals: Sequence[str] = ()
    patient: str | None = None
    purpose: str | None = None
    contexts: int | None = None
    options: Sequence[str] = ()
    picks: int | None = None
    threshold: int | None = None
    across: bool = False
    max_tokens: int | None = None
    model: str | None = None
    idempotency_key: str = field(default_factory=lambda: str(uuid.uuid4()))
    require_consensus: bool = False
    audit_trail: bool = True


@dataclass(slots=True)
class Session:
    """What a client knows of its router: who it is there, which model answers, and the keys of nodes and router."""

    user_id: str | None = None
    department: str | None = None
    trusted_keys: Mapping[str, Mapping[str, str]] | None = None
    trusted_router: Mapping[str, str] | None = None
    me: dict[str, Any] | None = None
    model: str | None = None
    keys: dict[str, Mapping[str, str]] = field(default_factory=dict)
    router: Mapping[str, str] | None = None
    quoted: dict[str, dict[str, str]] = field(default_factory=dict)  # why, by key, where a quote settled the kind

    def proves(self, response: Response) -> bool:
        """Whether the response's receipt is genuine by the keys that the caller trusts, or else by those known."""
        if self.trusted_keys is not None or self.trusted_router is not None:
            return answers.is_genuine(response, self.trusted_keys or {}, self.trusted_router)
        return answers.is_genuine(response, self.keys, self.router)

    @property
    def learns(self) -> bool:
        """Whether keys may come from the router."""
        return self.trusted_keys is None and self.trusted_router is None


def body_of(session: Session, question: Question) -> Steps[dict[str, Any]]:
    """The body of the request, after everything that can be known before it is sent has been checked.

    Raises:
        NotOffered, IdentityMismatch, InvalidRequest, PrivacyBudgetExceeded.
    """
    _check(question)
    yield from _introduce(session)
    kind, epsilon = yield from _affordable(session, question)
    model = question.model
    if model is None:
        model = session.model = session.model or (yield from _model())
    privacy = {
        "kind": kind,
        "epsilon": epsilon,
        "delta": question.delta if kind == question.kind else None,
        "hospitals": list(question.hospitals),
        "patient": question.patient,
        "purpose": question.purpose,
        "contexts": question.contexts,
        "options": list(question.options),
        "picks": question.picks,
        "threshold": question.threshold,
        "across": question.across or None,
        "idempotency_key": question.idempotency_key,
    }
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": question.prompt}]}
    if question.max_tokens is not None:
        body["max_tokens"] = question.max_tokens
    body["privacy"] = {name: value for name, value in privacy.items() if value not in (None, [])}
    return body


def _check(question: Question) -> None:
    if question.require_consensus:
        raise NotOffered(
            "Agreement of several nodes is not offered in this version: one node answers a request. "
            "Leave require_consensus out.",
            details={"field": "require_consensus"},
        )
    for name, value in (("max_privacy_budget", question.bound), ("epsilon", question.epsilon)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise InvalidRequest(f"{name} must be a finite number that is not negative.", details={"field": name})


def _introduce(session: Session) -> Steps[None]:
    """Asks the router once whom the token belongs to, and compares."""
    if session.me is None:
        me = yield Call("GET", "/api/me")
        for name, field_name in (("user_id", "username"), ("department", "department")):
            expected, actual = getattr(session, name), me.get(field_name)
            if expected is not None and expected != actual:
                raise IdentityMismatch(
                    f"The token belongs to {name} {actual!r}, not to {expected!r}. Nothing was sent.",
                    details={"field": name, "expected": expected, "actual": actual},
                )
        session.me = me


def _model() -> Steps[str]:
    found = (yield Call("GET", "/v1/models"))["data"]
    if not found:
        raise RouterError("No node of the network serves a model right now.", code="no_node")
    return str(found[0]["id"])


def _affordable(session: Session, question: Question) -> Steps[tuple[str, float | None]]:
    """The kind and the epsilon to send: the one asked for, else the router's usual one, else the bound if that is
    enough. What is quoted as published is asked for by name: nothing that costs may take its place within a bound.
    """
    bound, epsilon = question.bound, question.epsilon
    charged = question.kind == AUTO or (question.kind.startswith(COHORT) and question.kind != RELEASED)
    if bound is None or not charged:
        return question.kind, epsilon
    if epsilon is not None:
        if epsilon > bound:
            raise _over(question, f"Epsilon {epsilon:g} is more than the bound of {bound:g}.", [])
        return question.kind, epsilon
    usual = yield _quote(question, None)
    if usual["kind"] == RELEASED:
        session.quoted[question.idempotency_key] = usual["chosen"]
        return RELEASED, None
    if 0 < usual["epsilon"] <= bound:
        return question.kind, float(usual["epsilon"])
    if bound == 0:
        raise _over(
            question,
            "An answer from records costs privacy: a bound of 0 pays for the model alone and for what is published.",
            [],
        )
    refusal = (yield _quote(question, bound))["refusal"]
    if refusal and refusal["code"] == "push_too_small":
        raise _over(question, refusal["message"], refusal["details"].get("try", []))
    return question.kind, bound


def _over(question: Question, message: str, suggestions: list[dict[str, Any]]) -> PrivacyBudgetExceeded:
    details = {"scope": SCOPE_REQUEST, "bound": question.bound, "try": suggestions, "charged": False}
    return PrivacyBudgetExceeded(message, details=details)


def _quote(question: Question, epsilon: float | None) -> Call:
    asked = {
        "kind": question.kind,
        "question": question.prompt if question.kind == AUTO else None,
        "epsilon": epsilon,
        "delta": question.delta,
        "hospitals": list(question.hospitals) or None,
        "contexts": question.contexts,
        "options": list(question.options) or None,
        "picks": question.picks,
        "threshold": question.threshold,
        "across": question.across or None,
        "max_tokens": question.max_tokens,
    }
    return Call("POST", "/api/quote", {name: value for name, value in asked.items() if value is not None})


def response_of(session: Session, question: Question, document: Mapping[str, Any], text: str | None) -> Steps[Response]:
    """The response in a completion (``text`` None) or in a stream's last event; its receipt is checked if asked for.

    Raises:
        ReceiptInvalid, RouterError.
    """
    try:
        choice = document["choices"][0]
        text = choice["message"]["content"] if text is None else text
        response = answers.make(text, document, choice["finish_reason"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise RouterError("The router's answer could not be read.") from None
    if (chosen := session.quoted.pop(question.idempotency_key, None)) is not None:
        response = replace(response, chosen=chosen)
    if not question.audit_trail or response.receipt is None:
        return response
    if not session.proves(response) and session.learns:
        nodes = yield Call("GET", "/api/nodes")  # a node may have new keys since
        session.keys = {node["id"]: node["public_keys"] for node in nodes}
        if "shares" in response.receipt:
            session.router = (yield Call("GET", "/api/router"))["public_keys"]
    if not session.proves(response):
        raise ReceiptInvalid("The receipt is not of who answered, or speaks of another answer.", response)
    return replace(response, receipt_verified=True)


def ask(session: Session, question: Question) -> Steps[Response]:
    """The whole conversation of a request that is not streamed."""
    body = yield from body_of(session, question)
    return (yield from completed(session, question, body))


def completed(session: Session, question: Question, body: dict[str, Any]) -> Steps[Response]:
    """Sends the body, or sends it again: a repeat gets the stored answer."""
    try:
        document = yield Call("POST", CHAT, body)
    except RouterUnreachable as error:
        error.details["idempotency_key"] = question.idempotency_key
        raise
    return (yield from response_of(session, question, document, None))


class Transient(Exception):
    """The call may be repeated. ``error`` is what to raise if that is over."""

    def __init__(self, error: RouterError) -> None:
        self.error = error
        super().__init__(error.message)


def unreachable(endpoint: str, reason: Exception) -> Transient:
    """What a failed connection means."""
    return Transient(RouterUnreachable(f"The router at {endpoint} did not answer ({type(reason).__name__})."))


def document_of(status: int, content: bytes) -> Any:
    """The JSON of a response.

    Raises:
        Transient: the router, or a proxy in front of it, says that it cannot answer now. RouterError: it refused.
    """
    try:
        document = json.loads(content)
    except ValueError:
        error = RouterUnreachable(f"Something that is not a router answered (HTTP {status}).", status=status)
        if status in _BAD_GATEWAY:
            raise Transient(error) from None
        raise error from None
    if status < 400:
        return document
    refusal = from_body(document, status)
    if refusal.code == "dependency_unavailable":
        raise Transient(refusal)
    raise refusal


class EventReader:
    """Reads the lines of a streamed answer. ``last`` is its last event, once it came."""

    def __init__(self) -> None:
        self.text = ""
        self.last: dict[str, Any] | None = None

    def feed(self, line: str) -> str:
        """The text in this line, often none.

        Raises:
            RouterError: the answer failed on the way.
        """
        if not line.startswith("data:") or line[5:].strip() == "[DONE]":
            return ""
        try:
            event = json.loads(line[5:])
            if "error" in event:
                raise from_body(event, None)
            if "privacy" in event:
                self.last = event
            text = event["choices"][0]["delta"].get("content") or ""
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise RouterError("The router's stream could not be read.") from None
        self.text += text
        return str(text)
