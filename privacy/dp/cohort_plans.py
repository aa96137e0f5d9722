"""What an answer from votes and counts costs, fixed before any record is read.

Every plan protects one patient under ``swap``: their record replaced by any other one, which is also what it takes for
them to leave or to come. Votes and counts are whole numbers of patients and each patient's part in them is a function
of their own record and of the question.

* ``count``: patients whose record matches. One patient moves it by 1: discrete Laplace noise, pure epsilon.
* ``choice``: a histogram over options and "none of these". A patient who changes their vote moves two cells by 1:
  discrete Gaussian noise on each (Canonne, Kamath and Steinke, arXiv 2004.00010). The whole noisy histogram is
  released: it costs what its largest cell would cost.
* ``keywords``: ``picks`` words of a public list, drawn by report-noisy-max one after the other (Durfee and Rogers,
  arXiv 1905.04273). A patient may hold all words or none, so each count moves by 1: range 2 / scale for each pick.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from fdrouter.errors import InvalidParameter
from privacy.dp import across_plans, across_text, confident_plans
from privacy.dp.accounting import is_whole, nano_rdp_up, rho_of_epsilon, up
from privacy.dp.across_plans import AcrossPlan
from privacy.dp.bounds import ADJACENCY, CONFIDENCE, delta_of, epsilon_of
from privacy.dp.bounds import DEFAULT_EPSILON as DEFAULT_EPSILON
from privacy.dp.bounds import LEAST_EPSILON as LEAST_EPSILON
from privacy.dp.bounds import OPTIONS as OPTIONS
from privacy.dp.confident_plans import ConfidentChoicePlan
from privacy.dp.curves import nano_divergence
from privacy.dp.events import Event
from privacy.dp.mechanisms import NoisyHistogram, Selection
from privacy.dp.release_plans import ReleasePlan, plan_of_release
from privacy.dp.releases import DiscreteLaplace, Exponential, Zcdp
from privacy.dp.text_plan import TextPlan, plan_of_event

PICKS = (1, 8)
DEFAULT_PICKS = 4
DEFAULT_TERMS = "clinical-1"
# Float rounding here and in OpenDP's map must never put the real cost above the planned one.
_MARGIN = 1 + 1e-9


@dataclass(frozen=True, slots=True)
class CountPlan:
    """``scale`` of the discrete Laplace noise; ``band`` is the half-width that holds with 95 % probability."""

    name: ClassVar[str] = "count"
    delta: ClassVar[float] = 0.0
    epsilon: float
    scale: float
    band: int

    @property
    def noise(self) -> NoisyHistogram:
        """Adds the noise. One cell that a patient is in or not: whoever comes for whom, it moves by 1 at most."""
        return NoisyHistogram("discrete_laplace", self.scale, "add_remove")

    @property
    def event(self) -> Event:
        return Event(DiscreteLaplace(self.scale), adjacency="swap")

    @property
    def parameters(self) -> dict[str, Any]:
        """What a receipt states of the mechanism."""
        return {"scale": self.scale, "band": self.band}

    def to_event(self) -> dict[str, Any]:
        """JSON-ready record for ledger, message and receipt; :func:`plan_of` reads it back."""
        return _record(self, self.parameters)

    def nano_at(self, alpha: float) -> int:
        """Renyi divergence at a block's order in nano-RDP, rounded up."""
        return nano_divergence(self.event, alpha)


@dataclass(frozen=True, slots=True)
class ChoicePlan:
    """``sigma`` of the discrete Gaussian noise on each of ``options`` cells and the one for "none of these"."""

    name: ClassVar[str] = "choice"
    epsilon: float
    delta: float
    options: int
    sigma: float
    band: int

    @property
    def noise(self) -> NoisyHistogram:
        """Adds the noise."""
        return NoisyHistogram("discrete_gaussian", self.sigma, "swap")

    @property
    def event(self) -> Event:
        return self.noise.event

    @property
    def parameters(self) -> dict[str, Any]:
        """What a receipt states of the mechanism."""
        return {"options": self.options, "sigma": self.sigma, "band": self.band}

    def to_event(self) -> dict[str, Any]:
        """JSON-ready record for ledger, message and receipt; :func:`plan_of` reads it back."""
        return _record(self, self.parameters)

    def nano_at(self, alpha: float) -> int:
        """Renyi divergence at a block's order in nano-RDP, rounded up."""
        return nano_divergence(self.event, alpha)


