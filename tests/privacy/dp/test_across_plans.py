"""The noise of several hospitals together is enough for the claim, also without those that may collude."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from fdrouter.errors import InvalidParameter
from privacy.dp import events
from privacy.dp.accounting import epsilon_of_rho, nano_rdp_up
from privacy.dp.across_plans import (
    CHOICE,
    COUNT,
    HOSPITALS,
    LEAST_SIGMA,
    AcrossPlan,
    moved,
    plan_choice_across,
    plan_count_across,
    rho_of_sum,
    tau,
)
from privacy.dp.cohort_plans import Plan, plan_choice, plan_count, plan_keywords, plan_of

Floats = npt.NDArray[np.float64]


def noise_of(sigma: float, count: int) -> Floats:
    """Exact probabilities of the sum of ``count`` discrete Gaussians, over whole numbers around 0."""
    reach = math.ceil(12 * sigma) + 12
    single = np.exp(-(np.arange(-reach, reach + 1, dtype=np.float64) ** 2) / (2 * sigma**2))
    single /= single.sum()
    found = single
    for _ in range(count - 1):
        found = np.convolve(found, single)
    return found


def divergence(noise: Floats, alpha: float) -> float:
    """Renyi divergence between the noise and itself moved by one, in either direction the same."""
    here, moved_on = noise[:-1], noise[1:]
    likely = (here > 1e-290) & (moved_on > 1e-290)
    logs = alpha * np.log(here[likely]) + (1 - alpha) * np.log(moved_on[likely])
    most = logs.max()
    return float((most + np.log(np.exp(logs - most).sum())) / (alpha - 1))


PLANS = [
    plan(**more, hospitals=hospitals, epsilon=epsilon)
    for plan, more in ((plan_count_across, {}), (plan_choice_across, {"options": 5}))
    for hospitals in (3, 5, 12, 32)
    for epsilon in (0.1, 1.0, 10.0)
]


# --- the claim --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.name}-{plan.hospitals}-{plan.epsilon:g}")
def test_the_exact_divergence_of_the_honest_hospitals_noise_is_within_the_claim(plan: AcrossPlan) -> None:
    """The discrete sum itself, convolved, not the theorem that the plan goes by."""
    noise = noise_of(plan.sigma, plan.hospitals - plan.colluders)
    for alpha in (1.1, 2.0, 3.4, 8.0, 32.0):
        cells = moved(plan.name)
        assert cells * divergence(noise, alpha) <= alpha * plan.rho * (1 + 1e-9) + 1e-12
    assert epsilon_of_rho(plan.rho, plan.delta) <= plan.epsilon


def test_the_bound_is_close_where_the_noise_is_wide() -> None:
    plan = plan_count_across(hospitals=3, epsilon=1.0)
    assert divergence(noise_of(plan.sigma, 2), 2.0) > 0.999 * 2.0 * plan.rho


def test_one_more_hospital_that_adds_no_noise_breaks_the_claim() -> None:
    """The test above can fail: with two colluders of three the noise is half of what the claim needs."""
    plan = plan_count_across(hospitals=3, epsilon=1.0)
    assert divergence(noise_of(plan.sigma, 1), 2.0) > 1.9 * 2.0 * plan.rho


@pytest.mark.parametrize("hospitals", [3, 4, 8, 32])
def test_the_noise_of_all_but_the_colluders_is_that_of_one_trusted_hospital(hospitals: int) -> None:
    alone = plan_choice(options=4, epsilon=0.3)
    for colluders in {1, hospitals - 2}:
        plan = plan_choice_across(options=4, hospitals=hospitals, epsilon=0.3, colluders=colluders)
        together = math.sqrt(hospitals - colluders) * plan.sigma
        assert alone.sigma <= together * (1 + 1e-6) and together < alone.sigma * 1.01


def test_little_noise_at_many_hospitals_is_made_more_instead_of_claimed_as_enough() -> None:
    """There the sum is no Gaussian: tau counts, and the plan pays for it with noise."""
    plan = plan_count_across(hospitals=32, epsilon=3.0)
    naive = math.sqrt(1 / (2 * plan.rho * 31))
    assert tau(max(naive, LEAST_SIGMA), 31) > 1 and plan.sigma > 1.5 * naive
    assert plan.rho == pytest.approx(0.2242, rel=1e-3)


def test_tau_is_the_papers() -> None:
    assert tau(1.0, 1) == 0
    assert tau(1.0, 3) == pytest.approx(10 * (math.exp(-(math.pi**2)) + math.exp(-4 * math.pi**2 / 3)))
    assert tau(0.7, 8) > tau(0.7, 7) > tau(0.8, 7)


def test_rho_falls_with_noise_and_hospitals_and_rises_with_cells() -> None:
    base: dict[str, Any] = {"moved": 2, "cells": 6}
    assert rho_of_sum(2.0, 4, **base) < rho_of_sum(1.9, 4, **base)
    assert rho_of_sum(2.0, 4, **base) < rho_of_sum(2.0, 3, **base)
    assert rho_of_sum(0.6, 4, moved=2, cells=6) < rho_of_sum(0.6, 4, moved=2, cells=13)


@pytest.mark.parametrize(("sigma", "honest"), [(0.49, 2), (0.0, 2), (float("nan"), 2), (1.0, 0)])
def test_where_the_proof_does_not_reach_there_is_no_figure(sigma: float, honest: int) -> None:
    with pytest.raises(InvalidParameter):
        rho_of_sum(sigma, honest, moved=1, cells=1)


def test_a_block_is_charged_what_the_sum_costs() -> None:
    plan = plan_choice_across(options=3, hospitals=5, epsilon=1.0)
    assert plan.nano_at(3.4) == nano_rdp_up(plan.rho, 3.4)
    assert plan.event.mechanism.rho == plan.rho and plan.event.adjacency == "swap"
    assert events.from_json(plan.event.to_json()) == plan.event


# --- the band ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.name}-{plan.hospitals}-{plan.epsilon:g}")
def test_the_band_holds_for_the_noise_of_all_hospitals(plan: AcrossPlan) -> None:
    noise = noise_of(plan.sigma, plan.hospitals)
    middle = len(noise) // 2
    inside = noise[middle - plan.band : middle + plan.band + 1].sum()
    assert inside >= 0.95
    assert noise[middle - plan.band + 2 : middle + plan.band - 1].sum() < 0.95, "and is no wider than it must be"


def test_what_is_drawn_has_the_distribution_that_is_claimed() -> None:
    """OpenDP's draws of three hospitals added up, against the exact probabilities of the sum (chi-square)."""
    plan = plan_count_across(hospitals=3, epsilon=3.0)
    draws = 20_000
    added = np.sum([plan.noise.release([0] * draws) for _ in range(plan.hospitals)], axis=0)
    noise = noise_of(plan.sigma, plan.hospitals)
    middle, reach = len(noise) // 2, 5
    expected = draws * noise[middle - reach : middle + reach + 1]
    seen = np.array([(added == value).sum() for value in range(-reach, reach + 1)])
    assert expected.min() > 20
    statistic = float(((seen - expected) ** 2 / expected).sum())
    assert statistic < 45, "ten degrees of freedom: by chance once in 500,000 times"
    assert abs(added.mean()) < 6 * math.sqrt(plan.hospitals) * plan.sigma / math.sqrt(draws)


