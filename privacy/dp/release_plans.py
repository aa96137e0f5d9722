"""What a block of records pays once for a release that is then asked without end: statistics cards, synthetic notes.

Both protect one patient under ``swap``: their record replaced by any other one. Parameters are fixed before any record
is read; how many patients a cell or a topic has is never looked at in planning.

**Cards.** A card is a histogram over a public list of cells. A patient is counted in at most ``max_cells`` of a card's
cells. Of one who is in more, lots choose: each cell's is a function of the release's id, the patient's own id and the
cell, so which ones count depends on that patient alone and on no order of cells, and a swap changes nobody else's. For
any fixed lots the bound below holds, so it does not matter who knows them; the noise is drawn independently of them.
All cards of a release get discrete Gaussian noise of
one sigma, so they are one vector of whole numbers. A swap takes a patient out of at most M = sum of ``max_cells`` cells
and puts another into as many: 2 M cells move by 1, the L2 sensitivity is sqrt(2 M), and the release is M / sigma^2-zCDP
(Canonne, Kamath and Steinke, arXiv 2004.00010, theorem 14). Clipping at zero afterwards costs nothing.

**Corpus.** Patients are parted into groups (a topic, and a part of it), and each group writes one note by token
decoding over B slots.

Claim. With rho the ``swap`` cost of one note, the whole corpus is 2 rho-zCDP under ``swap``, however many notes it has.
Proof. Which group a patient is in, and their rank in it, are functions of their own record and of a keyed hash of their
own id; nobody is in two groups. A group's slots hold its B members of the lowest ranks. Replace one patient's record.
They may leave one group and enter another; all other groups keep their members, ranks and texts, so their notes have
the same law. In the group that is left, the patient's slot is emptied or taken by the member of the next rank; in the
one that is entered, an empty slot is filled or the member of the last rank makes room. Slots are summed, so their order
does not matter: in each of the two groups the contents of at most one slot are replaced, which is what the swap cost of
``privacy.dp.text_plan`` covers (an empty slot counts as "no difference", and emptying costs a quarter of it). If the
patient stays in one group, one slot of one group is replaced. Groups draw independently, and a note's parameters do not
depend on other notes. Two rho-zCDP releases compose to 2 rho (Bun and Steinke, arXiv 1605.02065, lemma 1.7), the other
notes add nothing.

Leaving out all members of a slot that two would share, instead of letting the lower rank have it, would halve the cost
(each change then empties or fills a slot and never replaces one), but it silences most of a group that is as large as
its slots: of n members in B slots only n exp(-n / B) are heard. It is better only where a third of the slots is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from fdrouter.errors import InvalidParameter, PushTooSmall
from privacy.dp.accounting import (
    check_delta,
    check_epsilon,
    check_whole,
    epsilon_of_rho,
    nano_rdp_up,
    rho_of_epsilon,
    up,
)
from privacy.dp.curves import nano_divergence
from privacy.dp.events import Adjacency, Event
from privacy.dp.mechanisms import MAX_CELLS, NoisyHistogram
from privacy.dp.releases import Zcdp
from privacy.dp.text_plan import (
    DEFAULT_DELTA,
    DEFAULT_TAU,
    DEFAULT_TOP_K,
    MAX_DELTA,
    MAX_EPSILON,
    NEEDED_PUSH,
    TextPlan,
    plan_text,
)

ADJACENCY: Adjacency = "swap"
CONFIDENCE = 0.95
LEAST_EPSILON = 0.01
DEFAULT_EPSILON = {"cards": 2.0, "corpus": 3.0}
CARDS = (1, 32)
MAX_CELLS_OF_PATIENT = 32
GROUPS = (1, 400)
PARTS = (1, 16)
TOUCHED = 2  # groups whose note one patient can change: the one that they leave, the one that they enter
_MARGIN = 1 + 1e-9


@dataclass(frozen=True, slots=True)
class Card:
    """A histogram of ``cells`` public cells, of which one patient is in at most ``max_cells``."""

    name: str
    cells: int
    max_cells: int


@dataclass(frozen=True, slots=True)
class CardsPlan:
    """``sigma`` of the noise on every cell of ``cards``; ``band`` holds for one cell with 95 % probability."""

    name: ClassVar[str] = "released_cards"
    epsilon: float
    delta: float
    cards: tuple[Card, ...]
    sigma: float
    band: int

    @property
    def max_cells(self) -> int:
        """M: cells that one patient is in, over all cards."""
        return sum(card.max_cells for card in self.cards)

    @property
    def noise(self) -> NoisyHistogram:
        """Adds the noise to all cards as one vector."""
        return NoisyHistogram("discrete_gaussian", self.sigma, ADJACENCY, max_cells=self.max_cells)

    def band_of(self, cells: int) -> int:
        """A band that holds for ``cells`` cells at once with 95 % probability (a union bound)."""
        return self.noise.error_band(1 - (1 - CONFIDENCE) / cells)

    @property
    def event(self) -> Event:
        return self.noise.event

    @property
    def rho(self) -> float:
        """zCDP of the whole release."""
        return up(self.max_cells / self.sigma**2)

    @property
    def parameters(self) -> dict[str, Any]:
        """What a statement says of the mechanism."""
        cards = [[card.name, card.cells, card.max_cells] for card in self.cards]
        return {"cards": cards, "sigma": self.sigma, "band": self.band}

    def to_event(self) -> dict[str, Any]:
        """JSON-ready record for ledger and statement; :func:`plan_of_release` reads it back."""
        return _record(self, self.parameters)

    def nano_at(self, alpha: float) -> int:
        """Renyi divergence at a block's order in nano-RDP, rounded up."""
        return nano_divergence(self.event, alpha)


