"""What a release costs: cards by their largest patient, a corpus twice one note, whatever its size."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdrouter.errors import InvalidParameter, PushTooSmall
from privacy.dp.accounting import epsilon_of_rho, rho_of_epsilon
from privacy.dp.cohort_plans import plan_of
from privacy.dp.release_plans import Card, CardsPlan, CorpusPlan, plan_cards, plan_corpus, sum_cells

CARDS = (Card("sex", 4, 1), Card("departments", 6, 3), Card("topics", 500, 4))
DELTA = 1e-5


def cards(**changes: Any) -> CardsPlan:
    wanted: dict[str, Any] = {"cards": CARDS, "epsilon": 1.0, "delta": DELTA}
    return plan_cards(**wanted | changes)


def corpus(**changes: Any) -> CorpusPlan:
    wanted: dict[str, Any] = {"topics": "topics-1", "groups": 20, "epsilon": 3.0, "delta": DELTA}
    return plan_corpus(**wanted | changes)


# --- cards --------------------------------------------------------------------------------------------------------
def test_cards_cost_what_a_patient_in_all_their_cells_costs() -> None:
    plan = cards()
    assert plan.max_cells == 8
    assert plan.rho == pytest.approx(8 / plan.sigma**2) and plan.rho <= rho_of_epsilon(1.0, DELTA)
    assert plan.rho > rho_of_epsilon(1.0, DELTA) * 0.999_999
    assert plan.nano_at(3.4) >= Fraction(3.4) * Fraction(8) / Fraction(plan.sigma) ** 2 * 10**9
    assert epsilon_of_rho(plan.rho, DELTA) <= 1.0


PLACES = st.lists(st.integers(0, 11), max_size=12)


def lot(patient: str, place: int) -> bytes:
    return hashlib.sha256(f"{patient} {place}".encode()).digest()


@given(others=st.lists(PLACES, max_size=4), before=PLACES, after=PLACES, same=st.booleans())
def test_a_swapped_record_moves_a_card_by_no_more_than_is_paid(
    others: list[list[int]], before: list[int], after: list[int], same: bool
) -> None:
    """Also where the other record comes with another id, and so with other lots."""
    card = Card("topics", 12, 3)
    rest = {f"p{n}": places for n, places in enumerate(others)}
    one = sum_cells({**rest, "who": before}, card, lot)
    other = sum_cells({"who" if same else "somebody else": after, **rest}, card, lot)
    # The squared L2 sensitivity that 2 * max_cells in the event pays for.
    assert sum((a - b) ** 2 for a, b in zip(one, other, strict=True)) <= 2 * card.max_cells
    assert sum(one) <= 3 * (len(others) + 1)


def test_of_a_patient_with_many_cells_those_of_the_smallest_lots_count_once() -> None:
    def backwards(patient: str, place: int) -> bytes:
        return bytes([9 - place])

    assert sum_cells({"a": [5, 1, 1, 4, 0], "b": [5]}, Card("a", 6, 3), backwards) == [0, 1, 0, 0, 1, 2]
    for wrong in (6, -1):
        with pytest.raises(InvalidParameter):
            sum_cells({"a": [wrong]}, Card("a", 6, 3), lot)


def test_no_place_in_the_order_is_left_out_more_often_than_another() -> None:
    everybody = {f"p{n}": list(range(10)) for n in range(3000)}
    found = sum_cells(everybody, Card("a", 10, 4), lot)
    assert sum(found) == 4 * 3000
    assert all(abs(count - 1200) < 5 * (3000 * 0.4 * 0.6) ** 0.5 for count in found)


def test_more_cells_a_patient_cost_more_noise_and_more_cells_a_card_do_not() -> None:
    assert cards(cards=[Card("topics", 9000, 4)]).sigma == cards(cards=[Card("topics", 9, 4)]).sigma
    assert cards(cards=[Card("topics", 9, 8)]).sigma == pytest.approx(
        2**0.5 * cards(cards=[Card("topics", 9, 4)]).sigma
    )


def test_the_band_of_many_cells_is_wider_than_that_of_one() -> None:
    plan = cards()
    assert plan.band < plan.band_of(500) < 3 * plan.band
    misses = sum(abs(noise) > plan.band for noise in plan.noise.release([0] * 4000))
    assert misses < 4000 * 0.07
    assert max(map(abs, plan.noise.release([0] * 500))) <= plan.band_of(500) + plan.band


# --- corpus -------------------------------------------------------------------------------------------------------
def test_a_corpus_costs_twice_one_note_whatever_its_size() -> None:
    plan = corpus()
    assert plan.rho == pytest.approx(2 * plan.text.rho) and plan.rho > 2 * plan.text.rho
    assert plan.rho <= rho_of_epsilon(3.0, DELTA) and plan.rho > 0.999 * rho_of_epsilon(3.0, DELTA)
    assert corpus(groups=400, parts=16).rho == plan.rho
    assert plan.text.adjacency == "swap" and plan.text.push >= 6
    assert plan.nano_at(3.4) == pytest.approx(3.4e9 * plan.rho, rel=1e-9)


def _slots(groups: dict[str, int], ranks: dict[str, int], size: int) -> dict[int, Counter[str]]:
    """Members of each group by rank, at most ``size``: what the decoding of a group reads."""
    found: dict[int, Counter[str]] = {}
    for group in set(groups.values()):
        members = sorted((p for p, g in groups.items() if g == group), key=lambda p: ranks[p])[:size]
        found[group] = Counter(members)
    return found


@given(
    assigned=st.lists(st.integers(0, 3), min_size=1, max_size=14),
    ranks=st.permutations(range(14)),
    who=st.integers(0, 13),
    group=st.integers(0, 3),
    rank=st.integers(-1, 20),
    size=st.integers(1, 5),
)
def test_one_patient_changes_one_slot_of_at_most_two_groups(
    assigned: Sequence[int], ranks: Sequence[int], who: int, group: int, rank: int, size: int
) -> None:
    """The combinatorial half of the module's proof, also for another person with another rank in the same place."""
    groups = {f"p{n}": g for n, g in enumerate(assigned)}
    order = {f"p{n}": 2 * ranks[n] for n in range(len(assigned))}
    out = f"p{who % len(assigned)}"
    changed = {p: g for p, g in groups.items() if p != out} | {"new": group}
    before, after = _slots(groups, order, size), _slots(changed, order | {"new": 2 * rank + 1}, size)
    replaced = []
    for name in before.keys() | after.keys():
        one, other = before.get(name, Counter()), after.get(name, Counter())
        replaced.append(max((one - other).total(), (other - one).total()))
    assert max(replaced) <= 1 and sum(replaced) <= 2


