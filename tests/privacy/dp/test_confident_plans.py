"""A choice behind a check: what check and histogram cost, and that the check's law is what the cost is stated for."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdrouter.errors import InvalidParameter
from privacy.dp import accounting
from privacy.dp.cohort_plans import plan_choice, plan_of
from privacy.dp.confident_plans import CHECK_SHARE, ConfidentChoicePlan, plan_confident_choice

PLAN = plan_confident_choice(options=3, threshold=40, epsilon=1.0)


@settings(deadline=None, max_examples=60)
@given(st.floats(0.01, 10))
def test_check_and_histogram_together_cost_no_more_than_claimed(epsilon: float) -> None:
    plan = plan_confident_choice(options=4, threshold=20, epsilon=epsilon)
    assert accounting.epsilon_of_rho(plan.rho, plan.delta) <= epsilon
    check, histogram = plan.check_event.mechanism.rho, plan.noise.event.mechanism.rho
    assert check is not None and histogram is not None and plan.rho >= check + histogram
    assert 0 < plan.nano_of_check(3.4) < plan.nano_at(3.4)
    assert plan.check_rho / plan.rho == pytest.approx(CHECK_SHARE, rel=1e-6)


def test_the_histogram_is_a_little_noisier_than_without_a_check() -> None:
    assert plan_choice(options=3, epsilon=1.0).sigma / PLAN.sigma == pytest.approx(math.sqrt(1 - CHECK_SHARE), rel=1e-6)


def renyi_of_shifted(sigma: float, alpha: float) -> float:
    """Exact Renyi divergence between a discrete Gaussian and the same moved by 1."""
    at = np.arange(-600, 601)
    weights = np.exp(-(at.astype(float) ** 2) / (2 * sigma**2))
    mass = weights / weights.sum()
    # (x-1)^2 against x^2: the ratio of the two is e^((2x - 1) / (2 sigma^2)).
    log_ratio = (2 * at - 1) / (2 * sigma**2)
    return float(np.log(np.sum(mass * np.exp(alpha * log_ratio))) / (alpha - 1))


@pytest.mark.parametrize("alpha", [1.5, 3.4, 8.0])
def test_the_check_of_neighbours_differs_by_no_more_than_its_cost(alpha: float) -> None:
    assert 0.9 * alpha * PLAN.check_rho < renyi_of_shifted(PLAN.check_sigma, alpha) <= alpha * PLAN.check_rho
    assert renyi_of_shifted(PLAN.check_sigma / 2, alpha) > alpha * PLAN.check_rho  # half of the noise is found out


def test_the_check_lets_agreement_through_and_holds_its_absence_back() -> None:
    far = math.ceil(8 * PLAN.check_sigma)
    assert all(PLAN.passes([40 + far, 0, 0]) for _ in range(50))
    assert not any(PLAN.passes([40 - far, 0, 0]) for _ in range(50))
    tied = sum(PLAN.passes([40, 3, 3]) for _ in range(400))
    assert 120 < tied < 280  # at the threshold the noise decides


def test_a_stored_plan_is_read_back_and_an_altered_one_refused() -> None:
    stored = json.loads(json.dumps(PLAN.to_event()))
    assert plan_of(stored) == PLAN
    for name in ("check_sigma", "sigma", "epsilon", "band"):
        with pytest.raises(InvalidParameter):
            plan_of(stored | {name: stored[name] * 2})
    with pytest.raises(InvalidParameter):
        plan_of({**stored, "threshold": None})


@pytest.mark.parametrize("threshold", [0, -1, 1.5, True, 10**7])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(InvalidParameter, match="threshold"):
        plan_confident_choice(options=3, threshold=threshold)  # type: ignore[arg-type]


def test_a_plan_with_less_noise_costs_more() -> None:
    cheat: ConfidentChoicePlan = replace(PLAN, check_sigma=PLAN.check_sigma / 2)
    assert cheat.rho > PLAN.rho and cheat.nano_of_check(3.4) > PLAN.nano_of_check(3.4)
