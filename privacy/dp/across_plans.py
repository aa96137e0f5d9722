"""What a count or a choice costs that several hospitals answer together, fixed before any record is read.

Nobody adds up true numbers. Every hospital adds discrete Gaussian noise of parameter ``sigma`` to its own and hides the
result under masks that cancel in the sum alone (:mod:`federation.secagg`), so that whoever adds up learns the noisy sum
and nothing else. ``colluders`` hospitals may work together with the coordinator, or add no noise: what the others add
is enough for the claim.

Claim. With ``n = hospitals - colluders`` honest hospitals the sum is rho-zCDP for one patient of one of them under
``swap``, with rho = (D / (sqrt(n) sigma) + tau sqrt(d))^2 / 2, where D is the L2 sensitivity (1 for a count, sqrt 2 for
a choice), d the number of cells and tau = 10 sum_{k=1}^{n-1} exp(-2 pi^2 sigma^2 k / (k + 1)): a sum of discrete
Gaussians is not a discrete Gaussian, and tau bounds by how much. Proof: Kairouz, Liu and Steinke, arXiv 2102.06387,
proposition 14 (the last of its bounds), which asks for sigma of at least 1/2. It holds whatever the dishonest ones
add, as that is independent of the honest ones' noise. A patient on record at m of the hospitals moves the sum by m
times as much: m^2 rho. Patients are not matched between hospitals.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fdrouter.errors import InvalidParameter
from privacy.dp.accounting import check_whole, nano_rdp_up, rho_of_epsilon, up
from privacy.dp.bounds import ADJACENCY, CONFIDENCE, DEFAULT_EPSILON, OPTIONS, delta_of, epsilon_of
from privacy.dp.events import Event
from privacy.dp.mechanisms import NoisyHistogram
from privacy.dp.releases import Zcdp

COUNT, CHOICE = "count_across", "choice_across"
NAMES = (COUNT, CHOICE)
HOSPITALS = (3, 32)
DEFAULT_COLLUDERS = 1
LEAST_SIGMA = 0.5
_STEPS = 1_000_000  # sigma is rounded up to a millionth, so that every hospital finds the same one


@dataclass(frozen=True, slots=True)
class AcrossPlan:
    """``sigma`` is of the noise that each of ``hospitals`` adds to each cell; ``band`` is the half-width of the sum's.

    ``options`` is 0 for a count. The band holds with 95 % probability for the noise of all hospitals together.
    """

    name: str
    epsilon: float
    delta: float
    options: int
    hospitals: int
    colluders: int
    sigma: float
    band: int

    @property
    def cells(self) -> int:
        """Length of the vector that is summed: one count, or one for each option and one for "none of these"."""
        return self.options + 1

    @property
    def noise(self) -> NoisyHistogram:
        """Adds one hospital's part of the noise. Alone it would cost more than the claim."""
        return NoisyHistogram("discrete_gaussian", self.sigma, ADJACENCY)

    @property
    def rho(self) -> float:
        """zCDP of the sum, for the patients of honest hospitals, rounded up."""
        return rho_of_sum(self.sigma, self.hospitals - self.colluders, moved=moved(self.name), cells=self.cells)

    @property
    def event(self) -> Event:
        return Event(Zcdp(self.rho), adjacency=ADJACENCY)

    @property
    def parameters(self) -> dict[str, Any]:
        """What a receipt states of the mechanism."""
        shown = {"hospitals": self.hospitals, "colluders": self.colluders, "sigma": self.sigma, "band": self.band}
        return {"options": self.options, **shown} if self.options else shown

    def to_event(self) -> dict[str, Any]:
        """JSON-ready record for ledger, message and receipt; ``cohort_plans.plan_of`` reads it back."""
        return {
            "mechanism": self.name,
            "unit": "patient",
            "adjacency": ADJACENCY,
            "epsilon": self.epsilon,
            "delta": self.delta,
            **self.parameters,
        }

    def nano_at(self, alpha: float) -> int:
        """Renyi divergence at a block's order in nano-RDP, rounded up."""
        return nano_rdp_up(self.rho, alpha)


