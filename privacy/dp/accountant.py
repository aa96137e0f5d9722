"""The accountant of the SDK: what a series of releases has cost, by the composition that was asked for.

It keeps books and stops nobody: budgets do (``BudgetManager`` for a person's or a department's allowance, a hospital's
ledger for its patients). What it adds up is the epsilon of the people on record; a user's allowance counts something
else, namely the plain sum of what that user asked for, and the two are never mixed here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fdrouter.errors import InvalidParameter
from privacy.dp.accounting import check_delta, check_epsilon, check_number, check_whole, up
from privacy.dp.calibration import noise_for
from privacy.dp.composition import Composition, check_composition, composed, epsilon_of
from privacy.dp.events import Adjacency, Event, Unit, check_adjacency, check_unit
from privacy.dp.releases import DiscreteGaussian, DiscreteLaplace, Exponential

Mechanism = Literal["gaussian", "laplace", "exponential"]
MAX_COUNT = 10**7


@dataclass(frozen=True, slots=True, kw_only=True)
class DPConfig:
    """What queries may cost, and what the figures mean.

    ``epsilon_per_query`` and ``delta``: what one query claims; its noise is calibrated to them.
    ``max_budget_per_user``: a person's allowance, counted by plain sum, which is policy and no guarantee to patients.
    ``noise_multiplier`` and ``clip_norm`` belong to training (DP-SGD) and do not change what a query costs. ``unit`` is
    who is protected, ``adjacency`` against which change.

    Raises:
        InvalidParameter: a value out of range, or a budget that would not pay for one query.
    """

    epsilon_per_query: float
    delta: float = 1e-5
    max_budget_per_user: float = 10.0
    noise_multiplier: float | None = None
    clip_norm: float | None = None
    unit: Unit = "patient"
    adjacency: Adjacency = "add_remove"

    def __post_init__(self) -> None:
        check_number(self.epsilon_per_query, "epsilon_per_query", 1e-3, 100)
        check_delta(self.delta, high=1e-2)
        check_number(self.max_budget_per_user, "max_budget_per_user", 1e-3, 1e6)
        if self.noise_multiplier is not None:
            check_number(self.noise_multiplier, "noise_multiplier", 0.05, 1e9)
        if self.clip_norm is not None:
            check_number(self.clip_norm, "clip_norm", 1e-9, 1e9)
        check_unit(self.unit)
        check_adjacency(self.adjacency)
        if self.max_budget_per_user < self.epsilon_per_query:
            raise InvalidParameter(
                "max_budget_per_user would not pay for one query of epsilon_per_query.", field="max_budget_per_user"
            )


@dataclass(frozen=True, slots=True)
class Guarantee:
    """What holds after ``releases`` releases: (``epsilon``, ``delta``)-DP for one ``unit`` against ``adjacency``.

    ``plain_sum`` is the sum of what every release claims on its own: quotas count that, and at delta it is no
    guarantee by itself.
    """

    epsilon: float
    delta: float
    unit: Unit
    adjacency: Adjacency
    composition: Composition
    releases: int
    plain_sum: float

    def __str__(self) -> str:
        return (
            f"({self.epsilon:.4g}, {self.delta:.3g})-DP for one {self.unit} ({self.adjacency}), "
            f"{self.releases} releases composed by {self.composition}"
        )


class PrivacyAccountant:
    """Adds up what queries, and any other events about the same unit and adjacency, cost together.

    ``mechanism`` answers the queries: ``gaussian`` and ``laplace`` (both discrete) add noise to a histogram in which a
    unit fills one cell, ``exponential`` picks from scores that a unit moves by at most 1. ``composition`` is ``basic``,
    ``advanced``, ``rdp``, ``pld`` or ``zcdp``. Use one accountant from one thread.
    """

    def __init__(self, config: DPConfig, mechanism: Mechanism = "gaussian", composition: Composition = "rdp") -> None:
        if not isinstance(config, DPConfig):
            raise InvalidParameter("config must be a DPConfig.", field="config")
        if mechanism not in get_args(Mechanism):
            raise InvalidParameter(f"mechanism must be one of {', '.join(get_args(Mechanism))}.", field="mechanism")
        check_composition(composition)
        self.config = config
        self.mechanism: Mechanism = mechanism
        self.composition: Composition = composition
        self._counts: dict[Event, int] = {}
        self._query: Event | None = None

    @property
    def query(self) -> Event:
        """The event of one query: the least noise with which this accountant puts it at ``epsilon_per_query``."""
        if self._query is None:
            self._query = self._calibrated()
        return self._query

    @property
    def noise_scale(self) -> float:
        """Scale of the noise that a query needs, in whole votes (or points of score): sigma for ``gaussian``, else the
        scale of the Laplace or Gumbel noise."""
        mechanism = self.query.mechanism
        if isinstance(mechanism, DiscreteGaussian | DiscreteLaplace):
            return mechanism.scale
        if isinstance(mechanism, Exponential):
            return 2 / mechanism.eta
        raise AssertionError(mechanism)

    def _calibrated(self) -> Event:
        config, touched = self.config, 2 if self.config.adjacency == "swap" else 1
        kinds: dict[str, Any] = {
            "gaussian": lambda noise: DiscreteGaussian(noise, cells=touched),
            "laplace": lambda noise: DiscreteLaplace(noise, sensitivity=touched),
            "exponential": lambda noise: Exponential(2 / noise),
        }

        def event_of(noise: float) -> Event:
            return Event(kinds[self.mechanism](noise), config.unit, config.adjacency)

        return event_of(noise_for(event_of, config.epsilon_per_query, config.delta, composition=self.composition))

    def compose(self, event: Event, count: int = 1) -> PrivacyAccountant:
        """Counts ``count`` releases of ``event``; gives the accountant back, so that calls can be chained.

        Raises:
            InvalidParameter: the event is about another unit or adjacency than the config, whose epsilons cannot be
                added, or this composition cannot take it. Nothing is counted then.
        """
        if not isinstance(event, Event):
            raise InvalidParameter("event must be a privacy.dp.events.Event.", field="event")
        for field in ("unit", "adjacency"):
            ours, theirs = getattr(self.config, field), getattr(event, field)
            if ours != theirs:
                raise InvalidParameter(
                    f"This accountant adds up what protects a {field} of {ours}; the event's is {theirs}. "
                    "The two do not add up: keep an accountant for each.",
                    field=field,
                )
        check_whole(count, "count", 1, MAX_COUNT)
        self._check_kind(event)
        self._counts[event] = self._counts.get(event, 0) + count
        return self

    def _check_kind(self, event: Event) -> None:
        """Refuses at once what the composition could never take; a delta that is too small shows when asked."""
        try:
            composed([(event, 1)], 0.5, self.composition)
        except InvalidParameter as error:
            if error.details.get("field") == "composition":
                raise

    def record_query(self, count: int = 1) -> PrivacyAccountant:
        """Counts ``count`` queries of the config."""
        return self.compose(self.query, count)

    @property
    def releases(self) -> int:
        """How many releases were counted."""
        return sum(self._counts.values())

    @property
    def events(self) -> list[tuple[Event, int]]:
        """What was counted, and how often."""
        return list(self._counts.items())

    def epsilon(self, delta: float | None = None) -> float:
        """The epsilon of everything counted so far, together, at ``delta`` (the config's if None), rounded up.

        Raises:
            InvalidParameter: no finite epsilon holds at this delta.
        """
        return composed(self.events, self.config.delta if delta is None else delta, self.composition)

    def epsilon_after(self, count: int = 1) -> float:
        """What :meth:`epsilon` would say after ``count`` more queries; counts nothing."""
        check_whole(count, "count", 1, MAX_COUNT)
        return composed([*self.events, (self.query, count)], self.config.delta, self.composition)

    def guarantee(self, delta: float | None = None) -> Guarantee:
        """The claim that may be made about everything counted so far."""
        delta = self.config.delta if delta is None else delta
        single = [(self._claimed(event, delta), count) for event, count in self._counts.items()]
        return Guarantee(
            epsilon=self.epsilon(delta),
            delta=delta,
            unit=self.config.unit,
            adjacency=self.config.adjacency,
            composition=self.composition,
            releases=self.releases,
            plain_sum=up(math.fsum(epsilon * count for epsilon, count in single)),
        )

    def _claimed(self, event: Event, delta: float) -> float:
        if event == self._query:
            return check_epsilon(self.config.epsilon_per_query)
        return epsilon_of(event, delta)