# --- records and refusals ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("plan", PLANS[:3] + PLANS[-3:])
def test_a_plan_comes_back_from_its_record(plan: AcrossPlan) -> None:
    assert plan_of(json.loads(json.dumps(plan.to_event()))) == plan


@pytest.mark.parametrize(
    "change",
    [
        {"sigma": 0.6},
        {"hospitals": 4},
        {"colluders": 2},
        {"colluders": 0},
        {"epsilon": 0.5},
        {"band": 1},
        {"mechanism": COUNT},
        {"adjacency": "add_remove"},
        {"more": 1},
    ],
    ids=str,
)
def test_an_altered_record_is_refused(change: dict[str, Any]) -> None:
    record = plan_choice_across(options=3, hospitals=5, epsilon=1.0).to_event()
    with pytest.raises(InvalidParameter):
        plan_of({**record, **change})


def test_a_record_with_a_part_missing_is_refused() -> None:
    record = plan_choice_across(options=3, hospitals=5, epsilon=1.0).to_event()
    for name in record:
        with pytest.raises(InvalidParameter):
            plan_of({key: value for key, value in record.items() if key != name})


@pytest.mark.parametrize(
    "values",
    [
        {"hospitals": 2},
        {"hospitals": HOSPITALS[1] + 1},
        {"hospitals": True},
        {"hospitals": 3.0},
        {"colluders": 0},
        {"colluders": 2},
        {"colluders": -1},
        {"epsilon": 0.001},
        {"epsilon": 11.0},
        {"delta": 0.0},
        {"delta": 0.5},
        {"epsilon": float("nan")},
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        plan_count_across(**{"hospitals": 3, **values})
    with pytest.raises(InvalidParameter):
        plan_choice_across(**{"hospitals": 3, "options": 3, **values})


def test_the_names_are_those_of_the_sheets_and_of_no_other_plan() -> None:
    others: list[Plan] = [plan_count(), plan_choice(options=3), plan_keywords()]
    assert not {COUNT, CHOICE} & {plan.to_event()["mechanism"] for plan in others}
    assert plan_count_across(hospitals=3).cells == 1
    assert plan_choice_across(hospitals=3, options=12).cells == 13
