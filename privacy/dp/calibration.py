"""From a target to the noise or the clip that meets it, and back. Every result errs on the private side.

The search is dp-accounting's; the figure that it searches with is the composition's, so that what was calibrated is
what the accountant will say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from dp_accounting import ExplicitBracketInterval, calibrate_dp_mechanism, dp_event

from fdrouter.errors import InvalidParameter
from privacy.dp.accounting import (
    check_delta,
    check_epsilon,
    check_number,
    check_whole,
    epsilon_of_rho,
    rho_of_epsilon,
    up,
)
from privacy.dp.composition import Composition, check_composition, composed
from privacy.dp.events import Adjacency, Event, check_adjacency
from privacy.dp.releases import Exponential
from privacy.dp.text_plan import TextPlan, plan_of_event, push_of

_MARGIN = 1 - 1e-9
_MAX_NOISE = 1e12  # above what any event may have


class _Probe:
    """What ``calibrate_dp_mechanism`` needs of an accountant."""

    ledger = dp_event.NoOpDpEvent()

    def __init__(self, count: int, composition: Composition) -> None:
        self._count, self._composition = count, composition
        self._parts: list[tuple[Event, int]] = []

    def compose(self, event: Event) -> _Probe:
        self._parts.append((event, self._count))
        return self

    def get_epsilon(self, delta: float) -> float:
        return composed(self._parts, delta, self._composition)


def noise_for(
    event_of: Callable[[float], Event],
    epsilon: float,
    delta: float,
    *,
    count: int = 1,
    composition: Composition = "rdp",
) -> float:
    """The least noise x (to 1e-6 of itself) at which ``count`` releases of ``event_of(x)`` cost at most ``epsilon``.

    ``event_of`` makes an event from a noise scale or multiplier; more noise must cost less.

    Raises:
        InvalidParameter: a value out of range, or no noise that the event takes meets the target.
    """
    epsilon, delta = check_epsilon(epsilon), check_delta(delta)
    check_whole(count, "count", 1, 10**7)
    check_composition(composition)

    def cost(noise: float) -> float:
        return composed([(event_of(noise), count)], delta, composition)

    low, high = _bracket(cost, epsilon)
    if low < high:
        found = calibrate_dp_mechanism(
            lambda: _Probe(count, composition),
            event_of,
            epsilon,
            delta,
            bracket_interval=ExplicitBracketInterval(low, high),
            tol=high * 1e-7,
        )
        high = float(found)
    while cost(high) > epsilon:  # the library's root may lie a float's width on the wrong side
        high *= 1 + 1e-7
    return high


def _bracket(cost: Callable[[float], float], epsilon: float) -> tuple[float, float]:
    """Noise that costs too much and noise, at most twice that, which does not.

    Raises:
        InvalidParameter: the cost hardly depends on the noise, so that no noise is enough, or none is needed.
    """
    high = 1.0
    while cost(high) > epsilon:
        high *= 2
        if high > _MAX_NOISE:
            raise InvalidParameter("No amount of noise meets this epsilon.", field="epsilon")
    low = high / 2
    try:
        while cost(low) <= epsilon:
            low, high = low / 2, low
            if high < 1 / _MAX_NOISE:
                raise InvalidParameter(
                    "This epsilon is met without noise: its cost is not the noise's.", field="epsilon"
                )
    except InvalidParameter as error:
        # Less noise than any event of this kind may have: what is left is enough.
        if error.details.get("field") in ("epsilon", "delta"):
            raise
        low = high
    return low, high


def epsilon_of_noise(event: Event, delta: float, *, count: int = 1, composition: Composition = "rdp") -> float:
    """The epsilon of ``count`` releases of ``event`` at ``delta``, rounded up."""
    check_whole(count, "count", 1, 10**7)
    return composed([(event, count)], delta, composition)


def clip_for(
    epsilon: float, delta: float, *, contexts: int, max_tokens: int, tau: float, adjacency: Adjacency = "swap"
) -> float:
    """Clip C in nats that spends at most ``epsilon`` on T = ``max_tokens`` tokens over B = ``contexts`` patients.

    C = tau B sqrt(2 rho / T), and half of that for ``swap`` (InvisibleInk, arXiv 2507.02974).

    Raises:
        InvalidParameter: a value out of range; a cohort of nobody has no clip.
    """
    _check_decoding(contexts, max_tokens, tau, adjacency)
    rho = rho_of_epsilon(check_epsilon(epsilon), check_delta(delta))
    return tau * push_of(rho, contexts, max_tokens, adjacency) * _MARGIN


def epsilon_of_clip(
    clip: float, delta: float, *, contexts: int, max_tokens: int, tau: float, adjacency: Adjacency = "swap"
) -> float:
    """Epsilon of T tokens decoded with clip C (nats), rounded up: rho is T eta^2 / 8 with eta = 2 s C / (B tau)."""
    _check_decoding(contexts, max_tokens, tau, adjacency)
    check_number(clip, "clip", 1e-9, 1e6)
    eta = 2 * (2 if adjacency == "swap" else 1) * clip / (contexts * tau)
    return epsilon_of_rho(up(max_tokens * eta**2 / 8), check_delta(delta))


def _check_decoding(contexts: int, max_tokens: int, tau: float, adjacency: Adjacency) -> None:
    check_whole(contexts, "contexts", 1, 10**6)
    check_whole(max_tokens, "max_tokens", 1, 10**6)
    check_number(tau, "tau", 1e-3, 1e3)
    check_adjacency(adjacency)


def noise_of_rho(rho: float) -> float:
    """Noise multiplier sigma / sensitivity of a Gaussian release of ``rho`` zCDP: 1 / sqrt(2 rho), rounded up."""
    return up(1 / math.sqrt(2 * check_number(rho, "rho", 1e-18, 200)))


def of_tokens(plan: TextPlan) -> tuple[Event, int]:
    """The event of one token of a text, and the number of its tokens."""
    eta = (8 * plan.rho_per_token) ** 0.5 * (1 + 1e-12)
    return Event(Exponential(eta), unit="patient", adjacency=plan.adjacency), plan.max_tokens


def of_text_plan(stored: Mapping[str, Any]) -> tuple[Event, int]:
    """:func:`of_tokens` of what a text plan recorded (``TextPlan.to_event``).

    Raises:
        InvalidParameter: the record does not add up.
    """
    return of_tokens(plan_of_event(dict(stored)))