@dataclass(frozen=True, slots=True)
class CorpusPlan:
    """A note by ``text`` for each of ``groups`` topics times ``parts``; ``topics`` names the public list."""

    name: ClassVar[str] = "released_corpus"
    epsilon: float
    delta: float
    topics: str
    groups: int
    parts: int
    text: TextPlan

    @property
    def notes(self) -> int:
        """How many notes there may be."""
        return self.groups * self.parts

    @property
    def rho(self) -> float:
        """zCDP of the whole corpus (the module's claim)."""
        return up(TOUCHED * self.text.rho)

    @property
    def event(self) -> Event:
        return Event(Zcdp(self.rho), adjacency=ADJACENCY)

    @property
    def parameters(self) -> dict[str, Any]:
        """What a statement says of the mechanism."""
        told = {"topics": self.topics, "groups": self.groups, "parts": self.parts, "text_epsilon": self.text.epsilon}
        return told | self.text.parameters

    def to_event(self) -> dict[str, Any]:
        """JSON-ready record for ledger and statement; :func:`plan_of_release` reads it back."""
        return _record(self, self.parameters | {"rho": self.rho})

    def nano_at(self, alpha: float) -> int:
        """Renyi divergence at a block's order in nano-RDP, rounded up."""
        return nano_rdp_up(self.rho, alpha)


#: What a published release has paid, and the public parameters that it follows from.
ReleasePlan = CardsPlan | CorpusPlan


def sum_cells(held: Mapping[str, Sequence[int]], card: Card, lot: Callable[[str, int], bytes]) -> list[int]:
    """Patients in each cell of ``card``; ``held`` are the cells (places from 0) of each patient, in any order.

    Each place counts once. Of a patient with more than ``card.max_cells`` those count whose ``lot``, a function of the
    patient and the place alone, is smallest.

    Raises:
        InvalidParameter: a place that the card does not have.
    """
    total = [0] * card.cells
    for patient, places in held.items():
        own = set(places)
        if any(not 0 <= place < card.cells for place in own):
            raise InvalidParameter("The card has no such cell.", field="cards")
        for place in sorted(own, key=lambda place: lot(patient, place))[: card.max_cells]:
            total[place] += 1
    return total


def _record(plan: CardsPlan | CorpusPlan, parameters: dict[str, Any]) -> dict[str, Any]:
    return {
        "mechanism": plan.name,
        "unit": "patient",
        "adjacency": ADJACENCY,
        "epsilon": plan.epsilon,
        "delta": plan.delta,
        **parameters,
    }


def plan_cards(
    *, cards: Sequence[Card | Sequence[Any]], epsilon: float | None = None, delta: float | None = None
) -> CardsPlan:
    """Raises :class:`InvalidParameter` for a value out of range, or two cards of one name."""
    epsilon, delta = _epsilon(epsilon, "cards"), _delta(delta)
    found = tuple(card if isinstance(card, Card) else Card(*card) for card in cards)
    check_whole(len(found), "cards", *CARDS)
    for card in found:
        if not 1 <= len(card.name) <= 40:
            raise InvalidParameter("A card needs a name.", field="cards")
        check_whole(card.cells, "cells", 1, MAX_CELLS)
        check_whole(card.max_cells, "max_cells", 1, min(card.cells, MAX_CELLS_OF_PATIENT))
    if len({card.name for card in found}) < len(found) or sum(card.cells for card in found) > MAX_CELLS:
        raise InvalidParameter("Cards need different names, and together not too many cells.", field="cards")
    most = sum(card.max_cells for card in found)
    sigma = math.sqrt(most / rho_of_epsilon(epsilon, delta)) * _MARGIN
    band = NoisyHistogram("discrete_gaussian", sigma, ADJACENCY, max_cells=most).error_band(CONFIDENCE)
    return CardsPlan(epsilon, delta, found, sigma, band)


