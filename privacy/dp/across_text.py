"""A text that several hospitals write together: what it costs, and one token of it.

The mechanism is that of :mod:`privacy.dp.decoding`, with its sum over patients taken in two steps: each of H hospitals
adds up the whole-number parts of at most ``slots = floor(B / H)`` of its own patients, and whoever draws adds the sums
of the hospitals to the public score. Whole numbers add exactly, so the scores are those of one group of all patients.

Claim. For a patient on record at one of the hospitals the drawn tokens are ``tokens * rho_per_token``-zCDP under
``swap``. B is fixed before any record is read: a slot without a patient, and every slot of a hospital that has left,
counts as "no difference" and is still divided by. A hospital's best ``slots`` patients change by at most one swap when
one patient's record changes, so one patient moves a score by at most 2 UNITS, as in the proof of
:mod:`privacy.dp.decoding`. On record at m of the hospitals, a patient fills up to m slots: m^2 times the cost. Patients
are not matched between hospitals.

What is not claimed. Whoever draws sees each hospital's sums without noise: this is central DP, with that party trusted.

The candidates of a token are the likeliest ids of one hospital's public row, :data:`MOST_CANDIDATES` at most. Each
hospital takes differences to its own public row, so what its hardware does to all of its rows cancels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fdrouter.errors import InvalidParameter
from privacy.dp.accounting import check_whole, is_whole
from privacy.dp.decoding import UNITS, Floats, Integers, TokenMechanism
from privacy.dp.text_plan import (
    CONTEXTS,
    DEFAULT_CONTEXTS,
    DEFAULT_DELTA,
    DEFAULT_EPSILON,
    DEFAULT_TAU,
    TOP_K,
    Limits,
    TextPlan,
    planned,
)

NAME = "text_across"
HOSPITALS = (2, 32)
LEAST_SLOTS = 16  # of one hospital: sums of fewer patients would show the coordinator single records
_STEP = 32  # by how much the usual number of slots grows where more are needed
MOST_CANDIDATES = 128  # what an engine gives log-probabilities of for one row at a time
TRUSTED = "the coordinator, with every hospital's sums for each token"


@dataclass(frozen=True, slots=True)
class TextAcrossPlan(TextPlan):
    """A text plan over ``hospitals`` H; ``contexts`` B is the number of slots of all of them together."""

    hospitals: int

    @property
    def name(self) -> str:
        return NAME

    @property
    def slots(self) -> int:
        """Patients whom one hospital reads at most."""
        return self.contexts // self.hospitals

    @property
    def parameters(self) -> dict[str, Any]:
        names = ("hospitals", "contexts", "slots", "max_tokens", "clip", "tau", "top_k", "push", "rho_per_token")
        return {name: getattr(self, name) for name in names} | {"trusted": TRUSTED}

    @property
    def mechanism(self) -> TokenMechanism:
        """For one token. Its scores are those of all hospitals together."""
        return TokenMechanism(
            clip=self.clip,
            tau=self.tau,
            contexts=self.contexts,
            top_k=self.top_k,
            reach=self.sensitivity_units,
            rho_per_token=self.rho_per_token,
        )


def limits(hospitals: int) -> Limits:
    """What may be asked of so many hospitals: each reads as many patients as one that answers alone, at most."""
    low, most = LEAST_SLOTS * hospitals, CONTEXTS[1] * hospitals
    usual = (*DEFAULT_CONTEXTS, *range(CONTEXTS[1] + _STEP, most + 1, _STEP))
    return Limits((low, most), (TOP_K[0], MOST_CANDIDATES), tuple(slots for slots in usual if slots >= low))


def plan_text_across(
    *,
    hospitals: int,
    epsilon: float = DEFAULT_EPSILON,
    delta: float = DEFAULT_DELTA,
    contexts: int | None = None,
    max_tokens: int | None = None,
    tau: float = DEFAULT_TAU,
    top_k: int = MOST_CANDIDATES,
) -> TextAcrossPlan:
    """Plan one answer; whatever is ``None`` is chosen from epsilon.

    Raises:
        InvalidParameter: a value is out of range (``details['field']``).
        PushTooSmall: the records could not be heard; see :func:`privacy.dp.text_plan.plan_text`.
    """
    check_whole(hospitals, "hospitals", *HOSPITALS)
    values = planned(
        epsilon=epsilon,
        delta=delta,
        contexts=contexts,
        max_tokens=max_tokens,
        tau=tau,
        top_k=top_k,
        adjacency="swap",
        limits=limits(hospitals),
    )
    return TextAcrossPlan(**values, hospitals=hospitals)


def plan_of_event(event: dict[str, Any]) -> TextAcrossPlan:
    """The plan anew from its public parameters; ``cohort_plans.plan_of`` compares it with the record.

    Raises:
        InvalidParameter, PushTooSmall: out of range. KeyError, TypeError: not the record of a plan.
    """
    names = ("hospitals", "epsilon", "delta", "contexts", "max_tokens", "tau", "top_k")
    return plan_text_across(**{name: event[name] for name in names})


def again(plan: TextPlan, **changes: Any) -> dict[str, Any]:
    """The values that ``plan`` was made from, with ``changes``: for :func:`plan_text_across`."""
    names = ("epsilon", "delta", "contexts", "max_tokens", "tau", "top_k")
    return {name: getattr(plan, name) for name in names} | changes


def candidates(plan: TextAcrossPlan, ids: Sequence[int], public: Sequence[float]) -> tuple[list[int], Floats]:
    """V, likeliest first, and the public log-probabilities there, from the likeliest tokens of a public row alone.

    ``{v : l0[v] >= (k-th largest l0) - 2 C / B}``, of which the :data:`MOST_CANDIDATES` likeliest; ties by id.

    Raises:
        ValueError: this is no public row: no candidate, ids twice, or numbers that are none.
    """
    whole = all(is_whole(token) and token >= 0 for token in ids)
    if not ids or not whole or len(set(ids)) < len(ids) or len(ids) != len(public):
        raise ValueError("not the likeliest tokens of a row")
    if not all(map(math.isfinite, public)):
        raise ValueError("not log-probabilities")
    ranked = sorted(zip(ids, public, strict=True), key=lambda pair: (-pair[1], pair[0]))
    kth = ranked[min(plan.top_k, len(ranked)) - 1][1]
    chosen = [pair for pair in ranked if pair[1] >= kth - 2 * plan.clip / plan.contexts][:MOST_CANDIDATES]
    return [token for token, _ in chosen], np.array([value for _, value in chosen])


def summed(plan: TextAcrossPlan, public: Floats, private: Floats) -> list[int]:
    """One hospital's sums, one whole number a candidate. ``private`` has a row for each patient (none is possible).

    Raises:
        InvalidParameter: more patients than the hospital has slots.
    """
    if private.shape[0] > plan.slots:
        raise InvalidParameter("More patients than slots.", field="contexts")
    return [int(value) for value in plan.mechanism.parts(public, private).sum(axis=0, dtype=np.int64)]


def total(plan: TextAcrossPlan, length: int, sums: Sequence[Sequence[int]]) -> Integers:
    """The sum over hospitals.

    Raises:
        ValueError: sums that no hospital can have: of another length, not whole, out of range, or of too many.
    """
    if len(sums) > plan.hospitals:
        raise ValueError("more hospitals than planned")
    for numbers in sums:
        if len(numbers) != length or not all(is_whole(n) and abs(n) <= plan.slots * UNITS for n in numbers):
            raise ValueError("not the sums of a hospital")
    found: Integers = np.array(sums, dtype=np.int64).reshape(len(sums), length).sum(axis=0)
    return found


def draw(plan: TextAcrossPlan, ids: Sequence[int], public: Floats, sums: Sequence[Sequence[int]]) -> int:
    """The id of the drawn token; the randomness is the operating system's, through OpenDP.

    Raises:
        ValueError: see :func:`total`.
    """
    mechanism = plan.mechanism
    return ids[mechanism.draw(mechanism.scores(public, total(plan, len(ids), sums)))]
