"""Plans: defaults that work, refusals that help, nothing dearer than asked for."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fdrouter.errors import InvalidParameter, PushTooSmall
from privacy.dp.accounting import epsilon_of_rho
from privacy.dp.decoding import TokenMechanism
from privacy.dp.events import Adjacency
from privacy.dp.text_plan import CONTEXTS, NEEDED_PUSH, TOKENS, TextPlan, plan_of_event, plan_text, push_of

DELTA = 1e-5


def mechanism(plan: TextPlan) -> TokenMechanism:
    return TokenMechanism(plan.clip, plan.tau, plan.contexts, plan.top_k, plan.sensitivity_units, plan.rho_per_token)


def test_the_default_plan_is_heard_and_affordable() -> None:
    plan = plan_text()
    assert plan.push >= NEEDED_PUSH
    assert plan.adjacency == "swap"
    assert epsilon_of_rho(plan.rho, plan.delta) <= plan.epsilon
    assert plan.rho_per_token == pytest.approx(2 * plan.clip**2 / (plan.contexts * plan.tau) ** 2, rel=1e-6)


@pytest.mark.parametrize("epsilon", [1, 2, 3, 5, 10])
def test_sizes_left_open_are_chosen_to_work(epsilon: float) -> None:
    plan = plan_text(epsilon=epsilon)
    assert plan.push >= NEEDED_PUSH
    assert CONTEXTS[0] <= plan.contexts <= CONTEXTS[1]
    assert TOKENS[0] <= plan.max_tokens <= TOKENS[1]


@pytest.mark.parametrize(
    ("contexts", "tokens", "epsilon", "push"),
    [(8, 40, 1, 0.31), (8, 40, 10, 2.39), (32, 40, 3, 3.39), (32, 40, 10, 9.55), (64, 30, 1, 2.9), (64, 30, 3, 7.8)],
)
def test_push_figures(contexts: int, tokens: int, epsilon: float, push: float) -> None:
    from privacy.dp.accounting import rho_of_epsilon

    rho = rho_of_epsilon(epsilon, DELTA)
    assert push_of(rho, contexts, tokens, "add_remove") == pytest.approx(push, rel=0.02)
    assert push_of(rho, contexts, tokens, "swap") == pytest.approx(push / 2, rel=0.02)


@given(
    epsilon=st.floats(0.05, 10),
    contexts=st.integers(*CONTEXTS),
    tokens=st.integers(*TOKENS),
    adjacency=st.sampled_from(["swap", "add_remove"]),
    tau=st.floats(0.1, 2),
)
@settings(max_examples=80, deadline=None)
def test_every_plan_keeps_its_promise(
    epsilon: float, contexts: int, tokens: int, adjacency: Adjacency, tau: float
) -> None:
    try:
        plan = plan_text(
            epsilon=epsilon, delta=DELTA, contexts=contexts, max_tokens=tokens, adjacency=adjacency, tau=tau
        )
    except PushTooSmall:
        assume(False)
    assert epsilon_of_rho(plan.rho, DELTA) <= epsilon
    assert plan.push >= NEEDED_PUSH
    assert mechanism(plan).rho <= plan.rho_per_token <= mechanism(plan).rho * (1 + 1e-6)
    assert plan_of_event(plan.to_event()) == plan


@given(
    epsilon=st.floats(0.1, 10),
    contexts=st.integers(*CONTEXTS),
    tokens=st.integers(*TOKENS),
    adjacency=st.sampled_from(["swap", "add_remove"]),
)
@settings(max_examples=80, deadline=None)
def test_every_suggestion_works(epsilon: float, contexts: int, tokens: int, adjacency: Adjacency) -> None:
    asked: dict[str, Any] = {"epsilon": epsilon, "contexts": contexts, "max_tokens": tokens}
    try:
        plan_text(delta=DELTA, adjacency=adjacency, **asked)
    except PushTooSmall as refused:
        assert refused.details["push"] < refused.details["needed"] == NEEDED_PUSH
        for change in refused.details["try"]:
            assert plan_text(delta=DELTA, adjacency=adjacency, **{**asked, **change}).push >= NEEDED_PUSH
    else:
        assume(False)


def test_a_refusal_says_what_would_do() -> None:
    with pytest.raises(PushTooSmall) as refused:
        plan_text(epsilon=3, contexts=64, max_tokens=30)
    tried = {key: value for change in refused.value.details["try"] for key, value in change.items()}
    assert set(tried) == {"epsilon", "contexts", "max_tokens"}
    assert all(f"{value:g}" in refused.value.message for value in tried.values())


@pytest.mark.parametrize("field", ["epsilon", "delta", "contexts", "max_tokens", "tau", "top_k"])
@pytest.mark.parametrize("bad", [0, -1, math.nan, math.inf, -math.inf, 1e308, "3", True, 10**9])
def test_bad_values_name_their_field(field: str, bad: Any) -> None:
    with pytest.raises(InvalidParameter) as refused:
        plan_text(**{field: bad})
    assert refused.value.details["field"] == field


@pytest.mark.parametrize(("field", "bad"), [("epsilon", 10.001), ("delta", 1.01e-4), ("adjacency", "zero")])
def test_values_just_outside_are_refused(field: str, bad: Any) -> None:
    with pytest.raises(InvalidParameter) as refused:
        plan_text(**{field: bad})
    assert refused.value.details["field"] == field


def test_settling_counts_sampled_tokens_only() -> None:
    plan = plan_text()
    assert plan.rho_of(0) == 0
    assert plan.rho_of(plan.max_tokens) == plan.rho
    with pytest.raises(InvalidParameter):
        plan.rho_of(plan.max_tokens + 1)


@pytest.mark.parametrize("change", [{"clip": 9.0}, {"rho_per_token": 1e-9}, {"push": 60.0}, {"contexts": None}])
def test_an_altered_event_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        plan_of_event({**plan_text(contexts=96).to_event(), **change} if change != {"contexts": None} else {})


def test_a_mechanism_dearer_than_planned_cannot_be_made() -> None:
    plan = plan_text()
    with pytest.raises(InvalidParameter):
        TokenMechanism(plan.clip * 1.001, plan.tau, plan.contexts, plan.top_k, 2, plan.rho_per_token)
    with pytest.raises(InvalidParameter):  # a slot fewer: each patient weighs more
        TokenMechanism(plan.clip, plan.tau, plan.contexts - 1, plan.top_k, 2, plan.rho_per_token)
