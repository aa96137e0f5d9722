"""What a page says when something was refused or failed, and what it offers to do next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fdrouter import errors
from fdrouter.errors import DomainError
from federation import offers, selectors
from federation.answering import IN_A_SENTENCE
from federation.models import Kind
from federation.states import InferenceState


@dataclass(frozen=True, slots=True)
class Step:
    """A next step as a button: ``action`` for the page's script, ``href`` where there is none."""

    label: str
    action: str
    href: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A refusal or failure in words. ``why`` is empty in the table and filled from the error."""

    title: str
    steps: tuple[Step, ...] = ()
    why: str = ""
    charged: bool | None = None

    @property
    def links(self) -> tuple[Step, ...]:
        """The steps that are addresses of their own, for pages without the form."""
        return tuple(step for step in self.steps if step.action in ("link", "kind"))


_HOME = "/"
_GENERAL = Step("Ask the model without records", "kind", "/?kind=general", Kind.GENERAL.value)
_RETRY = Step("Try again", "retry", _HOME)
_BUDGET = Step("See my budget", "link", "/budget")
_EDIT = Step("Change the question", "edit", _HOME)
_MORE = Step("Ask for more budget", "link", "/budget")
_TOGETHER = Step("Ask hospitals together", "across", _HOME, "together")
_ALONE = Step("Ask one hospital", "across", _HOME)
TROUBLES: dict[str, Trouble] = {
    "quota_spent": Trouble("Not enough budget left today", (_GENERAL, _BUDGET)),
    "block_exhausted": Trouble("These records have no privacy budget left", (_GENERAL, _BUDGET)),
    "claim_missing": Trouble("This hospital cannot say what this answer would promise", (_GENERAL,)),
    "push_too_small": Trouble("This cost is too low for the records to speak"),
    "policy_denied": Trouble("The access policy does not allow this", (Step("Change the purpose", "purpose", _HOME),)),
    "invalid_parameter": Trouble("Something in the request is not right", (_EDIT,)),
    "payload_too_large": Trouble("The question is too long", (_EDIT,)),
    "nothing_released": Trouble("Nothing that is published answers this", (_EDIT,)),
    "not_found": Trouble("This could not be found", (_EDIT,)),
    "no_node": Trouble("No hospital can answer right now", (_RETRY, _GENERAL)),
    "node_failed": Trouble("No answer came back", (_RETRY, _GENERAL)),
    "node_timeout": Trouble("No answer in time", (_RETRY, Step("Look in the history", "link", "/history"))),
    "dependency_unavailable": Trouble("A part of the system is not reachable", (_RETRY,)),
    "idempotency_conflict": Trouble("This question was sent before", (_RETRY,)),
    "unauthenticated": Trouble("Your session has ended", (Step("Sign in again", "link", "/sign-in?next=/"),)),
    "cancelled": Trouble("Stopped", (_RETRY, _EDIT)),
    "unknown": Trouble("The request failed", (_RETRY,)),
}


def trouble(error: DomainError, *, charged: bool | None = None) -> Trouble:
    """The words and next steps for an error. Offers that the error itself makes come first."""
    known = TROUBLES.get(error.code, TROUBLES["unknown"])
    steps = known.steps
    if error.code == "quota_spent" and error.details.get("unit") == "requests":
        steps = (_BUDGET,)  # the model without records would count as a request too
    better = tuple(step for offer in error.details.get("try", ()) if (step := _step(offer)) is not None)
    offered = {step.href for step in better if step.href != _HOME}
    return Trouble(known.title, (*better, *(s for s in steps if s.href not in offered)), error.message, charged)


def _step(offer: Mapping[str, Any]) -> Step | None:
    """An offer of a refusal as a button; ``None`` for a parameter that the page has no control for."""
    if "request_budget" in offer:
        return _MORE
    if "across" in offer:
        return _TOGETHER if offer["across"] else _ALONE
    if "hospitals" in offer:
        return Step("Ask another hospital", "hospitals", _HOME, " ".join(offer["hospitals"]))
    kind, cost = offer.get("kind"), offer.get("epsilon")
    if kind == Kind.GENERAL:
        return _GENERAL
    if kind in IN_A_SENTENCE:
        words = IN_A_SENTENCE[kind]
        return Step(f"Answer with {words}" + (f" for {cost:g}" if cost else ""), "form", _HOME, _with_cost(kind, cost))
    return Step(f"Use privacy cost {cost:g}", "epsilon", _HOME, f"{cost:g}") if cost and not kind else None


def _with_cost(kind: Any, cost: float | None) -> str:
    return f"{kind} {cost:g}" if cost else str(kind)


def trouble_of(found: selectors.Request) -> Trouble | None:
    """What a request's page says when it ended without an answer."""
    row = found.row
    if row.state == InferenceState.CANCELLED:
        return Trouble("Stopped", (), "The request was stopped before it had an answer.", found.cost > 0)
    if row.state != InferenceState.FAILED:
        return None
    details = {name: value for name, value in row.details.items() if name != "charged"}
    error = offers.after_end(errors.from_code(row.reason, None, details), row.pk)
    return trouble(error, charged=found.cost > 0)
