"""What one privately decoded answer costs, and whether the records can be heard in it.

InvisibleInk (Vinod, Pillutla and Thakurta 2025, arXiv 2507.02974): the public row's log-probabilities plus the mean of
B clipped differences, one per patient, sampled at temperature tau. With clip C one patient moves a score by at most
``s * C / B`` (s = 1 when a slot is emptied, s = 2 when it is replaced, which is what top-B retrieval needs), so a token
is an exponential mechanism of range ``eta = 2 s C / (B tau)`` and costs ``rho = eta^2 / 8`` in zCDP. All parameters are
fixed before any record is read.

The *push* C / tau is how far, in nats, unanimous records can move a token against the public model. Below 6 the text
was fluent and ignored the records (measured with a 135M model), so such a plan is refused rather than charged.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from fdrouter.errors import InvalidParameter, PushTooSmall
from privacy.dp.accounting import (
    check_delta,
    check_epsilon,
    epsilon_of_rho,
    is_number,
    is_whole,
    nano_rdp_up,
    rho_of_epsilon,
)
from privacy.dp.events import Adjacency, Event, check_adjacency, of_rho

NEEDED_PUSH = 6.0
MAX_EPSILON = 10.0
MAX_DELTA = 1e-4
CONTEXTS = (4, 128)  # B: patients in one answer
TOKENS = (4, 96)  # T
TAU = (0.1, 2.0)
TOP_K = (10, 2000)
DEFAULT_EPSILON = 3.0
DEFAULT_DELTA = 1e-5
# Measured with the 135M model: at tau 0.8 answers wandered off, at 0.5 they kept to the records; k 200 lets words in
# that the public model did not think of. Cost and push depend on C / tau alone, so neither changes what is paid.
DEFAULT_TAU = 0.5
DEFAULT_TOP_K = 200
DEFAULT_CONTEXTS = (64, 96, 128)  # the first that pays for DEFAULT_TOKENS tokens: fewer patients cost less time
DEFAULT_TOKENS = 24
COMFORTABLE_PUSH = 9.0  # aimed at where length is left open, down to SHORT_TOKENS; then NEEDED_PUSH must do
SHORT_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """What may be asked for: B and k from and to, and the usual B, fewest first: the first that pays is taken."""

    contexts: tuple[int, int] = CONTEXTS
    top_k: tuple[int, int] = TOP_K
    usual: tuple[int, ...] = DEFAULT_CONTEXTS


ONE_HOSPITAL = Limits()
_REACH = {"swap": 2.0, "add_remove": 1.0}
# Float rounding here and in OpenDP's map must never put a token's real cost above the planned one.
_MARGIN = 1 - 1e-9


@dataclass(frozen=True, slots=True)
class TextPlan:
    """Public parameters of one privately decoded answer; make it with :func:`plan_text`.

    ``contexts`` B slots, ``max_tokens`` T, ``clip`` C in nats, ``tau`` temperature, ``top_k`` k of the public
    candidates, ``push`` = C / tau in nats, ``rho_per_token`` in zCDP. The unit of protection is a patient, with one
    slot each.
    """

    epsilon: float
    delta: float
    adjacency: Adjacency
    contexts: int
    max_tokens: int
    clip: float
    tau: float
    top_k: int
    push: float
    rho_per_token: float

    @property
    def name(self) -> str:
        """The mechanism, by the name of its claim sheet."""
        return "token_decoding"

    @property
    def rho(self) -> float:
        """zCDP of the whole answer: reserved before decoding, whatever the text's length turns out to be."""
        return self.max_tokens * self.rho_per_token

    def rho_of(self, tokens: int) -> float:
        """zCDP of the first ``tokens`` tokens (the end token counts): what settling keeps."""
        if not is_whole(tokens) or not 0 <= tokens <= self.max_tokens:
            raise InvalidParameter("More tokens than planned.", field="tokens")
        return tokens * self.rho_per_token

    @property
    def event(self) -> Event:
        """The whole answer as one release."""
        return of_rho(self.rho, adjacency=self.adjacency)

    @property
    def parameters(self) -> dict[str, Any]:
        """What a receipt states of the mechanism."""
        names = ("contexts", "max_tokens", "clip", "tau", "top_k", "push", "rho_per_token")
        return {name: getattr(self, name) for name in names}

    def nano_at(self, alpha: float) -> int:
        """Renyi divergence of the whole answer at a block's order in nano-RDP, rounded up."""
        return nano_rdp_up(self.rho, alpha)

    @property
    def sensitivity_units(self) -> int:
        """How many clips one patient can move a summed score by: 2 for swap, 1 for add/remove."""
        return int(_REACH[self.adjacency])

    def to_event(self) -> dict[str, Any]:
        """JSON-ready record of the release for ledger and receipt; :func:`plan_of_event` reads it back."""
        return {
            "event": "zcdp",
            "mechanism": self.name,
            "unit": "patient",
            "rho": self.rho,
            "reserved_epsilon": epsilon_of_rho(self.rho, self.delta),
            **asdict(self),
        }


