"""The greedy planner: only admissible nodes, least load first, the same answer every time."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest

from federation.planning.greedy import Candidate, Demand, admissible, assign

MODEL = "smollm2-135m-instruct"


def node(
    name: str, *, load: int = 0, records: bool = True, left: float = 1.0, models: tuple[str, ...] = (MODEL,)
) -> Candidate:
    return Candidate(name, name, frozenset(models), records, load, left)


def demand(
    name: str = "r",
    *,
    hospitals: tuple[str, ...] = (),
    records: bool = False,
    home: str | None = None,
    model: str = MODEL,
) -> Demand:
    return Demand(name, model, frozenset(hospitals), records, home)


@pytest.mark.parametrize(
    ("wish", "candidate", "expected"),
    [
        (demand(), node("a"), True),
        (demand(model="other"), node("a"), False),
        (demand(hospitals=("a",)), node("a"), True),
        (demand(hospitals=("b",)), node("a"), False),
        (demand(records=True), node("a", records=False), False),
        (demand(records=False), node("a", records=False), True),
        (demand(), node("a", models=()), False),
    ],
)
def test_admissible(wish: Demand, candidate: Candidate, expected: bool) -> None:
    assert admissible(wish, candidate) is expected


def test_nobody_may_answer() -> None:
    assert assign([demand(hospitals=("c",))], [node("a"), node("b")]) == {"r": None}
    assert assign([demand()], []) == {"r": None}
    assert assign([], [node("a")]) == {}


def test_a_batch_is_spread_evenly() -> None:
    found = assign([demand(str(n)) for n in range(30)], [node("a"), node("b"), node("c")])
    assert Counter(found.values()) == {"a": 10, "b": 10, "c": 10}


def test_the_less_loaded_node_is_chosen() -> None:
    assert assign([demand()], [node("a", load=3), node("b", load=1)]) == {"r": "b"}


def test_ties_go_to_the_smaller_id() -> None:
    assert assign([demand()], [node("b"), node("a")]) == {"r": "a"}


def test_a_general_question_prefers_home_while_it_is_free() -> None:
    assert assign([demand(home="b")], [node("a"), node("b")]) == {"r": "b"}
    assert assign([demand(home="b")], [node("a"), node("b", load=1)]) == {"r": "a"}


def test_a_question_over_records_prefers_the_fuller_block() -> None:
    assert assign([demand(records=True)], [node("a", left=0.2), node("b", left=0.9)]) == {"r": "b"}
    assert assign([demand(records=True)], [node("a", left=0.2), node("b", left=0.9, load=9)]) == {"r": "a"}
    assert assign([demand()], [node("a", left=0.2), node("b", left=0.9)]) == {"r": "a"}, "the block matters not here"


def test_the_plan_depends_on_the_snapshot_alone() -> None:
    draw = random.Random(7)
    nodes = [node(f"n{i}", load=draw.randint(0, 4), left=draw.random(), records=i % 3 > 0) for i in range(6)]
    wishes = [demand(str(n), records=draw.random() < 0.5, home=f"n{draw.randint(0, 7)}") for n in range(40)]
    plan = assign(wishes, nodes)
    for _ in range(5):
        draw.shuffle(nodes)
        assert assign(wishes, nodes) == plan
    assert all(plan[w.id] and admissible(w, next(n for n in nodes if n.node == plan[w.id])) for w in wishes)


def test_the_snapshot_is_left_alone() -> None:
    nodes = [node("a"), node("b")]
    before = list(nodes)
    assign([demand(str(n)) for n in range(5)], nodes)
    assert nodes == before


def test_what_was_published_is_asked_where_something_is_and_blocks_do_not_matter() -> None:
    wish = Demand("r", MODEL, frozenset(), True, "home", released=True)
    spent = replace(node("away", left=0.0, load=3), released=True)
    assert assign([wish], [node("home"), spent]) == {"r": "away"}
    assert assign([wish], [replace(node("home", left=0.0), released=True), replace(spent, load=0)]) == {"r": "home"}
    assert assign([wish], [node("home"), node("other")]) == {"r": "home"}, "a node may have published since its probe"