def test_a_corpus_whose_records_could_not_be_heard_is_refused_with_what_would_do() -> None:
    with pytest.raises(PushTooSmall) as refused:
        corpus(epsilon=0.5)
    enough = next(choice["epsilon"] for choice in refused.value.details["try"] if "epsilon" in choice)
    assert f"epsilon {enough:g}" in refused.value.message and "whole corpus" in refused.value.message
    assert corpus(epsilon=enough).text.push >= 6
    with pytest.raises(PushTooSmall):
        corpus(epsilon=enough - 0.1)


# --- both ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("plan", [cards(), corpus(), corpus(epsilon=8.0, parts=2, max_tokens=32)])
def test_a_plan_is_read_back_from_its_record_and_an_altered_one_is_refused(plan: CardsPlan | CorpusPlan) -> None:
    record = json.loads(json.dumps(plan.to_event()))
    assert plan_of(record) == plan
    for name, value in record.items():
        if isinstance(value, int | float):
            with pytest.raises((InvalidParameter, PushTooSmall)):
                plan_of(record | {name: value * 0.5 + 0.3})
    for missing in record.keys() - {"unit"}:
        with pytest.raises(InvalidParameter):
            plan_of({name: value for name, value in record.items() if name != missing})
    with pytest.raises(InvalidParameter):
        plan_of(record | {"adjacency": "add_remove"})


@pytest.mark.parametrize(
    "changes",
    [
        {"cards": []},
        {"cards": [Card("a", 3, 4)]},
        {"cards": [Card("a", 3, 1), Card("a", 3, 1)]},
        {"cards": [Card("", 3, 1)]},
        {"cards": [Card("a", 200_000, 1)]},
        {"cards": [["a", 3, True]]},
        {"epsilon": 0.001},
        {"epsilon": 11.0},
        {"delta": 1e-3},
    ],
)
def test_cards_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        cards(**changes)


@pytest.mark.parametrize(
    "changes",
    [{"groups": 0}, {"groups": 401}, {"parts": 0}, {"parts": 1.5}, {"topics": ""}, {"epsilon": 11.0}, {"delta": 0.0}],
)
def test_a_corpus_out_of_range_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        corpus(**changes)