def moved(name: str) -> int:
    """How many cells one patient moves by 1: squared L2 sensitivity under ``swap``."""
    return 1 if name == COUNT else 2


def tau(sigma: float, honest: int) -> float:
    """How far the sum of ``honest`` discrete Gaussians is from one of them (arXiv 2102.06387, equation 3)."""
    return up(10 * sum(math.exp(-2 * (math.pi * sigma) ** 2 * k / (k + 1)) for k in range(1, honest)))


def rho_of_sum(sigma: float, honest: int, *, moved: int, cells: int) -> float:
    """zCDP of a sum with the noise of ``honest`` discrete Gaussians on each of ``cells``, rounded up.

    Raises:
        InvalidParameter: the proof does not reach this little noise.
    """
    if not sigma >= LEAST_SIGMA or honest < 1:
        raise InvalidParameter(f"sigma must be at least {LEAST_SIGMA:g} at each hospital.", field="sigma")
    return up((math.sqrt(moved / honest) / sigma + tau(sigma, honest) * math.sqrt(cells)) ** 2 / 2)


@lru_cache(maxsize=1024, typed=True)
def _sigma(rho: float, honest: int, moved: int, cells: int) -> float:
    """The least noise, in whole steps, at which the sum costs no more than ``rho``."""
    low = max(LEAST_SIGMA, math.sqrt(moved / (2 * rho * honest)))
    first, last = math.ceil(low * _STEPS), math.ceil((low + 2.0) * _STEPS)
    while rho_of_sum(last / _STEPS, honest, moved=moved, cells=cells) > rho:
        last *= 2
    while first < last:
        middle = (first + last) // 2
        if rho_of_sum(middle / _STEPS, honest, moved=moved, cells=cells) <= rho:
            last = middle
        else:
            first = middle + 1
    return last / _STEPS


def _plan(
    name: str, epsilon: float | None, delta: float | None, options: int, hospitals: int, colluders: int
) -> AcrossPlan:
    kind = "count" if name == COUNT else "choice"
    epsilon, delta = epsilon_of(epsilon, DEFAULT_EPSILON[kind]), delta_of(delta)
    check_whole(hospitals, "hospitals", *HOSPITALS)
    # Two honest hospitals at least: the number of a single one would stand in the sum, under its own noise alone.
    check_whole(colluders, "colluders", 1, hospitals - 2)
    sigma = _sigma(rho_of_epsilon(epsilon, delta), hospitals - colluders, moved(name), options + 1)
    together = NoisyHistogram("discrete_gaussian", math.sqrt(hospitals) * sigma, ADJACENCY)
    return AcrossPlan(name, epsilon, delta, options, hospitals, colluders, sigma, together.error_band(CONFIDENCE))


def plan_count_across(
    *,
    hospitals: int,
    epsilon: float | None = None,
    delta: float | None = None,
    colluders: int = DEFAULT_COLLUDERS,
) -> AcrossPlan:
    """Raises :class:`InvalidParameter` for a value out of range."""
    return _plan(COUNT, epsilon, delta, 0, hospitals, colluders)


def plan_choice_across(
    *,
    options: int,
    hospitals: int,
    epsilon: float | None = None,
    delta: float | None = None,
    colluders: int = DEFAULT_COLLUDERS,
) -> AcrossPlan:
    """Raises :class:`InvalidParameter` for a value out of range."""
    check_whole(options, "options", *OPTIONS)
    return _plan(CHOICE, epsilon, delta, options, hospitals, colluders)


def plan_of_event(event: dict[str, Any]) -> AcrossPlan:
    """The plan anew from its public parameters; ``cohort_plans.plan_of`` compares it with the record.

    Raises:
        InvalidParameter: out of range. KeyError, TypeError: not the record of a plan.
    """
    shared = {name: event[name] for name in ("epsilon", "delta", "hospitals", "colluders")}
    if event["mechanism"] == COUNT:
        return plan_count_across(**shared)
    return plan_choice_across(**shared, options=event["options"])
