"""Privacy accounting: zCDP for one release, a Renyi filter for a block of records.

Conversions go through dp-accounting 0.6.0 (its RDP accountant, its grid of orders) and are rounded against the spender:
costs up, allowances down. Epsilon and delta are dimensionless; rho is zCDP (Bun and Steinke, arXiv 1605.02658).

Claim. Releases chosen adaptively, each (alpha, x_i)-RDP at one order alpha that was fixed beforehand, are together
(epsilon, delta)-DP as long as the sum of the x_i never exceeds ``block_cap(epsilon, delta).cap``.
Proof. Feldman and Zrnic, arXiv 2008.11193, theorem 4.3 (the filter at a fixed order keeps the composition
(alpha, cap)-RDP), then the conversion of Canonne, Kamath and Steinke, arXiv 2004.00010, proposition 12, which
:func:`_cap_at` solves for the divergence. "Some order of the grid still fits" would not be covered by this proof.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant

from fdrouter.errors import InvalidParameter

NANO = 1_000_000_000  # the ledger counts divergence in units of 1e-9, as whole numbers
MAX_EPSILON = 100.0
MIN_EPSILON = 1e-3
MIN_DELTA = 1e-15

# Orders that a block may be created with, version 1. Frozen: a block stores the order it was created with.
BLOCK_ORDERS: tuple[float, ...] = (
    *(n / 10 for n in range(11, 101)),
    *(n / 2 for n in range(21, 65)),
    *(float(n) for n in range(33, 257)),
)
_ON_THE_GRID = frozenset(BLOCK_ORDERS)


@dataclass(frozen=True, slots=True)
class BlockCap:
    """What a block of records may spend: Renyi divergence ``cap`` at the single order ``alpha``."""

    alpha: float
    cap: float

    @property
    def nano(self) -> int:
        """``cap`` in nano-RDP, rounded down."""
        return math.floor(Fraction(self.cap) * NANO)


def is_number(value: object) -> bool:
    """Whether ``value`` is a real number and not a truth value (NaN and infinity pass: comparisons catch them)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    """Whether ``value`` is a whole number and not a truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_epsilon(epsilon: float, *, high: float = MAX_EPSILON) -> float:
    """``epsilon`` as a float; raises :class:`InvalidParameter` unless it is finite and in (0, high]."""
    return check_number(epsilon, "epsilon", MIN_EPSILON, high)


def check_delta(delta: float, *, high: float = 0.5) -> float:
    """``delta`` as a float; raises :class:`InvalidParameter` unless it is finite and in (0, high]."""
    return check_number(delta, "delta", MIN_DELTA, high)


def check_number(value: float, field: str, low: float, high: float) -> float:
    """``value`` as a float; raises :class:`InvalidParameter` unless it is a finite number in [low, high]."""
    if not is_number(value) or not low <= value <= high:
        raise InvalidParameter(f"{field} must be a number from {low:g} to {high:g}.", field=field, low=low, high=high)
    return float(value)


def check_whole(value: int, field: str, low: int, high: int) -> int:
    """``value``; raises :class:`InvalidParameter` unless it is a whole number (no truth value) in [low, high]."""
    if not is_whole(value) or not low <= value <= high:
        raise InvalidParameter(f"{field} must be a whole number from {low} to {high}.", field=field, low=low, high=high)
    return value


def check_order(alpha: float) -> float:
    """``alpha`` as a float; raises :class:`InvalidParameter` unless it is one of ``BLOCK_ORDERS``."""
    if not is_number(alpha) or alpha not in _ON_THE_GRID:
        raise InvalidParameter("alpha must be an order of the grid that blocks are created with.", field="alpha")
    return float(alpha)


def up(value: float) -> float:
    """``value`` (0 or more) rounded up by more than the float error of one formula: a cost never shrinks."""
    return math.nextafter(value * (1 + 1e-12), math.inf) if value > 0 else 0.0


@lru_cache(maxsize=4096, typed=True)  # typed: a cached 1 must not let True pass
def epsilon_of_rho(rho: float, delta: float) -> float:
    """Smallest epsilon known to hold at ``delta`` for a rho-zCDP release, rounded up; 0 for rho 0."""
    if not is_number(rho) or not 0 <= rho < math.inf:
        raise InvalidParameter("rho must be a finite number, 0 or more.", field="rho")
    check_delta(delta)
    if rho == 0:
        return 0.0
    epsilon = RdpAccountant().compose(dp_event.ZCDpEvent(float(rho))).get_epsilon(delta)
    return math.nextafter(float(epsilon) * (1 + 1e-12), math.inf)


@lru_cache(maxsize=4096, typed=True)  # typed: a cached 1 must not let True pass
def rho_of_epsilon(epsilon: float, delta: float) -> float:
    """Largest rho (to 1e-12 of itself, rounded down) whose :func:`epsilon_of_rho` stays within ``epsilon``."""
    epsilon = check_epsilon(epsilon)
    check_delta(delta)
    low, high = 0.0, epsilon + 1.0  # pure zCDP of rho = epsilon + 1 always costs more than epsilon
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if epsilon_of_rho(middle, delta) <= epsilon else (low, middle)
    if low <= 0:
        raise InvalidParameter("This epsilon is too small for this delta.", field="epsilon")
    return low


@lru_cache(maxsize=4096, typed=True)
def delta_of_rho(rho: float, epsilon: float) -> float:
    """Smallest delta known to hold at ``epsilon`` for a rho-zCDP release, rounded up; 0 for rho 0."""
    check_number(rho, "rho", 0, 1e6)
    epsilon = check_epsilon(epsilon)
    if rho == 0:
        return 0.0
    delta = RdpAccountant().compose(dp_event.ZCDpEvent(float(rho))).get_delta(epsilon)
    return min(1.0, math.nextafter(float(delta) * (1 + 1e-9), math.inf))


def rho_of_pure(epsilon: float) -> float:
    """zCDP of an epsilon-DP release: epsilon^2 / 2 (Bun and Steinke, arXiv 1605.02065, proposition 1.4), rounded up."""
    return up(check_epsilon(epsilon) ** 2 / 2)


def _cap_at(alpha: float, epsilon: float, delta: float) -> float:
    return epsilon - math.log1p(-1 / alpha) + math.log(delta * alpha) / (alpha - 1)


@lru_cache(maxsize=256, typed=True)
def block_cap(epsilon: float, delta: float) -> BlockCap:
    """Order and cap of a block's Renyi filter for a total of (epsilon, delta).

    The order is the one of ``BLOCK_ORDERS`` at which the cap pays for the most zCDP (cap / alpha is largest). It
    depends on public parameters only and is fixed when the block is created.
    """
    epsilon, delta = check_epsilon(epsilon), check_delta(delta)
    alpha = max(BLOCK_ORDERS, key=lambda order: _cap_at(order, epsilon, delta) / order)
    cap = _cap_at(alpha, epsilon, delta) * (1 - 1e-12)
    if cap <= 0:
        raise InvalidParameter("No release fits into a block with this epsilon and delta.", field="epsilon")
    return BlockCap(alpha=alpha, cap=cap)


def rdp_of_rho(rho: float, alpha: float) -> float:
    """Renyi divergence of order ``alpha`` that a rho-zCDP release may have: alpha * rho, rounded up."""
    if not (math.isfinite(rho) and rho >= 0 and math.isfinite(alpha) and alpha > 1):
        raise InvalidParameter("rho must be finite and not negative, the order finite and above 1.", field="rho")
    return math.nextafter(rho * alpha, math.inf) if rho else 0.0


def nano_rdp_up(rho: float, alpha: float) -> int:
    """alpha * rho in nano-RDP, rounded up: what the ledger charges for a rho-zCDP release. Exact arithmetic.

    Raises:
        InvalidParameter: ``alpha`` is off the grid of blocks, or ``rho`` is no finite number, 0 or more.
    """
    rdp_of_rho(rho, check_order(alpha))  # refuses what is not finite
    return math.ceil(Fraction(rho) * Fraction(alpha) * NANO)


def epsilon_of_nano(nano: int, alpha: float, delta: float) -> float:
    """The (epsilon, delta) that divergence ``nano`` (nano-RDP) at order ``alpha`` stands for; never negative.

    Raises:
        InvalidParameter: ``nano`` is no whole number, or ``alpha`` off the grid of blocks.
    """
    check_delta(delta)
    check_order(alpha)
    if not is_whole(nano):  # NaN is above no zero, and would come out as an epsilon of nothing
        raise InvalidParameter("Divergence is counted in whole nano units.", field="nano")
    if nano <= 0:
        return 0.0
    value = nano / NANO + math.log1p(-1 / alpha) - math.log(delta * alpha) / (alpha - 1)
    return max(0.0, value * (1 + 1e-12))
