"""Noise and selection on whole numbers, drawn by OpenDP from the operating system's generator.

A histogram of what patients have (one patient in at most ``max_cells`` cells, by at most ``max_per_cell`` in each)
gets discrete Gaussian (Canonne, Kamath and Steinke, arXiv 2004.00010) or discrete Laplace noise; a choice among scores
is the exponential mechanism by Gumbel noise. Whole numbers only: float noise leaks through its low bits (Mironov 2012).

How many patients matched is a fact about them: a release over nobody is noise around zero like any other, and is not
refused. What is refused is public: no cells, no scores, a bound of nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import opendp.prelude as opendp
from opendp.accuracy import discrete_gaussian_scale_to_accuracy, discrete_laplacian_scale_to_accuracy

from fdrouter.errors import InvalidParameter
from privacy.dp.accounting import check_number, check_whole, is_whole
from privacy.dp.events import Adjacency, Event, Unit, check_adjacency
from privacy.dp.releases import DiscreteGaussian, DiscreteLaplace, Exponential

Noise = Literal["discrete_gaussian", "discrete_laplace"]
MAX_COUNT = 2**53  # a noisy count stays far from 64 bits, and exact in JSON and floats
MAX_SCORE = 2**30
MAX_CELLS = 100_000

Integers = npt.NDArray[np.int64]


@lru_cache(maxsize=256)
def _additive(noise: Noise, scale: float) -> Any:
    opendp.enable_features("contrib")
    domain = opendp.vector_domain(opendp.atom_domain(T="i64"))
    if noise == "discrete_gaussian":
        return opendp.m.make_gaussian(domain, opendp.l2_distance(T="f64"), scale=scale)
    return opendp.m.make_laplace(domain, opendp.l1_distance(T="i64"), scale=scale)


@lru_cache(maxsize=256)
def _selection(scale: float, monotone: bool, picks: int) -> Any:
    opendp.enable_features("contrib")
    return opendp.m.make_noisy_top_k(
        opendp.vector_domain(opendp.atom_domain(T="i32")),
        opendp.linf_distance(T="i32", monotonic=monotone),
        opendp.zero_concentrated_divergence(),
        k=picks,
        scale=scale,
    )


def _whole_numbers(values: Sequence[int] | Integers, name: str, bound: int) -> list[int]:
    found = values.tolist() if isinstance(values, np.ndarray) else list(values)
    if not 1 <= len(found) <= MAX_CELLS or not all(is_whole(value) and -bound <= value <= bound for value in found):
        raise InvalidParameter(
            f"{name} must be 1 to {MAX_CELLS} whole numbers between -{bound} and {bound}.", field=name, bound=bound
        )
    return found


@dataclass(frozen=True)
class NoisyHistogram:
    """Adds noise of ``scale`` to a histogram of whole numbers; all cells together cost one ``event``.

    A patient is in at most ``max_cells`` cells with at most ``max_per_cell`` in each (:func:`bounded_sum` makes it so).
    With ``swap`` one patient leaves that many and another enters as many. One vote each and Gaussian noise: rho is
    1 / (2 scale^2) for ``add_remove`` and 1 / scale^2 for ``swap``; the whole histogram costs what its largest cell
    does.

    Raises:
        InvalidParameter: a parameter out of range, or a cost in OpenDP's eyes above the event's.
    """

    noise: Noise
    scale: float
    adjacency: Adjacency
    unit: Unit = "patient"
    max_cells: int = 1
    max_per_cell: int = 1
    event: Event = field(init=False)

    def __post_init__(self) -> None:
        if self.noise not in get_args(Noise):
            raise InvalidParameter(f"noise must be one of {', '.join(get_args(Noise))}.", field="noise")
        check_adjacency(self.adjacency)
        check_whole(self.max_cells, "max_cells", 1, MAX_CELLS)
        check_whole(self.max_per_cell, "max_per_cell", 1, 10**6)
        cells = self.max_cells * (2 if self.adjacency == "swap" else 1)
        mechanism: DiscreteGaussian | DiscreteLaplace
        if self.noise == "discrete_gaussian":
            mechanism = DiscreteGaussian(self.scale, cells=cells, step=self.max_per_cell)
            stated, distance = mechanism.rho, float(np.nextafter(np.sqrt(cells) * self.max_per_cell, np.inf))
        else:
            mechanism = DiscreteLaplace(self.scale, sensitivity=cells * self.max_per_cell)
            stated, distance = mechanism.pure, cells * self.max_per_cell
        if not float(_additive(self.noise, float(self.scale)).map(distance)) <= stated * (1 + 1e-12):
            raise InvalidParameter("The noise would cost more than stated.", field="scale")
        object.__setattr__(self, "event", Event(mechanism, self.unit, self.adjacency))

    def release(self, counts: Sequence[int] | Integers) -> list[int]:
        """Noisy counts, in the order of ``counts``; they may be negative.

        Raises:
            InvalidParameter: no cell, or a count that is not a whole number within 2^53.
        """
        noisy: list[int] = _additive(self.noise, float(self.scale))(_whole_numbers(counts, "counts", MAX_COUNT))
        return noisy

    def error_band(self, confidence: float = 0.95) -> int:
        """A single noisy count is at most this far from the true one, with probability ``confidence`` or more."""
        miss = 1 - check_number(confidence, "confidence", 0.01, 0.999999)
        discrete = self.noise == "discrete_gaussian"
        to_accuracy = discrete_gaussian_scale_to_accuracy if discrete else discrete_laplacian_scale_to_accuracy
        return int(np.ceil(to_accuracy(float(self.scale), miss)))


@dataclass(frozen=True)
class Selection:
    """Picks the indices of ``picks`` large scores by the exponential mechanism, each at most once.

    One unit moves a score by at most ``sensitivity``. ``monotone``: it moves all scores one way, as a vote that is
    added or removed does (``add_remove`` only); the cost is then half in eta. One pick costs ``event``.

    Raises:
        InvalidParameter: a parameter out of range, or a cost in OpenDP's eyes above the event's.
    """

    scale: float
    sensitivity: int = 1
    picks: int = 1
    monotone: bool = False
    adjacency: Adjacency = "add_remove"
    unit: Unit = "patient"
    event: Event = field(init=False)

    def __post_init__(self) -> None:
        check_number(self.scale, "scale", 1e-2, 1e9)
        check_whole(self.sensitivity, "sensitivity", 1, MAX_SCORE)
        check_whole(self.picks, "picks", 1, 1000)
        check_adjacency(self.adjacency)
        if self.monotone and self.adjacency != "add_remove":
            raise InvalidParameter("A swap moves some scores up and others down.", field="monotone")
        mechanism = Exponential((1 if self.monotone else 2) * self.sensitivity / self.scale)
        cost = float(_selection(float(self.scale), self.monotone, self.picks).map(self.sensitivity))
        if not cost <= self.picks * mechanism.rho * (1 + 1e-12):
            raise InvalidParameter("A pick would cost more than stated.", field="scale")
        object.__setattr__(self, "event", Event(mechanism, self.unit, self.adjacency))

    def choose(self, scores: Sequence[int] | Integers) -> list[int]:
        """Indices of the picked scores, in the order of picking; costs ``picks`` times ``event``.

        Raises:
            InvalidParameter: fewer scores than picks, or one that is not a whole number within 2^30.
        """
        found = _whole_numbers(scores, "scores", MAX_SCORE)
        if len(found) < self.picks:
            raise InvalidParameter("There are fewer scores than picks.", field="picks")
        return [int(index) for index in _selection(float(self.scale), self.monotone, self.picks)(found)]


def bounded_sum(rows: npt.ArrayLike, *, max_cells: int, max_per_cell: int) -> Integers:
    """Column sums of ``rows``, shape (patients, cells), after every patient was held to the bounds.

    An entry is cut to [0, max_per_cell]; of a patient with more than ``max_cells`` cells the first ones count. Both
    look at that patient alone. No patients give zeros.

    Raises:
        InvalidParameter: not whole numbers of that shape, no cell, or sums that could leave the range of a count.
    """
    check_whole(max_cells, "max_cells", 1, MAX_CELLS)
    check_whole(max_per_cell, "max_per_cell", 1, 10**6)
    try:
        table = np.asarray(rows)
    except ValueError as error:
        raise InvalidParameter("rows must be an array of patients by cells.", field="rows") from error
    if table.ndim != 2 or not 1 <= table.shape[1] <= MAX_CELLS:
        raise InvalidParameter("rows must be an array of patients by cells.", field="rows")
    if not np.issubdtype(table.dtype, np.integer):  # truth values and floats are no whole numbers
        raise InvalidParameter("rows must hold whole numbers.", field="rows")
    if table.shape[0] * max_per_cell > MAX_COUNT:
        raise InvalidParameter("The sums could overflow: fewer patients or a smaller bound is needed.", field="rows")
    held = np.clip(table, 0, max_per_cell).astype(np.int64)
    held[np.cumsum(held > 0, axis=1) > max_cells] = 0
    total: Integers = held.sum(axis=0)
    return total
