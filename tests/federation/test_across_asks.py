"""A question for several hospitals at the door: who answers it, what it claims, what makes it the same as another."""

from __future__ import annotations

from typing import Any

import pytest

from accounts.models import Hospital, User
from fdrouter.errors import DomainError, InvalidParameter, NoNode
from federation import across
from federation.asks import Ask
from federation.models import Inference, Node, Transport
from privacy.dp.across_plans import AcrossPlan, plan_choice_across, plan_count_across
from tests.accounts import people
from tests.federation import desk, rows

NAMES = ("alder", "birch", "cedar", "dogwood")


def ask(**privacy: Any) -> Ask:
    return desk.ask("How many patients on velorapine?", **{"kind": "cohort.count", "across": True, **privacy})


@pytest.fixture
def four(db: None) -> dict[str, Node]:
    """Three nodes that are up, and one that is not."""
    found = {name: rows.node(people.hospital(name, name.title())) for name in NAMES}
    found["dogwood"].status = {**found["dogwood"].status, "healthy": False}
    found["dogwood"].save()
    return found


def plan_of(wish: Ask) -> AcrossPlan:
    assert isinstance(wish.plan, AcrossPlan)
    return wish.plan


# --- what is asked ----------------------------------------------------------------------------------------------------
def test_the_claim_is_fixed_at_the_door_and_the_noise_at_admission(four: dict[str, Node]) -> None:
    wish = ask(epsilon=0.7, delta=1e-6)
    assert wish.across and (plan_of(wish).epsilon, plan_of(wish).delta) == (0.7, 1e-6)
    settled = across.resolve(wish)
    assert settled.hospitals == NAMES[:3] and settled.plan == plan_count_across(hospitals=3, epsilon=0.7, delta=1e-6)


def test_a_choice_keeps_its_options(four: dict[str, Node]) -> None:
    wish = across.resolve(ask(kind="cohort.choice", options=["rash", "cough"], hospitals=list(NAMES)))
    assert wish.plan == plan_choice_across(options=2, hospitals=4) and wish.hospitals == NAMES


def test_the_order_in_which_hospitals_are_named_is_of_no_matter(four: dict[str, Node]) -> None:
    one, two = (across.resolve(ask(hospitals=list(names))) for names in (NAMES, reversed(NAMES)))
    assert one.hospitals == two.hospitals and one.plan == two.plan


@pytest.mark.parametrize("value", [1, "true", [], "yes", 0])
def test_across_is_true_or_false(value: Any) -> None:
    with pytest.raises(InvalidParameter):
        ask(across=value)


@pytest.mark.parametrize("kind", ["general", "cohort.keywords", "cohort.released"])
def test_other_kinds_are_not_answered_together(kind: str) -> None:
    with pytest.raises(InvalidParameter, match=r"cohort\.count, cohort\.choice"):
        ask(kind=kind)


@pytest.mark.parametrize("value", [None, False])
def test_without_it_one_hospital_answers(value: Any) -> None:
    wish = desk.ask("How many?", kind="cohort.count", across=value)
    assert not wish.across and not isinstance(wish.plan, AcrossPlan)


def test_an_open_kind_may_be_answered_together() -> None:
    wish = desk.ask("How many patients on velorapine had a cough?", kind="cohort", across=True)
    assert wish.kind == "cohort.count" and plan_of(wish).delta > 0


@pytest.mark.parametrize("values", [{"epsilon": 99.0}, {"epsilon": -1}, {"delta": 0.7}, {"delta": 0}, {"picks": 2}])
def test_a_claim_out_of_range_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        ask(**values)


# --- who answers ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("hospitals", "error"),
    [
        (["alder"], InvalidParameter),
        (["alder", "birch"], InvalidParameter),
        (["alder", "birch", "elm"], NoNode),
        (["alder", "birch", "cedar", "elm"], NoNode),
    ],
)
def test_fewer_than_three_or_one_without_a_node_are_refused(
    four: dict[str, Node], hospitals: list[str], error: type[DomainError]
) -> None:
    with pytest.raises(error):
        across.resolve(ask(hospitals=hospitals))


@pytest.mark.parametrize("change", ["down", "no block", "plain engine", "inactive"])
def test_where_fewer_than_three_are_there_the_reason_is_told(four: dict[str, Node], change: str) -> None:
    node = four["cedar"]
    if change == "down":
        node.status = {**node.status, "healthy": False}
    elif change == "no block":
        node.status = {**node.status, "block": None}
    elif change == "plain engine":
        node.transport = Transport.OPENAI
    else:
        node.active = False
    node.save()
    with pytest.raises(NoNode, match="At least three hospitals .* 2 are available"):
        across.resolve(ask())


def test_more_than_can_be_summed_are_refused(db: None) -> None:
    for n in range(33):
        rows.node(Hospital.objects.create(code=f"h{n:02d}", name=f"H{n}"))
    with pytest.raises(InvalidParameter, match="hospitals"):
        across.resolve(ask())


# --- admission --------------------------------------------------------------------------------------------------------
def test_it_is_admitted_with_its_hospitals_and_charged_the_claim_once(four: dict[str, Node]) -> None:
    ada: User = people.person("ada")
    item = desk.prepared(ada, across.resolve(ask(epsilon=1.0)))
    assert [code for code, _ in desk.admit(item)] == [0]
    row = Inference.objects.get(pk=item.id)
    assert (row.hospitals, row.epsilon_micro, row.delta) == (list(NAMES[:3]), 1_000_000, 1e-5)
    assert across.is_across(row.parameters) and row.parameters["hospitals"] == 3
    assert not across.is_across({}) and not across.is_across({"mechanism": "count"})
