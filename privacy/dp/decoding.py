"""One token of privately decoded text, on whole numbers.

Source: InvisibleInk (Vinod, Pillutla and Thakurta 2025, arXiv 2507.02974), written from the paper; the draw and its
cost come from OpenDP's ``make_noisy_max`` under zCDP.

With l0 the public log-probabilities, l_i those of patient i, and UNITS = 4096 whole units standing for the clip C:

    V   = {v : l0[v] >= (k-th largest l0) - 2 C / B}, without reserved ids          public only
    u_v = round(l0[v] * B * UNITS / C) + sum_i round(UNITS / C * clip(l_i[v] - l0[v], -C, +C))
    y   ~ exponential mechanism over u with temperature tau * B * UNITS / C

Claim. Replacing one patient's row changes the law of y by at most rho = 2 C^2 / (B tau)^2 in zCDP; putting an empty
slot (all differences 0) in its place, by at most a quarter of that. This holds whatever the rows contain, NaN included.
Proof. V and the first term of u are functions of l0 alone. Each patient's part is a whole number in [-UNITS, UNITS], so
a replaced patient moves every u_v by at most 2 UNITS, an emptied one by at most UNITS; whole numbers add exactly. The
exponential mechanism with temperature s on scores that move by at most d has bounded range eta = 2 d / s, hence is
eta^2 / 8-zCDP (Cesar and Rogers, arXiv 2004.07223, with Dong, Durfee and Rogers 2020). Inserting s gives the claim.
:class:`TokenMechanism` asks OpenDP for this figure and refuses to exist when it is above the planned one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import opendp.prelude as opendp

from fdrouter.errors import InvalidParameter
from privacy.dp.accounting import is_whole

UNITS = 4096
BLOCK = 64  # numbers of a row that are looked at together to find its largest ones
_FLOOR = -(2**29)  # public scores below this are as good as impossible; the sums must stay within 32 bits

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]


@lru_cache(maxsize=256)
def _noisy_max(scale: float) -> Any:
    """OpenDP's report-noisy-max with Gumbel noise (an exact exponential mechanism), drawing from the OS' generator."""
    opendp.enable_features("contrib")
    return opendp.m.make_noisy_max(
        opendp.vector_domain(opendp.atom_domain(T="i32")),
        opendp.linf_distance(T="i32"),
        opendp.zero_concentrated_divergence(),
        scale=scale,
    )


def _largest(row: Floats, k: int) -> np.float64:
    """The k-th largest of more than k numbers.

    The k-th largest of the maxima of blocks is no larger than that, since k numbers reach it; so only the few numbers
    from there on need to be ordered. A vocabulary takes a quarter of the time that ordering all of it does.
    """
    blocks = row.size // BLOCK
    if blocks >= k:
        maxima = row[: blocks * BLOCK].reshape(blocks, BLOCK).max(axis=1)
        row = row[row >= np.partition(maxima, -k)[-k]]
    found: np.float64 = np.partition(row, -k)[-k]
    return found


@dataclass(frozen=True)
class TokenMechanism:
    """The mechanism for one token of a plan. ``reach`` is 2 for swap, 1 for add/remove (see the module's claim).

    ``reserved`` are token ids that can never be drawn. Raises :class:`InvalidParameter` for parameters without a finite
    cost, or with a cost above ``rho_per_token``.
    """

    clip: float
    tau: float
    contexts: int
    top_k: int
    reach: int
    rho_per_token: float
    reserved: frozenset[int] = frozenset()
    rho: float = field(init=False)

    def __post_init__(self) -> None:
        finite = all(math.isfinite(x) and x > 0 for x in (self.clip, self.tau, self.rho_per_token))
        if not finite or self.contexts < 1 or self.top_k < 1 or self.reach not in (1, 2):
            raise InvalidParameter("The parameters of the decoding mechanism are out of range.", field="plan")
        rho = float(_noisy_max(self.scale).map(self.reach * UNITS))
        if not rho <= self.rho_per_token:
            raise InvalidParameter("A token would cost more than planned.", field="rho_per_token")
        object.__setattr__(self, "rho", rho)

    @property
    def per_unit(self) -> float:
        """Nats that one whole unit of a score stands for."""
        return self.clip / UNITS / self.contexts

    @property
    def scale(self) -> float:
        """Temperature in whole units."""
        return self.tau / self.per_unit

    def candidates(self, public: Floats) -> Integers:
        """Ids of V, ascending, from the public log-probabilities (shape: vocabulary) alone.

        Raises ``ValueError`` when they are not usable (NaN, or nothing but reserved ids).
        """
        if public.ndim != 1 or np.isnan(public).any():
            raise ValueError("public row is not usable")
        row = public.astype(np.float64)
        if self.reserved:
            row[[token for token in self.reserved if token < row.size]] = -np.inf
        kth = _largest(row, self.top_k) if row.size > self.top_k else row.min()
        found = np.flatnonzero((row >= kth - 2 * self.clip / self.contexts) & np.isfinite(row))
        if not found.size:
            raise ValueError("no candidate")
        return found.astype(np.int64)

    def parts(self, public: Floats, private: Floats) -> Integers:
        """Each patient's whole-number part, shape (patients, |V|), every entry within [-UNITS, UNITS].

        ``public`` has shape (|V|), ``private`` (patients, |V|): log-probabilities at the candidates. A NaN counts as no
        difference; patients above ``contexts`` are refused, since the cost is stated for that many slots.
        """
        if private.shape[0] > self.contexts:
            raise ValueError("more patients than slots")
        # Infinite minus infinite is NaN, which means "no difference" here.
        with np.errstate(invalid="ignore"):
            difference = private.astype(np.float64) - public.astype(np.float64)
        finite = np.nan_to_num(difference, nan=0.0, posinf=self.clip, neginf=-self.clip)
        whole = np.rint(np.clip(finite, -self.clip, self.clip) * (UNITS / self.clip))
        return np.clip(whole, -UNITS, UNITS).astype(np.int64)

    def scores(self, public: Floats, total: Integers) -> Integers:
        """Whole-number scores from the public log-probabilities at V and the summed parts (both shape |V|).

        Slots without a patient count as "no difference": they add nothing and are still divided by.
        """
        row = public.astype(np.float64)
        base = np.rint((row - row.max()) / self.per_unit)
        found: Integers = np.maximum(base, _FLOOR).astype(np.int64) + total
        return found

    def draw(self, scores: Integers) -> int:
        """Index of the drawn candidate; the randomness is the operating system's, through OpenDP."""
        return int(_noisy_max(self.scale)(scores.tolist()))

    def step(self, public: Floats, private: Floats) -> int:
        """One token id from whole log-probability rows: ``public`` (vocabulary), ``private`` (patients, vocabulary)."""
        allowed = self.candidates(public)
        total = self.parts(public[allowed], private[:, allowed]).sum(axis=0)
        return int(allowed[self.draw(self.scores(public[allowed], total))])


def log_law(scores: Integers, scale: float) -> npt.NDArray[np.float64]:
    """Exact log-probabilities of the draw over ``scores``: for audits, never for drawing."""
    shifted = (scores - scores.max()) / scale
    law: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    return law


def renyi_divergence(log_p: npt.NDArray[np.float64], log_q: npt.NDArray[np.float64], order: float) -> float:
    """Renyi divergence D_order(p || q) in nats, for laws with the same support, order > 1."""
    terms = order * log_p - (order - 1) * log_q
    top = terms.max()
    return float((top + np.log(np.exp(terms - top).sum())) / (order - 1))


def reserved_ids(ids: Iterable[int]) -> frozenset[int]:
    """A checked set of reserved token ids."""
    found = frozenset(ids)
    if any(not is_whole(token) or token < 0 for token in found):
        raise InvalidParameter("Reserved token ids must be whole numbers, 0 or more.", field="reserved")
    return found
