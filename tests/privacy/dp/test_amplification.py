"""Amplification: only with a scheme and the adjacency that a theorem exists for, and never by more than it says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit

from fdrouter.errors import InvalidParameter
from privacy.dp.accountant import DPConfig, PrivacyAccountant
from privacy.dp.amplification import PrivacyAmplifiedSampler, amplify
from tests.privacy.dp import exact

SEED: dict[str, Any] = {"population_size": 1_000_000, "sample_rate": 0.001, "base_epsilon": 1.0}


@pytest.mark.parametrize(("rate", "epsilon"), [(0.1, 0.159), (0.01, 0.0170), (0.001, 0.00172)])
@pytest.mark.parametrize(("scheme", "adjacency"), [("poisson", "add_remove"), ("without_replacement", "swap")])
def test_known_figures(rate: float, epsilon: float, scheme: Any, adjacency: Any) -> None:
    found = amplify(1.0, 1e-5, rate=rate, scheme=scheme, adjacency=adjacency)
    assert found[0] == pytest.approx(epsilon, rel=3e-3) and found[1] == pytest.approx(rate * 1e-5)


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-3, 50), st.floats(1e-6, 1))
def test_never_below_the_worst_sampled_query(epsilon: float, rate: float) -> None:
    """Randomised response about the one patient who may be in the sample meets the bound exactly."""
    found, _ = amplify(epsilon, rate=rate, scheme="poisson", adjacency="add_remove")
    inside, outside = expit(epsilon), expit(-epsilon)
    mixed = (1 - rate) * outside + rate * inside
    assert found >= math.log(mixed / outside) * (1 - 1e-12) - 1e-15
    assert found <= epsilon and found <= rate * math.expm1(epsilon) * (1 + 1e-9)


def test_the_call_of_the_quick_start_states_what_it_assumes() -> None:
    sampler = PrivacyAmplifiedSampler(**SEED)
    assert sampler.amplified_epsilon() == pytest.approx(0.00172, abs=1e-5) and sampler.amplified_delta() == 0.0
    assert (sampler.scheme, sampler.adjacency, sampler.unit) == ("poisson", "add_remove", "patient")
    said = " ".join(sampler.assumptions)
    assert all(word in said for word in ("patient", "add_remove", "Poisson", "fresh", "secret"))
    assert "poisson" in repr(sampler) and "add_remove" in repr(sampler)


@pytest.mark.parametrize("scheme", [None, "", "shuffle", "top_k", 1, True])
def test_without_a_scheme_nothing_is_amplified(scheme: Any) -> None:
    with pytest.raises(InvalidParameter) as refused:
        amplify(1.0, rate=0.1, scheme=scheme, adjacency="add_remove")
    assert refused.value.details["field"] == "scheme"
    with pytest.raises(InvalidParameter) as refused:
        PrivacyAmplifiedSampler(**SEED, scheme=scheme)
    assert refused.value.details["field"] == "scheme"


@pytest.mark.parametrize(
    ("scheme", "adjacency"),
    [("poisson", "swap"), ("without_replacement", "add_remove"), ("poisson", None), ("poisson", "x")],
)
def test_a_pair_without_a_theorem_is_refused(scheme: Any, adjacency: Any) -> None:
    with pytest.raises(InvalidParameter) as refused:
        amplify(1.0, rate=0.1, scheme=scheme, adjacency=adjacency)
    assert refused.value.details["field"] == "adjacency"
    if adjacency is not None:
        with pytest.raises(InvalidParameter):
            PrivacyAmplifiedSampler(**SEED, scheme=scheme, adjacency=adjacency)


@pytest.mark.parametrize("field", [*SEED, "base_delta"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -1, True, "1", 1e12])
def test_bad_values_are_refused(field: str, bad: Any) -> None:
    with pytest.raises(InvalidParameter) as refused:
        PrivacyAmplifiedSampler(**{**SEED, field: bad})
    assert refused.value.details["field"] in (field, field.removeprefix("base_"))


@pytest.mark.parametrize(
    "changes",
    [{"population_size": 0}, {"sample_rate": 0}, {"population_size": 100, "scheme": "without_replacement"}],
    ids=str,
)
def test_a_sample_of_nobody_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        PrivacyAmplifiedSampler(**{**SEED, **changes})


def test_a_fixed_size_counts_and_not_the_rate_asked_for() -> None:
    sampler = PrivacyAmplifiedSampler(10, 0.27, 1.0, scheme="without_replacement")
    assert sampler.amplified_epsilon() == pytest.approx(math.log1p(0.2 * math.expm1(1.0)))
    assert sampler.adjacency == "swap" and "exactly 2 of 10" in sampler.assumptions[1]
    drawn = [sampler.sample() for _ in range(400)]
    assert all(
        len(set(sample)) == 2 and sample == sorted(sample) and 0 <= sample[0] and sample[1] < 10 for sample in drawn
    )
    assert min(np.bincount(np.ravel(drawn), minlength=10)) > 30


def test_a_poisson_sample_has_a_random_size_and_everybody_the_same_chance() -> None:
    sampler = PrivacyAmplifiedSampler(200, 0.1, 1.0)
    drawn = [sampler.sample() for _ in range(500)]
    sizes = [len(sample) for sample in drawn]
    assert np.var(sizes) == pytest.approx(200 * 0.1 * 0.9, rel=0.45)
    seen = np.bincount(np.concatenate([np.array(sample, dtype=int) for sample in drawn]), minlength=200)
    low, high = stats.binom.interval(1 - 1e-10, 500, 0.1)
    assert low <= seen.min() and seen.max() <= high
    assert PrivacyAmplifiedSampler(50, 1, 1.0).sample() == list(range(50))


def test_amplified_queries_compose() -> None:
    sampler = PrivacyAmplifiedSampler(1000, 0.1, 1.0, base_delta=1e-7)
    accountant = PrivacyAccountant(DPConfig(epsilon_per_query=0.1), composition="advanced").compose(sampler.event, 20)
    assert exact.pure(sampler.amplified_epsilon(), 20, accountant.epsilon(), sampler.amplified_delta()) <= 1e-5
    with pytest.raises(InvalidParameter):
        PrivacyAccountant(DPConfig(epsilon_per_query=0.1, adjacency="swap"), composition="basic").compose(sampler.event)