def plan_corpus(
    *,
    topics: str,
    groups: int,
    parts: int = 1,
    epsilon: float | None = None,
    delta: float | None = None,
    contexts: int | None = None,
    max_tokens: int | None = None,
    tau: float = DEFAULT_TAU,
    top_k: int = DEFAULT_TOP_K,
) -> CorpusPlan:
    """Plans a corpus: a note has half of the zCDP that ``epsilon`` stands for.

    Raises:
        InvalidParameter: a value out of range. PushTooSmall: at this epsilon the records could not be heard in a note;
        ``details['try']`` holds an epsilon that would do, or a smaller number of tokens.
    """
    epsilon, delta = _epsilon(epsilon, "corpus"), _delta(delta)
    if not 1 <= len(topics) <= 80:
        raise InvalidParameter("topics must name a list of topics.", field="topics")
    check_whole(groups, "groups", *GROUPS)
    check_whole(parts, "parts", *PARTS)
    budget = rho_of_epsilon(epsilon, delta)
    of_one = math.floor(epsilon_of_rho(budget / TOUCHED, delta) * 1e6) / 1e6
    sizes = {"contexts": contexts, "max_tokens": max_tokens, "tau": tau, "top_k": top_k}
    try:
        text = plan_text(epsilon=of_one, delta=delta, adjacency=ADJACENCY, **sizes)  # type: ignore[arg-type]
    except PushTooSmall as error:
        raise _refusal(epsilon, delta, error) from None
    plan = CorpusPlan(epsilon, delta, topics, groups, parts, text)
    if not plan.rho <= budget:
        raise InvalidParameter("The notes would cost more than the release claims.", field="epsilon")
    return plan


def _refusal(epsilon: float, delta: float, error: PushTooSmall) -> PushTooSmall:
    """The note's refusal in terms of the whole corpus."""
    choices: list[dict[str, float]] = []
    for choice in error.details["try"]:
        if "epsilon" in choice:
            whole = epsilon_of_rho(TOUCHED * rho_of_epsilon(choice["epsilon"], delta), delta)
            if (rounded := math.ceil(whole * 100 + 1) / 100) <= MAX_EPSILON:
                choices.append({"epsilon": rounded})
        else:
            choices.append(choice)
    names = {"epsilon": "epsilon {:g}", "contexts": "{:d} patients a note", "max_tokens": "at most {:d} tokens a note"}
    offers = [names[key].format(value) for choice in choices for key, value in choice.items()]
    advice = f" Any one of these would do: {', '.join(offers)}." if offers else " No single change makes it work."
    return PushTooSmall(
        f"With epsilon {epsilon:g} for the whole corpus the records could not influence its notes, so nothing was "
        f"charged.{advice}",
        push=error.details["push"],
        needed=NEEDED_PUSH,
        **{"try": choices},
    )


def _epsilon(value: float | None, name: str) -> float:
    epsilon = check_epsilon(DEFAULT_EPSILON[name] if value is None else value, high=MAX_EPSILON)
    if epsilon < LEAST_EPSILON:
        raise InvalidParameter(f"epsilon must be at least {LEAST_EPSILON:g}.", field="epsilon", low=LEAST_EPSILON)
    return epsilon


def _delta(value: float | None) -> float:
    return check_delta(DEFAULT_DELTA if value is None else value, high=MAX_DELTA)


def plan_of_release(event: dict[str, Any]) -> ReleasePlan | None:
    """The plan that a record came from, made anew; None for a record of another mechanism. The caller compares.

    Raises:
        KeyError, TypeError, InvalidParameter, PushTooSmall: it is no record of such a plan.
    """
    if event["mechanism"] == CardsPlan.name:
        return plan_cards(cards=event["cards"], epsilon=event["epsilon"], delta=event["delta"])
    if event["mechanism"] == CorpusPlan.name:
        names = ("topics", "groups", "parts", "epsilon", "delta", "contexts", "max_tokens", "tau", "top_k")
        return plan_corpus(**{name: event[name] for name in names})
    return None