def _whole(value: int, field: str, bounds: tuple[int, int]) -> int:
    low, high = bounds
    if not is_whole(value) or not low <= value <= high:
        raise InvalidParameter(f"{field} must be a whole number from {low} to {high}.", field=field, low=low, high=high)
    return value


def _checked_tau(tau: float) -> float:
    low, high = TAU
    if not is_number(tau) or not low <= tau <= high:
        raise InvalidParameter(f"tau must be a number from {low:g} to {high:g}.", field="tau", low=low, high=high)
    return float(tau)


def push_of(rho: float, contexts: int, max_tokens: int, adjacency: Adjacency = "swap") -> float:
    """Push C / tau in nats that ``rho`` buys for T tokens over B contexts: B * sqrt(2 rho / T) / s."""
    return contexts * math.sqrt(2 * rho / max_tokens) / _REACH[adjacency]


def _tokens_for(rho: float, contexts: int, adjacency: Adjacency, needed: float = NEEDED_PUSH) -> int:
    """Most tokens at which the push is still as large as ``needed`` (0 when not even one fits)."""
    tokens = math.floor(2 * rho * (contexts / (needed * _REACH[adjacency])) ** 2)
    while tokens > 0 and push_of(rho * _MARGIN**2, contexts, tokens, adjacency) < needed:
        tokens -= 1
    return tokens


def _contexts_for(rho: float, max_tokens: int, adjacency: Adjacency, limits: Limits) -> int | None:
    """Fewest contexts at which the push is large enough; None when more than allowed are needed."""
    contexts = max(limits.contexts[0], math.floor(NEEDED_PUSH * _REACH[adjacency] / math.sqrt(2 * rho / max_tokens)))
    while push_of(rho * _MARGIN**2, contexts, max_tokens, adjacency) < NEEDED_PUSH:
        contexts += 1
    return contexts if contexts <= limits.contexts[1] else None


def _epsilon_for(delta: float, contexts: int, max_tokens: int, adjacency: Adjacency) -> float | None:
    """Least epsilon, rounded up to a hundredth, at which the push is large enough; None above the maximum."""
    needed = max_tokens * (NEEDED_PUSH * _REACH[adjacency] / contexts) ** 2 / 2
    epsilon = math.ceil(epsilon_of_rho(needed, delta) * 100) / 100
    while epsilon <= MAX_EPSILON:
        if push_of(rho_of_epsilon(epsilon, delta) * _MARGIN**2, contexts, max_tokens, adjacency) >= NEEDED_PUSH:
            return epsilon
        epsilon = round(epsilon + 0.01, 2)
    return None


def _suggestions(
    epsilon: float, delta: float, contexts: int, max_tokens: int, adjacency: Adjacency, limits: Limits
) -> list[dict[str, float]]:
    """Single changes that each make the plan work; empty when no single change does."""
    rho = rho_of_epsilon(epsilon, delta)
    found: list[dict[str, float]] = []
    if (more := _epsilon_for(delta, contexts, max_tokens, adjacency)) is not None:
        found.append({"epsilon": more})
    if (wider := _contexts_for(rho, max_tokens, adjacency, limits)) is not None:
        found.append({"contexts": wider})
    if (shorter := _tokens_for(rho, contexts, adjacency)) >= TOKENS[0]:
        found.append({"max_tokens": min(shorter, TOKENS[1])})
    return found


def _refusal(
    epsilon: float, delta: float, contexts: int, max_tokens: int, adjacency: Adjacency, limits: Limits
) -> PushTooSmall:
    push = push_of(rho_of_epsilon(epsilon, delta), contexts, max_tokens, adjacency)
    choices = _suggestions(epsilon, delta, contexts, max_tokens, adjacency, limits)
    names = {"epsilon": "epsilon {:g}", "contexts": "{:d} patients", "max_tokens": "at most {:d} tokens"}
    offers = [names[key].format(value) for choice in choices for key, value in choice.items()]
    advice = f" Any one of these would do: {', '.join(offers)}." if offers else " No single change makes it work."
    return PushTooSmall(
        f"With epsilon {epsilon:g}, {contexts} patients and {max_tokens} tokens the records could not influence the "
        f"answer, so nothing was charged.{advice}",
        push=round(push, 3),
        needed=NEEDED_PUSH,
        **{"try": choices},
    )


