"""The accountant of the SDK and the calibration under it."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdrouter.errors import InvalidParameter
from privacy.dp.accountant import DPConfig, Mechanism, PrivacyAccountant
from privacy.dp.accounting import delta_of_rho, epsilon_of_rho, rho_of_epsilon, rho_of_pure
from privacy.dp.calibration import clip_for, epsilon_of_clip, epsilon_of_noise, noise_for, noise_of_rho
from privacy.dp.composition import Composition
from privacy.dp.events import Event, claim
from privacy.dp.releases import DiscreteGaussian, Exponential, Gaussian, Laplace, PoissonGaussian
from privacy.dp.text_plan import plan_text

DELTA = 1e-5
SEED = {"epsilon_per_query": 0.1, "delta": 1e-5, "max_budget_per_user": 10.0, "noise_multiplier": 1.1, "clip_norm": 1.0}
BAD = [math.nan, math.inf, -math.inf, -1, True, "1"]


def config(**changes: Any) -> DPConfig:
    return DPConfig(**{**SEED, **changes})


@pytest.mark.parametrize("composition", get_args(Composition))
@pytest.mark.parametrize("mechanism", get_args(Mechanism))
def test_a_query_costs_what_the_config_says_and_hardly_less(mechanism: Mechanism, composition: Composition) -> None:
    accountant = PrivacyAccountant(config(), mechanism, composition).record_query()
    assert 0.0995 < accountant.epsilon() <= 0.1
    assert accountant.noise_scale >= 10
    twenty = accountant.epsilon_after(19)
    assert accountant.releases == 1, "looking ahead counts nothing"
    assert accountant.record_query(19).epsilon() == twenty > 0.1


def test_many_queries_cost_less_than_their_sum() -> None:
    accountant = PrivacyAccountant(config(epsilon_per_query=1.0), "gaussian", "rdp").record_query(58)
    found = accountant.guarantee()
    assert found.plain_sum == pytest.approx(58) and 9.9 < found.epsilon <= 10.01
    assert str(found).startswith("(9.9") or str(found).startswith("(10")
    assert (found.unit, found.adjacency, found.releases, found.delta) == ("patient", "add_remove", 58, 1e-5)


@pytest.mark.parametrize("mechanism", ["gaussian", "laplace"])
def test_a_swap_needs_more_noise(mechanism: Mechanism) -> None:
    one = PrivacyAccountant(config(), mechanism).noise_scale
    two = PrivacyAccountant(config(adjacency="swap"), mechanism).noise_scale
    assert two / one == pytest.approx(math.sqrt(2) if mechanism == "gaussian" else 2, rel=1e-4)


def test_known_noise() -> None:
    assert PrivacyAccountant(config(epsilon_per_query=1.0, adjacency="swap")).noise_scale == pytest.approx(
        5.7, abs=0.03
    )
    assert PrivacyAccountant(config(epsilon_per_query=3.0, adjacency="swap")).noise_scale == pytest.approx(
        2.1, abs=0.02
    )


def test_training_and_queries_are_accounted_for_together() -> None:
    accountant = PrivacyAccountant(config())
    accountant.compose(Event(PoissonGaussian(1.1, 0.001)), 100).record_query(5)
    assert accountant.epsilon() > PrivacyAccountant(config()).record_query(5).epsilon()
    assert accountant.releases == 105 and len(accountant.events) == 2
    assert accountant.epsilon(1e-7) > accountant.epsilon(1e-5)


@pytest.mark.parametrize(
    ("other", "field"), [(claim(0.1, unit="user"), "unit"), (claim(0.1, adjacency="swap"), "adjacency")]
)
def test_a_users_epsilon_is_not_a_patients(other: Event, field: str) -> None:
    accountant = PrivacyAccountant(config()).record_query()
    with pytest.raises(InvalidParameter) as refused:
        accountant.compose(other)
    assert refused.value.details["field"] == field and "do not add up" in refused.value.message
    assert accountant.releases == 1


def test_what_the_composition_cannot_take_is_refused_and_not_counted() -> None:
    accountant = PrivacyAccountant(config(), composition="rdp")
    with pytest.raises(InvalidParameter) as refused:
        accountant.compose(claim(0.1, 1e-7))
    assert refused.value.details["field"] == "composition"
    assert accountant.releases == 0 and accountant.epsilon() == 0.0
    assert PrivacyAccountant(config(), composition="basic").compose(claim(0.1, 1e-7)).epsilon() == pytest.approx(0.1)


@pytest.mark.parametrize("count", [0, -1, 1.0, True, math.nan, 10**8])
def test_bad_counts_are_refused(count: Any) -> None:
    for call in (PrivacyAccountant(config()).record_query, PrivacyAccountant(config()).epsilon_after):
        with pytest.raises(InvalidParameter) as refused:
            call(count)
        assert refused.value.details["field"] == "count"


@pytest.mark.parametrize("field", SEED)
@pytest.mark.parametrize("bad", BAD)
def test_bad_configs_are_refused(field: str, bad: Any) -> None:
    with pytest.raises(InvalidParameter) as refused:
        config(**{field: bad})
    assert refused.value.details["field"] == field


@pytest.mark.parametrize(
    "changes",
    [{"unit": "ward"}, {"adjacency": "zero"}, {"max_budget_per_user": 0.05}, {"delta": 0.1}, {"epsilon_per_query": 0}],
    ids=str,
)
def test_configs_that_promise_nothing_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter) as refused:
        config(**changes)
    assert refused.value.details["field"] in changes


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"mechanism": "scrubbing"}, "mechanism"),
        ({"composition": "moments"}, "composition"),
        ({"config": SEED}, "config"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        PrivacyAccountant(**{"config": config(), **arguments})
    assert refused.value.details["field"] == field
    with pytest.raises(InvalidParameter):
        PrivacyAccountant(config()).compose("gaussian")  # type: ignore[arg-type]


# --- calibration --------------------------------------------------------------------------------------------------
KINDS = {
    "gaussian": lambda x: Event(Gaussian(x)),
    "discrete": lambda x: Event(DiscreteGaussian(x, cells=2)),
    "laplace": lambda x: Event(Laplace(x)),
    "exponential": lambda x: Event(Exponential(2 / x)),
}


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from(sorted(KINDS)),
    st.floats(0.05, 8),
    st.integers(1, 20),
    st.sampled_from(["basic", "advanced", "rdp", "zcdp"]),
)
def test_calibrated_noise_costs_the_target_and_never_more(
    kind: str, epsilon: float, count: int, composition: Composition
) -> None:
    noise = noise_for(KINDS[kind], epsilon, DELTA, count=count, composition=composition)
    assert epsilon_of_noise(KINDS[kind](noise), DELTA, count=count, composition=composition) <= epsilon
    less = KINDS[kind](noise * 0.998)
    if composition != "advanced":  # whose figure moves in steps
        assert epsilon_of_noise(less, DELTA, count=count, composition=composition) > epsilon


def test_calibration_by_loss_distribution() -> None:
    noise = noise_for(KINDS["gaussian"], 1.0, DELTA, composition="pld")
    assert epsilon_of_noise(Event(Gaussian(noise)), DELTA, composition="pld") <= 1.0
    assert noise == pytest.approx(3.7306, abs=0.02)  # Balle and Wang's analytic noise
    assert noise < noise_for(KINDS["gaussian"], 1.0, DELTA, composition="rdp")


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0.05, 10),
    st.integers(1, 500),
    st.integers(1, 100),
    st.floats(0.1, 2),
    st.sampled_from(["swap", "add_remove"]),
)
def test_a_clip_costs_the_target_and_never_more(
    epsilon: float, contexts: int, max_tokens: int, tau: float, adjacency: Any
) -> None:
    terms: dict[str, Any] = {
        "contexts": contexts,
        "max_tokens": max_tokens,
        "tau": tau,
        "adjacency": adjacency,
    }
    clip = clip_for(epsilon, DELTA, **terms)
    assert epsilon * (1 - 1e-6) <= epsilon_of_clip(clip, DELTA, **terms) <= epsilon
    assert epsilon_of_clip(clip * 1.001, DELTA, **terms) > epsilon


def test_a_clip_is_the_plans_and_half_for_a_swap() -> None:
    plan = plan_text(epsilon=3.0, contexts=96, max_tokens=24)
    terms: dict[str, Any] = {"contexts": 96, "max_tokens": 24, "tau": plan.tau}
    clip = clip_for(3.0, plan.delta, **terms)
    assert clip == pytest.approx(plan.clip, rel=1e-6)
    assert clip_for(3.0, plan.delta, adjacency="add_remove", **terms) == pytest.approx(2 * clip)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"contexts": 0}, "contexts"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"tau": 0}, "tau"),
        ({"adjacency": 1}, "adjacency"),
    ],
)
def test_a_cohort_of_nobody_has_no_clip(changes: dict[str, Any], field: str) -> None:
    terms: dict[str, Any] = {"contexts": 8, "max_tokens": 8, "tau": 0.5, **changes}
    for call in (clip_for, epsilon_of_clip):
        with pytest.raises(InvalidParameter) as refused:
            call(1.0, DELTA, **terms)
        assert refused.value.details["field"] == field


# --- conversions --------------------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(st.floats(1e-3, 20))
def test_conversions_round_up(epsilon: float) -> None:
    assert rho_of_pure(epsilon) >= epsilon**2 / 2
    rho = rho_of_epsilon(epsilon, DELTA)
    assert noise_of_rho(rho) >= 1 / math.sqrt(2 * rho)
    assert delta_of_rho(rho, epsilon) <= DELTA * (1 + 1e-6)
    assert epsilon_of_rho(rho, min(0.5, delta_of_rho(rho, epsilon) * (1 + 1e-6))) <= epsilon * (1 + 1e-6)


@pytest.mark.parametrize("bad", [0, *BAD])
def test_bad_values_are_refused_by_every_conversion(bad: Any) -> None:
    for call in (
        rho_of_pure,
        noise_of_rho,
        lambda x: delta_of_rho(0.1, x),
        lambda x: noise_for(KINDS["laplace"], x, 0.1),
    ):
        with pytest.raises(InvalidParameter):
            call(bad)
