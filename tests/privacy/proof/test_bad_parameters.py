"""Parameters that would promise something false: refused with the field's name, and never an epsilon that is too small.

``tests/privacy/dp`` tests each module's own doors; here are the ways past them, and properties over what gets in.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from benchmarks.dp import mutants, renyi
from fdrouter.errors import InvalidParameter
from privacy.dp.accountant import DPConfig, PrivacyAccountant
from privacy.dp.accounting import BLOCK_ORDERS, epsilon_of_nano, nano_rdp_up
from privacy.dp.amplification import PrivacyAmplifiedSampler, amplify
from privacy.dp.calibration import noise_for
from privacy.dp.cohort_plans import plan_choice, plan_count, plan_keywords
from privacy.dp.composition import Composition, composed
from privacy.dp.decoding import TokenMechanism
from privacy.dp.events import Event, claim
from privacy.dp.mechanisms import MAX_SCORE, NoisyHistogram, Selection, bounded_sum
from privacy.dp.releases import Gaussian
from privacy.dp.text_plan import plan_text
from tests.privacy.dp import exact

DELTA = 1e-5
WAYS: tuple[Composition, ...] = ("basic", "advanced", "rdp", "pld", "zcdp")
OFF_THE_GRID = [1.0, 0.5, 0.0, -3.4, 1.05, 3.456, 300.0, 1e9, math.nan, math.inf, True, "3.4", None]


def refused(call: Any, *fields: str) -> None:
    with pytest.raises(InvalidParameter) as error:
        call()
    assert error.value.details["field"] in fields
    assert error.value.message[0].isupper() or error.value.message.split()[0] in fields


# --- amplification ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("scheme", [None, "", "shuffle", "topk", "Poisson"])
def test_an_amplified_figure_without_a_scheme_reaches_no_accountant(scheme: Any) -> None:
    refused(lambda: amplify(1.0, rate=0.1, scheme=scheme, adjacency="add_remove"), "scheme")
    refused(lambda: PrivacyAmplifiedSampler(1000, 0.1, 1.0, scheme=scheme).event, "scheme")


@settings(max_examples=80, deadline=None)
@given(st.integers(2, 12), st.data())
def test_a_sample_without_replacement_is_never_amplified_too_far(population: int, data: st.DataObject) -> None:
    """Randomised response on whether the first patient of a fixed-size sample has a trait: its exact epsilon."""
    size = data.draw(st.integers(1, population))
    epsilon = data.draw(st.floats(1e-3, 20))
    sampler = PrivacyAmplifiedSampler(population, size / population, epsilon, scheme="without_replacement")
    drawn = len(sampler.sample())
    share = drawn / population
    with_trait = share * expit(epsilon) + (1 - share) * expit(-epsilon)
    assert sampler.amplified_epsilon() >= math.log(with_trait / expit(-epsilon)) * (1 - 1e-12) - 1e-15
    assert drawn <= size + 1e-9 and sampler.amplified_epsilon() <= epsilon


@given(st.floats(1e-3, 5), st.floats(1e-6, 1), st.floats(1e-15, 0.1))
def test_an_amplified_delta_is_rounded_up_and_stays_in_the_claim(epsilon: float, rate: float, delta: float) -> None:
    smaller, found = amplify(epsilon, delta, rate=rate, scheme="poisson", adjacency="add_remove")
    assert found >= rate * delta and found <= delta * (1 + 1e-12) and 0 < smaller <= epsilon
    sampler = PrivacyAmplifiedSampler(1000, rate, epsilon, base_delta=delta)
    assert sampler.event.mechanism.delta == found  # type: ignore[union-attr]


# --- units and adjacency ----------------------------------------------------------------------------------------------
UNITS = st.sampled_from(["patient", "note", "user", "hospital"])
ADJACENCIES = st.sampled_from(["add_remove", "swap"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(UNITS, ADJACENCIES), min_size=2, max_size=6), st.sampled_from(WAYS))
def test_epsilons_of_one_kind_add_up_and_others_never_do(kinds: list[tuple[Any, Any]], way: Composition) -> None:
    parts = [(claim(0.1, unit=unit, adjacency=adjacency), 1) for unit, adjacency in kinds]
    if len(set(kinds)) == 1:
        assert composed(parts, DELTA, way) > 0
    else:
        refused(lambda: composed(parts, DELTA, way), "unit", "adjacency")


def test_a_users_allowance_is_not_an_accountants_patient() -> None:
    accountant = PrivacyAccountant(DPConfig(epsilon_per_query=0.5, unit="user")).record_query(3)
    refused(lambda: accountant.compose(plan_count(epsilon=0.5).event), "unit")
    assert accountant.guarantee().unit == "user" and "one user" in str(accountant.guarantee())


# --- deltas -----------------------------------------------------------------------------------------------------------
def exact_delta(claims: list[tuple[float, float]], epsilon: float) -> float:
    """The worst releases with these claims, composed (Murtagh and Vadhan, arXiv 1507.03113), outcome by outcome."""
    inner = 0.0
    for signs in itertools.product((1, -1), repeat=len(claims)):
        loss = sum(sign * e for sign, (e, _) in zip(signs, claims, strict=True))
        chance = math.prod(float(expit(sign * e)) for sign, (e, _) in zip(signs, claims, strict=True))
        inner += chance * max(0.0, -math.expm1(epsilon - loss))
    kept = math.prod(1 - delta for _, delta in claims)
    return 1 - kept * (1 - inner)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.01, 2), st.floats(1e-9, 3e-6)), min_size=1, max_size=6),
    st.sampled_from(["basic", "advanced", "pld"]),
)
def test_claims_with_unequal_deltas_never_add_up_to_too_little(
    claims: list[tuple[float, float]], way: Composition
) -> None:
    parts = [(claim(epsilon, delta), 1) for epsilon, delta in claims]
    if math.fsum(delta for _, delta in claims) > DELTA:
        refused(lambda: composed(parts, DELTA, way), "delta")
        return
    assert exact_delta(claims, composed(parts, DELTA, way)) <= DELTA * (1 + 1e-9)


@pytest.mark.parametrize("way", ["rdp", "zcdp"])
def test_a_way_without_deltas_refuses_a_claim_that_has_one(way: Composition) -> None:
    refused(lambda: composed([(claim(0.1, 1e-9), 1), (Event(Gaussian(3.0)), 1)], DELTA, way), "composition")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", [-1, -(10**6), 0.5, 1.0, math.nan, math.inf, True, "2", None, 10**400], ids=repr)
def test_releases_are_counted_in_whole_numbers(way: Composition, count: Any) -> None:
    """A negative count would take epsilon off, a fraction shrink it, and one that is no number make it vanish."""
    refused(lambda: composed([(claim(0.1), 5), (claim(0.2), count)], DELTA, way), "count")


# --- orders -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("alpha", OFF_THE_GRID, ids=repr)
def test_no_charge_and_no_figure_at_an_order_off_the_grid(alpha: Any) -> None:
    refused(lambda: nano_rdp_up(0.1, alpha), "alpha")
    refused(lambda: epsilon_of_nano(10**9, alpha, DELTA), "alpha")
    plans = plan_text(), plan_count(), plan_choice(options=3), plan_keywords()
    for plan in plans:
        refused(lambda plan=plan: plan.nano_at(alpha), "alpha")


@pytest.mark.parametrize("nano", [math.nan, math.inf, 1e9, True, "1", None], ids=repr)
def test_what_was_spent_is_a_whole_number_or_no_figure_is_given(nano: Any) -> None:
    refused(lambda: epsilon_of_nano(nano, 3.4, DELTA), "nano")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(BLOCK_ORDERS), st.integers(1, 10**10), st.floats(1e-10, 1e-3))
def test_the_figure_of_a_block_is_never_below_the_conversion(alpha: float, nano: int, delta: float) -> None:
    true = nano / 1e9 + math.log1p(-1 / alpha) - math.log(delta * alpha) / (alpha - 1)
    assert epsilon_of_nano(nano, alpha, delta) >= max(0.0, true)


# --- calibration ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fixed", [0.5, 2.0])
def test_a_cost_that_does_not_depend_on_the_noise_is_refused_and_not_searched_for_ever(fixed: float) -> None:
    refused(lambda: noise_for(lambda _: claim(fixed), 1.0, DELTA, composition="basic"), "epsilon")


# --- sums -------------------------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(2**70), 2**70), min_size=1, max_size=4), st.integers(1, 10**6))
def test_numbers_of_any_size_are_cut_or_refused_and_never_wrap_around(values: list[int], step: int) -> None:
    try:
        total = bounded_sum([values], max_cells=len(values), max_per_cell=step)
    except InvalidParameter as error:
        assert error.details["field"] == "rows"
        assert any(not -(2**63) <= value < 2**64 for value in values) or max(values) >= 2**63
        return
    assert total.tolist() == [min(max(value, 0), step) for value in values]


def test_scores_of_a_text_cannot_leave_32_bits() -> None:
    """As many patients as a plan may have, all shouting, over public rows with impossible tokens."""
    plan = plan_text(epsilon=10, contexts=128, max_tokens=96)
    mechanism = TokenMechanism(plan.clip, plan.tau, plan.contexts, plan.top_k, 2, plan.rho_per_token)
    public = np.array([0.0, -1e3, -1e300, -700.0])
    for sign in (1, -1):
        total = mechanism.parts(public, np.full((plan.contexts, 4), sign * np.inf)).sum(axis=0)
        scores = mechanism.scores(public, total)
        assert np.abs(scores).max() < 2**31 - 1
        assert 0 <= mechanism.draw(scores) < 4


@pytest.mark.parametrize("edge", [MAX_SCORE, -MAX_SCORE])
def test_scores_and_counts_at_the_edge_are_drawn_from_without_wrapping(edge: int) -> None:
    picked = Selection(1.0, picks=1).choose([edge, 0])
    assert picked == ([0] if edge > 0 else [1])
    noisy = NoisyHistogram("discrete_gaussian", 1e3, "swap").release([2**53, -(2**53)])
    assert abs(noisy[0] - 2**53) < 1e5 and abs(noisy[1] + 2**53) < 1e5


# --- nobody, and one --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("adjacency", ["swap", "add_remove"])
def test_a_text_over_nobody_is_the_public_models_and_over_one_patient_is_within_the_charge(adjacency: Any) -> None:
    mechanism = mutants.made(TokenMechanism, adjacency)
    public = mutants.some_public()
    nobody = np.zeros((0, public.size))
    silent = renyi.law(mechanism, public, public[None])
    assert (renyi.law(mechanism, public, nobody) == silent).all(), "an empty slot is a public row"
    for name, row in renyi.hostile_rows(public, mechanism.clip, 3).items():
        pair = renyi.Neighbours(name, public, row[None], nobody if adjacency == "add_remove" else public[None])
        assert renyi.violation(mechanism, [pair]) is None


def test_a_count_over_nobody_is_as_noisy_as_any() -> None:
    drawn = plan_count(epsilon=0.5).noise.release([0] * 400)
    assert min(drawn) < 0 < max(drawn)
    assert exact.pure(0.5, 1, plan_count(epsilon=0.5).epsilon) <= 1e-12
