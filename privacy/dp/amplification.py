"""Amplification by sampling: a query that sees a secret random part of the patients costs less than one that sees all.

Balle, Barthe and Gaboardi (arXiv 1807.01647): theorem 8 for a Poisson sample with ``add_remove``, theorem 9 for a
sample of fixed size without replacement with ``swap``; epsilon' = ln(1 + q (e^epsilon - 1)), delta' = q delta. Other
pairs of scheme and adjacency have other figures and are refused. It counts for a whole query, never per token, and
never for DP-SGD, whose accountant has a sampled event (``PoissonGaussian``, ``SubsetGaussian``).
"""

from __future__ import annotations

import math
import os
import secrets
from typing import Literal, get_args

import numpy as np

from fdrouter.errors import InvalidParameter
from privacy.dp.accounting import MIN_DELTA, check_number, check_whole
from privacy.dp.events import Adjacency, Event, Unit, check_adjacency, check_unit
from privacy.dp.releases import Approximate

Scheme = Literal["poisson", "without_replacement"]
_HOLDS_FOR: dict[str, str] = {"poisson": "add_remove", "without_replacement": "swap"}
_CHUNK = 2**20


def check_scheme(scheme: str | None, adjacency: str | None) -> None:
    """Raises :class:`InvalidParameter` unless both are named and a theorem holds for the pair."""
    if scheme is None or scheme not in get_args(Scheme):
        raise InvalidParameter(
            "Amplification needs a sampling scheme: poisson or without_replacement. Without one no figure holds.",
            field="scheme",
        )
    if adjacency is None:
        raise InvalidParameter("Amplification needs an adjacency: add_remove or swap.", field="adjacency")
    check_adjacency(adjacency)
    if _HOLDS_FOR[scheme] != adjacency:
        raise InvalidParameter(
            f"This figure holds for {scheme} sampling against {_HOLDS_FOR[scheme]} only.", field="adjacency"
        )


def amplify(
    epsilon: float,
    delta: float = 0.0,
    *,
    rate: float,
    scheme: Scheme | None,
    adjacency: Adjacency | None,
) -> tuple[float, float]:
    """(epsilon, delta) of a query that costs ``epsilon`` and ``delta`` on a fresh secret sample, rounded up.

    ``rate`` q: the chance of a patient to be in a Poisson sample, or sample size over population.

    Raises:
        InvalidParameter: no scheme, no adjacency, a pair without a theorem, or a value out of range.
    """
    check_scheme(scheme, adjacency)
    check_number(epsilon, "epsilon", 1e-9, 100)
    check_number(rate, "rate", 1e-12, 1)
    if delta != 0 or isinstance(delta, bool):
        check_number(delta, "delta", MIN_DELTA, 0.5)
    if rate == 1:
        return float(epsilon), float(delta)
    found = math.nextafter(math.log1p(rate * math.expm1(epsilon)) * (1 + 1e-12), math.inf)
    return min(found, float(epsilon)), math.nextafter(rate * delta, math.inf) if delta else 0.0


class PrivacyAmplifiedSampler:
    """A secret sample of a population, and what a query on it costs.

    ``sample_rate``: the share of the population in a sample. ``base_epsilon`` and ``base_delta``: what the query costs
    on the data it is given. ``scheme`` and ``adjacency`` are assumptions about the sampling: what is left out is
    ``poisson`` with ``add_remove``, and ``assumptions`` says so in words. :meth:`sample` draws so that they hold.

    Raises:
        InvalidParameter: None or an unknown scheme, an adjacency that the scheme says nothing about, an empty
            population, a rate at which samples without replacement are empty, a value out of range.
    """

    def __init__(
        self,
        population_size: int,
        sample_rate: float,
        base_epsilon: float,
        *,
        base_delta: float = 0.0,
        scheme: Scheme = "poisson",
        adjacency: Adjacency | None = None,
        unit: Unit = "patient",
    ) -> None:
        self.population_size = check_whole(population_size, "population_size", 1, 10**9)
        self.sample_rate = check_number(sample_rate, "sample_rate", 1e-9, 1)
        # A scheme brings the adjacency it has a theorem for; naming another one is refused.
        check_scheme(scheme, _HOLDS_FOR.get(scheme) if adjacency is None else adjacency)
        check_unit(unit)
        self.scheme: Scheme = scheme
        self.adjacency: Adjacency = "add_remove" if scheme == "poisson" else "swap"
        self.unit: Unit = unit
        self._size = math.floor(self.population_size * self.sample_rate * (1 + 1e-15))
        if scheme == "without_replacement" and self._size < 1:
            raise InvalidParameter("At this rate a sample would be empty.", field="sample_rate")
        self.base_epsilon, self.base_delta = base_epsilon, base_delta
        self._amplified = amplify(base_epsilon, base_delta, rate=self._rate, scheme=scheme, adjacency=self.adjacency)

    @property
    def _rate(self) -> float:
        if self.scheme == "poisson":
            return self.sample_rate
        return min(1.0, math.nextafter(self._size / self.population_size, math.inf))

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What must be true for :meth:`amplified_epsilon` to be."""
        how = {
            "poisson": f"everybody is in the sample independently with probability {self.sample_rate:g} (Poisson)",
            "without_replacement": f"exactly {self._size} of {self.population_size} are drawn without replacement",
        }
        return (
            f"The epsilon protects one {self.unit} against {self.adjacency}.",
            f"Sampling: {how[self.scheme]}.",
            "The sample is fresh for every query, secret, and drawn without a look at the data: not a search's best "
            "hits, not a hash, not a cached sample.",
            "It covers the whole query; a loop of training steps or tokens has accounting of its own.",
        )

    def amplified_epsilon(self) -> float:
        """Epsilon of one query on a fresh sample, for as long as ``assumptions`` hold."""
        return self._amplified[0]

    def amplified_delta(self) -> float:
        """Delta of one query on a fresh sample; 0 when the query's own is."""
        return self._amplified[1]

    @property
    def event(self) -> Event:
        """The amplified query for an accountant: an (epsilon, delta) claim (with a delta not for rdp and zcdp)."""
        return Event(Approximate(*self._amplified), self.unit, self.adjacency)

    def sample(self) -> list[int]:
        """Indices (ascending) of a fresh sample, from the operating system's generator. Keep it secret, use it once."""
        if self.scheme == "without_replacement":
            return sorted(secrets.SystemRandom().sample(range(self.population_size), self._size))
        threshold = math.floor(self.sample_rate * 2**64)  # rounded down: nobody is in it more often than stated
        if threshold >= 2**64:
            return list(range(self.population_size))
        found: list[int] = []
        for start in range(0, self.population_size, _CHUNK):
            size = min(_CHUNK, self.population_size - start)
            drawn = np.frombuffer(os.urandom(8 * size), dtype=np.uint64)
            found.extend((start + np.flatnonzero(drawn < np.uint64(threshold))).tolist())
        return found

    def __repr__(self) -> str:
        return (
            f"PrivacyAmplifiedSampler(population_size={self.population_size}, sample_rate={self.sample_rate:g}, "
            f"base_epsilon={self.base_epsilon:g}, scheme={self.scheme!r}, adjacency={self.adjacency!r})"
        )
