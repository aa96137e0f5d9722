"""The empirical audit can tell a mechanism from a broken one; the whole table is ``make audit-dp``."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.dp import audit


@pytest.mark.parametrize(("make", "noise"), [(audit.count, 0.4), (audit.choice, 0.25)])
def test_too_little_noise_is_found_out(make: audit.Maker, noise: float) -> None:
    assert audit.lower_bound(make(noise), 6_000) > make(noise).epsilon


def test_enough_noise_is_not_accused() -> None:
    assert 0 <= audit.lower_bound(audit.choice(1.0), 6_000) < 1.0


def test_an_event_proves_what_a_calculation_by_hand_says() -> None:
    pure = audit.Case("pure", 1.0, 0.0, lambda other, n: np.zeros(n))
    assert audit.proved(0.6, 0.3, pure) == pytest.approx(0.6931, abs=1e-4)
    assert audit.proved(0.3, 0.6, pure) == 0.0
    # coins of 1/2 and 1/4 at order 2: ln(1/4 / 1/4 + 1/4 / 3/4)
    assert audit.binary_divergence(0.5, 0.25, 2.0) == pytest.approx(0.28768, abs=1e-5)