def _sizes(
    rho: float, contexts: int | None, max_tokens: int | None, adjacency: Adjacency, limits: Limits
) -> tuple[int, int]:
    """B and T, with what was left open chosen from epsilon: few patients first (they cost time), then length."""
    wanted = max_tokens or DEFAULT_TOKENS
    if contexts is None:
        pays = (b for b in limits.usual if _tokens_for(rho, b, adjacency, COMFORTABLE_PUSH) >= wanted)
        contexts = next(pays, limits.usual[-1])
    if max_tokens is None:
        max_tokens = _tokens_for(rho, contexts, adjacency, COMFORTABLE_PUSH)
        if max_tokens < SHORT_TOKENS:
            max_tokens = min(SHORT_TOKENS, _tokens_for(rho, contexts, adjacency))
        max_tokens = max(TOKENS[0], min(max_tokens, DEFAULT_TOKENS))
    return contexts, max_tokens


def plan_text(
    *,
    epsilon: float = DEFAULT_EPSILON,
    delta: float = DEFAULT_DELTA,
    contexts: int | None = None,
    max_tokens: int | None = None,
    tau: float = DEFAULT_TAU,
    top_k: int = DEFAULT_TOP_K,
    adjacency: Adjacency = "swap",
) -> TextPlan:
    """Plan one answer; whatever is ``None`` is chosen from epsilon.

    Raises :class:`InvalidParameter` (``details['field']``) for a value out of range, and :class:`PushTooSmall` with
    ``details`` push, needed and try (single changes that would work) when the records could not be heard.
    """
    values = planned(
        epsilon=epsilon,
        delta=delta,
        contexts=contexts,
        max_tokens=max_tokens,
        tau=tau,
        top_k=top_k,
        adjacency=adjacency,
        limits=ONE_HOSPITAL,
    )
    return TextPlan(**values)


def planned(
    *,
    epsilon: float,
    delta: float,
    contexts: int | None,
    max_tokens: int | None,
    tau: float,
    top_k: int,
    adjacency: Adjacency,
    limits: Limits,
) -> dict[str, Any]:
    """The values of a :class:`TextPlan` within ``limits``; raises as :func:`plan_text`."""
    epsilon = check_epsilon(epsilon, high=MAX_EPSILON)
    delta = check_delta(delta, high=MAX_DELTA)
    tau = _checked_tau(tau)
    top_k = _whole(top_k, "top_k", limits.top_k)
    check_adjacency(adjacency)
    if contexts is not None:
        contexts = _whole(contexts, "contexts", limits.contexts)
    if max_tokens is not None:
        max_tokens = _whole(max_tokens, "max_tokens", TOKENS)
    rho = rho_of_epsilon(epsilon, delta)
    contexts, max_tokens = _sizes(rho, contexts, max_tokens, adjacency, limits)
    rho_per_token = rho / max_tokens * _MARGIN
    push = contexts * math.sqrt(2 * rho_per_token) / _REACH[adjacency] * math.sqrt(_MARGIN)
    if push < NEEDED_PUSH:
        raise _refusal(epsilon, delta, contexts, max_tokens, adjacency, limits)
    return {
        "epsilon": epsilon,
        "delta": delta,
        "adjacency": adjacency,
        "contexts": contexts,
        "max_tokens": max_tokens,
        "clip": push * tau,
        "tau": tau,
        "top_k": top_k,
        "push": push,
        "rho_per_token": rho_per_token,
    }


def plan_of_event(event: dict[str, Any]) -> TextPlan:
    """The plan that :meth:`TextPlan.to_event` recorded, made anew and compared: an altered event is refused."""
    try:
        names = ("epsilon", "delta", "contexts", "max_tokens", "tau", "top_k", "adjacency")
        plan = plan_text(**{name: event[name] for name in names})
        stored = {field.name: event[field.name] for field in fields(TextPlan)}
    except (KeyError, TypeError) as error:
        raise InvalidParameter("This is not the record of a text plan.", field="event") from error
    if stored != asdict(plan):
        raise InvalidParameter("The record of the text plan does not add up.", field="event")
    return plan
