"""Exact Renyi audit of a decoding step: its law is known, so nothing is estimated and nothing drawn.

Neighbours are two groups of rows that differ in one patient. For each pair the whole law of the drawn token is computed
both ways round and its divergence held against the claim, alpha * rho. The pairs come from the data at hand, and from a
search for the worst: colluding patients make a set of tokens as likely as hurts most, one patient pushes the set up
and the replacement pushes it down, and an ascent over every token tries whether any other push does more.

How large the worst can be is known as well. A mechanism of bounded range eta is no worse than one draw between two
outcomes whose log-odds differ by eta (Dong, Durfee and Rogers, arXiv 1909.13830, lemma 3.2): :func:`supremum`. A search
that comes close to it and never above says that the bound holds and that the search could have found it broken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import logsumexp

from privacy.dp.decoding import UNITS, TokenMechanism, log_law

ORDERS = (1.01, 1.5, 2.0, 3.4, 8.0, 32.0)
SHARES = (0.02, 0.1, 0.25, 0.33, 0.4, 0.5, 0.6, 0.67, 0.75, 0.9, 0.98)  # how likely colluders make the pushed set
_TOLERANCE = 1e-9  # of float error in the laws

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Neighbours:
    """Rows of log-probabilities, shapes (vocabulary) and (patients, vocabulary), that differ in one patient."""

    name: str
    public: Floats
    one: Floats
    other: Floats


@dataclass(frozen=True)
class Found:
    """The largest divergence that was found at ``order``, in nats, and what is claimed there."""

    order: float
    divergence: float
    claim: float
    pair: Neighbours

    @property
    def ratio(self) -> float:
        return self.divergence / self.claim


def law(mechanism: TokenMechanism, public: Floats, private: Floats) -> Floats:
    """Exact log-probabilities of the next token over the whole vocabulary; -inf where it cannot be drawn."""
    allowed = mechanism.candidates(public)
    total = mechanism.parts(public[allowed], private[:, allowed]).sum(axis=0)
    found = np.full(public.size, -np.inf)
    found[allowed] = log_law(mechanism.scores(public[allowed], total), mechanism.scale)
    return found


def divergence(log_p: Floats, log_q: Floats, order: float) -> float:
    """Renyi divergence D_order(p || q) in nats, infinite where q cannot do what p can; ``order`` above 1."""
    possible = np.isfinite(log_p)
    if not np.isfinite(log_q[possible]).all():
        return math.inf
    terms = order * log_p[possible] - (order - 1) * log_q[possible]
    return float(logsumexp(terms) / (order - 1))


def either_way(log_p: Floats, log_q: Floats, order: float) -> float:
    return max(divergence(log_p, log_q, order), divergence(log_q, log_p, order))


def range_of(log_p: Floats, log_q: Floats) -> float:
    """max ln(p/q) - min ln(p/q): what the proof bounds by eta."""
    possible = np.isfinite(log_p)
    if (possible != np.isfinite(log_q)).any():
        return math.inf
    ratio = log_p[possible] - log_q[possible]
    return float(ratio.max() - ratio.min())


def supremum(eta: float, order: float) -> float:
    """The largest divergence of any mechanism of bounded range ``eta``, in nats."""
    logits = np.linspace(-30, 30, 6001)
    log_p, log_q = -np.logaddexp(0, -logits), -np.logaddexp(0, eta - logits)
    log_rest_p, log_rest_q = -np.logaddexp(0, logits), -np.logaddexp(0, logits - eta)
    both = np.logaddexp(order * log_p - (order - 1) * log_q, order * log_rest_p - (order - 1) * log_rest_q)
    back = np.logaddexp(order * log_q - (order - 1) * log_p, order * log_rest_q - (order - 1) * log_rest_p)
    return float(max(both.max(), back.max()) / (order - 1))


def eta_of(mechanism: TokenMechanism) -> float:
    """Range that the claim allows: rho = eta^2 / 8."""
    return math.sqrt(8 * mechanism.rho_per_token)


def worst(mechanism: TokenMechanism, pairs: Iterable[Neighbours], orders: Sequence[float] = ORDERS) -> list[Found]:
    """For each order the pair with the largest divergence; both directions are tried."""
    best: dict[float, Found] = {}
    for pair in pairs:
        log_p, log_q = law(mechanism, pair.public, pair.one), law(mechanism, pair.public, pair.other)
        for order in orders:
            found = Found(order, either_way(log_p, log_q, order), order * mechanism.rho_per_token, pair)
            if order not in best or found.divergence > best[order].divergence:
                best[order] = found
    return [best[order] for order in orders]


def violation(mechanism: TokenMechanism, pairs: Iterable[Neighbours], orders: Sequence[float] = ORDERS) -> str | None:
    """A sentence about the first claim that a pair refutes, or None: the claim at each order, and the range eta."""
    eta = eta_of(mechanism)
    for pair in pairs:
        log_p, log_q = law(mechanism, pair.public, pair.one), law(mechanism, pair.public, pair.other)
        if not (reach := range_of(log_p, log_q)) <= eta * (1 + _TOLERANCE):
            return f"{pair.name}: range {reach:.4g} of {eta:.4g}"
        for order in orders:
            claim = order * mechanism.rho_per_token
            if not (found := either_way(log_p, log_q, order)) <= claim * (1 + _TOLERANCE):
                return f"{pair.name}: divergence {found:.4g} at order {order:g}, claimed {claim:.4g}"
    return None


# --- neighbours -----------------------------------------------------------------------------------------------------
def replaced(public: Floats, rows: Floats, patient: int, row: Floats | None, name: str, copies: int = 1) -> Neighbours:
    """``rows`` with and without that patient (``row`` None), or with another row in that patient's place.

    ``copies``: the patient holds that many slots, from ``patient`` on; 1 unless somebody made a mistake.
    """
    where = np.arange(patient, patient + copies) % len(rows)
    if row is None:
        return Neighbours(name, public, rows, np.delete(rows, where, axis=0))
    other = rows.copy()
    other[where] = row
    return Neighbours(name, public, rows, other)


def cornered(
    mechanism: TokenMechanism, public: Floats, pushed: npt.NDArray[np.bool_], *, copies: int = 1
) -> Iterator[Neighbours]:
    """Neighbours in which colluders make the ``pushed`` tokens (a mask over the vocabulary) likely to the degrees of
    :data:`SHARES`, one patient pushes them up as far as a row can, and a replacement down (or nobody comes instead).
    """
    sign = np.where(pushed, 1.0, -1.0)
    far = 10 * mechanism.clip * sign
    for share in SHARES:
        rows = np.tile(public + _collusion(mechanism, public, pushed, share) * sign, (mechanism.contexts, 1))
        rows[:copies] = public + far
        down = public - far if mechanism.reach == 2 else None
        yield replaced(public, rows, 0, down, f"colluders at {share:g}", copies)


def _collusion(mechanism: TokenMechanism, public: Floats, pushed: npt.NDArray[np.bool_], share: float) -> float:
    """How far, in nats, all other patients push the set up (or down) so that it is drawn with probability ``share``."""
    sign = np.where(pushed, 1.0, -1.0)
    low, high = -mechanism.clip, mechanism.clip
    for _ in range(40):
        middle = (low + high) / 2
        rows = np.tile(public + middle * sign, (mechanism.contexts, 1))
        mass = float(np.exp(law(mechanism, public, rows))[pushed].sum())
        low, high = (middle, high) if mass < share else (low, middle)
    return (low + high) / 2


def ascended(mechanism: TokenMechanism, start: Neighbours, order: float, *, rounds: int = 40) -> Neighbours:
    """The neighbours that steepest ascent from ``start`` ends at: patient 0 and the one in that place are changed a
    token at a time, to a full push up, none, or down, for as long as the divergence at ``order`` grows.

    It works on whole-number parts with the arithmetic of the real mechanism; rows are made from them at the end.
    """
    public, swap = start.public, mechanism.reach == 2
    allowed = mechanism.candidates(public)
    base = mechanism.scores(public[allowed], mechanism.parts(public[allowed], start.one[1:, allowed]).sum(axis=0))
    own = mechanism.parts(public[allowed], start.one[:1, allowed])[0]
    new = mechanism.parts(public[allowed], start.other[:1, allowed])[0] if swap else np.zeros_like(own)
    best = _two_laws(base + own, base + new, mechanism.scale, order)[0]
    for _ in range(rounds):
        tried = [(value, which) for value in (UNITS, 0, -UNITS) for which in ((0, 1) if swap else (0,))]
        values = np.stack([_flips(base, own, new, value, which, mechanism.scale, order) for value, which in tried])
        move, token = np.unravel_index(int(values.argmax()), values.shape)
        if values[move, token] <= best * (1 + 1e-12):
            break
        best, (value, which) = float(values[move, token]), tried[move]
        (own if which == 0 else new)[token] = value
    one, other = start.one.copy(), start.other.copy()
    one[0, allowed] = public[allowed] + own * (mechanism.clip / UNITS)
    if swap:
        other[0, allowed] = public[allowed] + new * (mechanism.clip / UNITS)
    return Neighbours(f"{start.name}, ascended", public, one, other)


def _flips(base: Integers, own: Integers, new: Integers, value: int, which: int, scale: float, order: float) -> Floats:
    """Divergence after each single change of a token's part to ``value``, shape (tokens)."""
    changed = np.tile(own if which == 0 else new, (base.size, 1))
    np.fill_diagonal(changed, value)
    kept = np.tile(new if which == 0 else own, (base.size, 1))
    return _two_laws(base + changed, base + kept, scale, order)


