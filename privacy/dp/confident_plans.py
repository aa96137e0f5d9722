"""A choice that is told only where enough records agree, and costs little where they do not.

Confident aggregation (Papernot et al., arXiv 1802.08908, section 4.2): the largest vote is checked against a public
threshold with noise of its own; only if it passes is the noisy histogram released.

Claim. Under ``swap``, the check costs 1 / (2 check_sigma^2) in zCDP, always, and the histogram 1 / sigma^2 more where
it is released. Proof. A patient who changes their vote moves every option's votes by at most 1, hence their maximum by
at most 1, and the check is post-processing of that maximum with discrete Gaussian noise; the histogram is the one of
``privacy.dp.cohort_plans``. Whether it is released follows from the released check, so the two compose adaptively, and
what is not released costs nothing (the filter of a block may be charged the cost that was incurred).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from privacy.dp.accounting import check_whole, nano_rdp_up, rho_of_epsilon, up
from privacy.dp.bounds import ADJACENCY, CONFIDENCE, DEFAULT_EPSILON, OPTIONS, delta_of, epsilon_of
from privacy.dp.events import Event
from privacy.dp.mechanisms import NoisyHistogram
from privacy.dp.releases import Zcdp

NAME = "choice_confident"
THRESHOLD = (1, 1_000_000)
#: The check's part of the whole cost. A fifth leaves the histogram's noise at 1.12 times what it is without a check.
CHECK_SHARE = 0.2
_MARGIN = 1 + 1e-9


@dataclass(frozen=True, slots=True)
class ConfidentChoicePlan:
    """``threshold`` patients must agree, give or take noise of ``check_sigma``; the rest as a ``ChoicePlan``."""

    name: ClassVar[str] = NAME
    epsilon: float
    delta: float
    options: int
    threshold: int
    check_sigma: float
    sigma: float
    band: int

    @property
    def check(self) -> NoisyHistogram:
        """Noise for the largest vote: one number that moves by 1 at most, whoever changes their mind."""
        return NoisyHistogram("discrete_gaussian", self.check_sigma, "add_remove")

    @property
    def noise(self) -> NoisyHistogram:
        """Noise for the histogram, once the check has passed."""
        return NoisyHistogram("discrete_gaussian", self.sigma, "swap")

    @property
    def check_event(self) -> Event:
        """The check as a release: the maximum moves by 1 at most under ``swap`` too."""
        return Event(self.check.event.mechanism, adjacency=ADJACENCY)

    @property
    def check_rho(self) -> float:
        """zCDP of the check alone."""
        return up(0.5 / self.check_sigma**2)

    @property
    def rho(self) -> float:
        """zCDP of check and histogram."""
        return up(self.check_rho + up(1 / self.sigma**2))

    @property
    def event(self) -> Event:
        return Event(Zcdp(self.rho), adjacency=ADJACENCY)

    @property
    def parameters(self) -> dict[str, Any]:
        """What a receipt states of the mechanism."""
        names = ("options", "threshold", "check_sigma", "sigma", "band")
        return {name: getattr(self, name) for name in names}

    def to_event(self) -> dict[str, Any]:
        """JSON-ready record for ledger, message and receipt; :func:`plan_of_event` reads it back."""
        base = {"mechanism": NAME, "unit": "patient", "adjacency": ADJACENCY}
        return base | {"epsilon": self.epsilon, "delta": self.delta, **self.parameters}

    def nano_at(self, alpha: float) -> int:
        """Renyi divergence of check and histogram at a block's order in nano-RDP, rounded up."""
        return nano_rdp_up(self.rho, alpha)

    def nano_of_check(self, alpha: float) -> int:
        """What is kept where the histogram was withheld."""
        return nano_rdp_up(self.check_rho, alpha)

    def passes(self, votes: list[int]) -> bool:
        """Whether enough patients agree. Draws the check's noise: call it once for one payment.

        ``votes`` are those of the named options (shape: options), without "none or several".
        """
        return self.check.release([max(votes)])[0] >= self.threshold


def plan_confident_choice(
    *, options: int, threshold: int, epsilon: float | None = None, delta: float | None = None
) -> ConfidentChoicePlan:
    """Raises :class:`fdrouter.errors.InvalidParameter` for a value out of range."""
    epsilon, delta = epsilon_of(epsilon, DEFAULT_EPSILON["choice"]), delta_of(delta)
    check_whole(options, "options", *OPTIONS)
    check_whole(threshold, "threshold", *THRESHOLD)
    rho = rho_of_epsilon(epsilon, delta)
    check_sigma = math.sqrt(0.5 / (CHECK_SHARE * rho)) * _MARGIN
    sigma = math.sqrt(1 / ((1 - CHECK_SHARE) * rho)) * _MARGIN
    band = NoisyHistogram("discrete_gaussian", sigma, "swap").error_band(CONFIDENCE)
    return ConfidentChoicePlan(epsilon, delta, options, threshold, check_sigma, sigma, band)


def plan_of_event(event: dict[str, Any]) -> ConfidentChoicePlan:
    """The plan of a record, made anew; the caller compares."""
    names = ("options", "threshold", "epsilon", "delta")
    return plan_confident_choice(**{name: event[name] for name in names})