@dataclass(frozen=True, slots=True)
class KeywordsPlan:
    """``scale`` of the noise of each of ``picks`` draws from the public word list ``terms``."""

    name: ClassVar[str] = "keywords"
    epsilon: float
    delta: float
    picks: int
    scale: float
    terms: str

    @property
    def rho(self) -> float:
        """The picks compose."""
        return up(self.picks * Exponential(2 / self.scale).rho)

    @property
    def pick(self) -> Event:
        """One draw."""
        return Event(Exponential(2 / self.scale), adjacency="swap")

    @property
    def selection(self) -> Selection:
        """Draws the words; one pick costs its event."""
        return Selection(self.scale, picks=self.picks, adjacency="swap")

    @property
    def event(self) -> Event:
        return Event(Zcdp(self.rho), adjacency="swap")

    @property
    def parameters(self) -> dict[str, Any]:
        """What a receipt states of the mechanism."""
        return {"picks": self.picks, "scale": self.scale, "terms": self.terms}

    def to_event(self) -> dict[str, Any]:
        """JSON-ready record for ledger, message and receipt; :func:`plan_of` reads it back."""
        return _record(self, self.parameters)

    def nano_at(self, alpha: float) -> int:
        """Renyi divergence at a block's order in nano-RDP, rounded up."""
        return nano_rdp_up(self.rho, alpha)


#: The whole privacy cost of one request, and the public parameters that it follows from.
QueryPlan = TextPlan | CountPlan | ChoicePlan | ConfidentChoicePlan | KeywordsPlan | AcrossPlan
#: What a block may pay for: a request, or a release that is asked without end.
Plan = QueryPlan | ReleasePlan


def _record(plan: CountPlan | ChoicePlan | KeywordsPlan, parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "mechanism": plan.name,
        "unit": "patient",
        "adjacency": ADJACENCY,
        "epsilon": plan.epsilon,
        "delta": plan.delta,
        **parameters,
    }


def plan_count(*, epsilon: float | None = None) -> CountPlan:
    """Raises :class:`InvalidParameter` for an epsilon out of range."""
    epsilon = epsilon_of(epsilon, DEFAULT_EPSILON["count"])
    scale = _MARGIN / epsilon
    return CountPlan(epsilon, scale, NoisyHistogram("discrete_laplace", scale, "add_remove").error_band(CONFIDENCE))


def plan_choice(*, options: int, epsilon: float | None = None, delta: float | None = None) -> ChoicePlan:
    """Raises :class:`InvalidParameter` for a value out of range."""
    epsilon, delta = epsilon_of(epsilon, DEFAULT_EPSILON["choice"]), delta_of(delta)
    _between(options, "options", OPTIONS)
    sigma = 1 / math.sqrt(rho_of_epsilon(epsilon, delta)) * _MARGIN
    band = NoisyHistogram("discrete_gaussian", sigma, "swap").error_band(CONFIDENCE)
    return ChoicePlan(epsilon, delta, options, sigma, band)


def plan_keywords(
    *, terms: str = DEFAULT_TERMS, epsilon: float | None = None, delta: float | None = None, picks: int | None = None
) -> KeywordsPlan:
    """Raises :class:`InvalidParameter` for a value out of range."""
    epsilon, delta = epsilon_of(epsilon, DEFAULT_EPSILON["keywords"]), delta_of(delta)
    picks = DEFAULT_PICKS if picks is None else picks
    _between(picks, "picks", PICKS)
    if not 1 <= len(terms) <= 80:
        raise InvalidParameter("terms must name a word list.", field="terms")
    scale = math.sqrt(picks / (2 * rho_of_epsilon(epsilon, delta))) * _MARGIN
    return KeywordsPlan(epsilon, delta, picks, scale, terms)


def _between(value: int, field: str, bounds: tuple[int, int]) -> None:
    low, high = bounds
    if not is_whole(value) or not low <= value <= high:
        raise InvalidParameter(f"{field} must be a whole number from {low} to {high}.", field=field, low=low, high=high)


def plan_of(event: dict[str, Any]) -> Plan:
    """The plan that a record came from, made anew and compared: an altered one is refused.

    Raises:
        InvalidParameter: it does not add up. PushTooSmall: as for :func:`privacy.dp.text_plan.plan_text`.
    """
    try:
        name = event["mechanism"]
        if name == "token_decoding":
            return plan_of_event(event)
        if name == "count":
            plan: Plan = plan_count(epsilon=event["epsilon"])
        elif name == "choice":
            plan = plan_choice(options=event["options"], epsilon=event["epsilon"], delta=event["delta"])
        elif name == "keywords":
            plan = plan_keywords(
                terms=event["terms"], epsilon=event["epsilon"], delta=event["delta"], picks=event["picks"]
            )
        elif name == confident_plans.NAME:
            plan = confident_plans.plan_of_event(event)
        elif (released := plan_of_release(event)) is not None:
            plan = released
        elif name in across_plans.NAMES:
            plan = across_plans.plan_of_event(event)
        elif name == across_text.NAME:
            plan = across_text.plan_of_event(event)
        else:
            raise InvalidParameter("This mechanism is not known.", field="mechanism")
    except (KeyError, TypeError) as error:
        raise InvalidParameter("This is not the record of a plan.", field="event") from error
    if event != plan.to_event():
        raise InvalidParameter("The record of the plan does not add up.", field="event")
    return plan
