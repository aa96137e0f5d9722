"""The mechanisms that can be accounted for, by their public parameters.

Every parameter is relative to the sensitivity *under the adjacency of the event that holds it* (``events.py``): with
``swap`` a patient is replaced by another, a clipped sum moves by twice the clip, and the same noise is half the noise
multiplier that it is with ``add_remove``. dp-accounting leaves that to its caller: its RDP accountant takes the
multiplier as it is, whatever the relation.

``pure`` is the epsilon that holds at delta 0, ``rho`` the zCDP (Bun and Steinke, arXiv 1605.02065), both rounded up and
None where nothing is known; ``dp_event`` is dp-accounting's description. Parameters out of range raise
:class:`InvalidParameter`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from dp_accounting import dp_event

from privacy.dp.accounting import MIN_DELTA, check_number, check_whole, up

MAX_PURE = 100.0  # an epsilon above this protects nothing, and its exponential would not fit a float
MAX_RHO = 200.0
_NOISE = (0.05, 1e9)  # 0.05 is rho 200
_SCALE = (1e-2, 1e9)


def worst_of_pure(epsilon: float) -> Any:
    """dp-accounting's event of randomised response, the worst release that is epsilon-DP, for ``REPLACE_ONE``.

    Kairouz, Oh and Viswanath (arXiv 1311.0776), theorem 2.1 with 3.1. Discrete Laplace noise with sensitivity 1 equals
    it, so the curve of continuous Laplace noise would be too small there.
    """
    return dp_event.RandomizedResponseDpEvent(noise_parameter=2 / (1 + math.exp(epsilon)), num_buckets=2)


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Continuous Gaussian noise, as in DP-SGD. ``noise_multiplier`` is sigma / L2 sensitivity.

    For whole numbers use :class:`DiscreteGaussian`: its noise is exact, floating-point noise is not (Mironov 2012).
    """

    name: ClassVar[str] = "gaussian"
    noise_multiplier: float

    def __post_init__(self) -> None:
        check_number(self.noise_multiplier, "noise_multiplier", *_NOISE)

    @property
    def dp_event(self) -> Any:
        return dp_event.GaussianDpEvent(float(self.noise_multiplier))

    @property
    def rho(self) -> float:
        """1 / (2 multiplier^2) (Bun and Steinke, arXiv 1605.02065, proposition 1.6)."""
        return up(0.5 / self.noise_multiplier**2)

    @property
    def pure(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class DiscreteGaussian:
    """Discrete Gaussian noise of parameter ``scale`` on whole numbers, of which one unit moves at most ``cells``, each
    by at most ``step``.

    It is rho-zCDP as the continuous one is (Canonne, Kamath and Steinke, arXiv 2004.00010, theorem 14), but it has a
    privacy loss distribution of its own: the continuous curve would at times say too little.
    """

    name: ClassVar[str] = "discrete_gaussian"
    scale: float
    cells: int = 1
    step: int = 1

    def __post_init__(self) -> None:
        check_number(self.scale, "scale", *_SCALE)
        check_whole(self.cells, "cells", 1, 10**6)
        check_whole(self.step, "step", 1, 10**6)
        check_number(self.rho, "scale", 0, MAX_RHO)

    @property
    def dp_event(self) -> Any:
        return dp_event.ZCDpEvent(self.rho)

    @property
    def rho(self) -> float:
        """cells * step^2 / (2 scale^2)."""
        return up(self.cells * self.step**2 / (2 * self.scale**2))

    @property
    def pure(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Laplace:
    """Continuous Laplace noise. ``noise_multiplier`` is scale / L1 sensitivity."""

    name: ClassVar[str] = "laplace"
    noise_multiplier: float

    def __post_init__(self) -> None:
        check_number(self.noise_multiplier, "noise_multiplier", 1 / MAX_PURE, 1e9)

    @property
    def dp_event(self) -> Any:
        return dp_event.LaplaceDpEvent(float(self.noise_multiplier))

    @property
    def rho(self) -> float:
        """epsilon^2 / 2 (Bun and Steinke, arXiv 1605.02065, proposition 1.4)."""
        return up(self.pure**2 / 2)

    @property
    def pure(self) -> float:
        return up(1 / self.noise_multiplier)


@dataclass(frozen=True, slots=True)
class DiscreteLaplace:
    """Discrete Laplace noise of parameter ``scale`` on whole numbers with L1 ``sensitivity``."""

    name: ClassVar[str] = "discrete_laplace"
    scale: float
    sensitivity: int = 1

    def __post_init__(self) -> None:
        check_number(self.scale, "scale", *_SCALE)
        check_whole(self.sensitivity, "sensitivity", 1, 10**9)
        check_number(self.pure, "scale", 0, MAX_PURE * 1.001)

    @property
    def dp_event(self) -> Any:
        return dp_event.DiscreteLaplaceDpEvent(noise_parameter=1 / self.scale, sensitivity=self.sensitivity)

    @property
    def rho(self) -> float:
        return up(self.pure**2 / 2)

    @property
    def pure(self) -> float:
        return up(self.sensitivity / self.scale)


@dataclass(frozen=True, slots=True)
class Exponential:
    """The exponential mechanism (Gumbel noise, then the largest score) of bounded range ``eta``.

    eta is 2 * sensitivity / scale, or sensitivity / scale where one unit moves all scores one way. The mechanism is
    eta-DP and eta^2 / 8-zCDP (Cesar and Rogers, arXiv 2004.07223). dp-accounting 0.6.0 has no event of its own for it.
    """

    name: ClassVar[str] = "exponential"
    eta: float

    def __post_init__(self) -> None:
        check_number(self.eta, "eta", 1e-9, MAX_PURE * 1.001)

    @property
    def dp_event(self) -> Any:
        return dp_event.ZCDpEvent(self.rho)

    @property
    def rho(self) -> float:
        return up(self.eta**2 / 8)

    @property
    def pure(self) -> float:
        return up(self.eta)


@dataclass(frozen=True, slots=True)
class Zcdp:
    """Any rho-zCDP release of which nothing more is known."""

    name: ClassVar[str] = "zcdp"
    rho: float

    def __post_init__(self) -> None:
        check_number(self.rho, "rho", 0, MAX_RHO)

    @property
    def dp_event(self) -> Any:
        return dp_event.ZCDpEvent(float(self.rho))

    @property
    def pure(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Approximate:
    """Any (epsilon, delta)-DP release of which nothing more is known, such as an amplified query; delta may be 0."""

    name: ClassVar[str] = "approximate"
    epsilon: float
    delta: float = 0.0

    def __post_init__(self) -> None:
        check_number(self.epsilon, "epsilon", 0, MAX_PURE)
        if self.delta != 0 or isinstance(self.delta, bool):
            check_number(self.delta, "delta", MIN_DELTA**2, 0.5)

    @property
    def dp_event(self) -> Any:
        """Randomised response, the worst release with this epsilon (Kairouz, Oh and Viswanath, arXiv 1311.0776), for
        delta 0; otherwise the library has no description."""
        if self.delta:
            return dp_event.UnsupportedDpEvent()
        return worst_of_pure(self.epsilon)

    @property
    def rho(self) -> float | None:
        return None if self.delta else up(self.epsilon**2 / 2)

    @property
    def pure(self) -> float | None:
        return None if self.delta else float(self.epsilon)


@dataclass(frozen=True, slots=True)
class PoissonGaussian:
    """Gaussian noise on a fresh Poisson sample: everybody is in it with probability ``rate``, independently.

    For batches that were shuffled or cut to a fixed size this figure is too small (Chua et al., arXiv 2403.17673).
    Holds for ``add_remove`` only.
    """

    name: ClassVar[str] = "poisson_gaussian"
    noise_multiplier: float
    rate: float

    def __post_init__(self) -> None:
        check_number(self.noise_multiplier, "noise_multiplier", *_NOISE)
        check_number(self.rate, "rate", 1e-9, 1)

    @property
    def dp_event(self) -> Any:
        return dp_event.PoissonSampledDpEvent(float(self.rate), dp_event.GaussianDpEvent(float(self.noise_multiplier)))

    @property
    def rho(self) -> None:
        return None

    @property
    def pure(self) -> None:
        return None


@dataclass(frozen=True, slots=True)
class SubsetGaussian:
    """Gaussian noise on a fresh sample of exactly ``sample`` out of ``population``, drawn without replacement.

    Holds for ``swap`` only (Wang, Balle and Kasiviswanathan, arXiv 1808.00087); the multiplier is sigma over the
    sensitivity of a swap, which is twice the clip.
    """

    name: ClassVar[str] = "subset_gaussian"
    noise_multiplier: float
    population: int
    sample: int

    def __post_init__(self) -> None:
        check_number(self.noise_multiplier, "noise_multiplier", *_NOISE)
        check_whole(self.population, "population", 1, 10**12)
        check_whole(self.sample, "sample", 1, self.population)

    @property
    def dp_event(self) -> Any:
        inner = dp_event.GaussianDpEvent(float(self.noise_multiplier))
        return dp_event.SampledWithoutReplacementDpEvent(self.population, self.sample, inner)

    @property
    def rho(self) -> None:
        return None

    @property
    def pure(self) -> None:
        return None


Mechanism = (
    Gaussian
    | DiscreteGaussian
    | Laplace
    | DiscreteLaplace
    | Exponential
    | Zcdp
    | Approximate
    | PoissonGaussian
    | SubsetGaussian
)