def _two_laws(one: Integers, other: Integers, scale: float, order: float) -> Floats:
    """Larger of both directions' divergences of the laws over each row of scores."""
    log_p, log_q = (_log_softmax(np.atleast_2d(scores) / scale) for scores in (one, other))
    forth = logsumexp(order * log_p - (order - 1) * log_q, axis=1)
    back = logsumexp(order * log_q - (order - 1) * log_p, axis=1)
    found: Floats = np.maximum(forth, back) / (order - 1)
    return found


def _log_softmax(scores: Floats) -> Floats:
    found: Floats = scores - logsumexp(scores, axis=1, keepdims=True)
    return found


def hostile_rows(public: Floats, clip: float, secret: int) -> dict[str, Any]:
    """Rows that no model should give: what an attacker, or a broken engine, could put in a patient's slot."""
    shout = np.full(public.size, -np.inf)
    shout[secret] = 0.0
    return {
        "one token and nothing else": shout,
        "infinite": np.full(public.size, np.inf),
        "impossible": np.full(public.size, -np.inf),
        "not a number": np.full(public.size, np.nan),
        "huge": np.where(np.arange(public.size) % 2, 1e308, -1e308),
        "just inside the clip": public + np.where(np.arange(public.size) % 2, 1, -1) * clip * (1 - 1e-15),
        "the public row": public.copy(),
    }
