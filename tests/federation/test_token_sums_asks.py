"""A question for several hospitals' text at the door: who writes it, with how many slots, and what a refusal offers."""

from __future__ import annotations

from typing import Any

import pytest

from fdrouter.errors import InvalidParameter, NoNode, PushTooSmall
from federation import across, offers
from federation.asks import Ask
from federation.models import Node
from privacy.dp.across_text import LEAST_SLOTS, TextAcrossPlan, plan_text_across
from privacy.dp.text_plan import TextPlan, plan_text
from tests.accounts import people
from tests.federation import desk, rows

NAMES = ("alder", "birch", "cedar", "dogwood")


def ask(**privacy: Any) -> Ask:
    wanted: dict[str, Any] = {"kind": "cohort.text", "across": True, "epsilon": 8.0, **privacy}
    return desk.ask("What happened to patients on velorapine?", **wanted)


@pytest.fixture
def four(db: None) -> dict[str, Node]:
    """Three nodes that are up, and one that is not."""
    found = {name: rows.node(people.hospital(name, name.title())) for name in NAMES}
    found["dogwood"].status = {**found["dogwood"].status, "healthy": False}
    found["dogwood"].save()
    return found


def plan_of(wish: Ask) -> TextAcrossPlan:
    assert isinstance(wish.plan, TextAcrossPlan)
    return wish.plan


def test_two_hospitals_are_enough_and_keep_the_claim(four: dict[str, Node]) -> None:
    wish = across.resolve(ask(hospitals=["cedar", "alder"], max_tokens=12))
    assert wish.hospitals == ("alder", "cedar")
    assert plan_of(wish) == plan_text_across(hospitals=2, epsilon=8.0, max_tokens=12)


def test_without_names_all_that_are_up_write(four: dict[str, Node]) -> None:
    wish = ask(contexts=96)
    settled = across.resolve(wish)
    assert settled.hospitals == NAMES[:3] and (plan_of(wish).hospitals, plan_of(settled).hospitals) == (2, 3)
    for name in ("epsilon", "contexts", "max_tokens", "clip", "rho"):
        assert getattr(plan_of(settled), name) == getattr(plan_of(wish), name)


def test_where_more_are_up_than_slots_are_for_there_are_more_slots(four: dict[str, Node]) -> None:
    settled = across.resolve(ask(contexts=2 * LEAST_SLOTS))
    assert plan_of(settled).contexts == 3 * LEAST_SLOTS and plan_of(settled).slots == LEAST_SLOTS


@pytest.mark.parametrize("names", [["alder"], ["alder", "alder"]])
def test_one_hospital_writes_alone(four: dict[str, Node], names: list[str]) -> None:
    with pytest.raises(InvalidParameter, match="two hospitals"):
        across.resolve(ask(hospitals=names))


def test_nobody_writes_who_is_not_there(four: dict[str, Node]) -> None:
    with pytest.raises(NoNode, match="elder"):
        across.resolve(ask(hospitals=["alder", "elder"]))
    Node.objects.exclude(pk=four["alder"].pk).update(active=False)
    with pytest.raises(NoNode, match="1 are available"):
        across.resolve(ask())


def test_named_hospitals_may_read_as_many_patients_as_each_alone(four: dict[str, Node]) -> None:
    assert plan_of(ask(hospitals=list(NAMES[:3]), contexts=3 * 128, epsilon=0.5, max_tokens=8)).slots == 128
    for values in ({"hospitals": list(NAMES[:3]), "contexts": 3 * 128 + 1}, {"contexts": 257}, {"top_k": 200}):
        with pytest.raises(InvalidParameter):
            ask(**values)


@pytest.mark.parametrize("values", [{"options": ["a", "b"]}, {"picks": 2}, {"threshold": 9}])
def test_what_a_text_does_not_take_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        ask(**values)


def test_alone_and_together_are_different_requests(db: None) -> None:
    assert isinstance(ask().plan, TextAcrossPlan)
    alone = ask(across=False)
    assert isinstance(alone.plan, TextPlan) and not isinstance(alone.plan, TextAcrossPlan)
    assert alone.plan.to_event()["mechanism"] == "token_decoding"


# --- what a refusal offers --------------------------------------------------------------------------------------------
def test_records_too_faint_at_one_hospital_are_offered_of_several() -> None:
    with pytest.raises(PushTooSmall) as refused:
        ask(across=False, epsilon=1.0, max_tokens=16)
    assert {"across": True} in refused.value.details["try"]
    assert ask(epsilon=1.0, max_tokens=16).across


@pytest.mark.parametrize("values", [{"epsilon": 0.05}, {"epsilon": 1.0, "contexts": 16}])
def test_nothing_is_offered_that_would_be_refused_as_well(values: dict[str, Any]) -> None:
    with pytest.raises(PushTooSmall) as refused:
        ask(across=False, max_tokens=24, **values)
    assert {"across": True} not in refused.value.details["try"]


def test_a_cheaper_text_of_several_hospitals_may_become_shorter() -> None:
    plan = plan_text_across(hospitals=3, epsilon=3.0, contexts=300, max_tokens=40)
    assert offers._cheaper(plan, 1.0) == {"epsilon": 1.0, "max_tokens": 38}
    assert offers._cheaper(plan, 2.9) == {"epsilon": 2.9}
    assert offers._cheaper(plan_text_across(hospitals=3, epsilon=3.0), 0.5) == {"epsilon": 0.5}
    assert offers._cheaper(plan_text(epsilon=3.0), 2.5) == {"epsilon": 2.5}
