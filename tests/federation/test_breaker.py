"""The circuit breaker, on a clock that the test moves."""

from __future__ import annotations

import pytest

from federation.breaker import CircuitBreaker
from federation.network import Network


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(threshold=3, recovery_seconds=10, clock=clock)


def fail(breaker: CircuitBreaker, times: int) -> None:
    for _ in range(times):
        breaker.started()
        breaker.failed()


def test_it_stays_closed_below_the_threshold(breaker: CircuitBreaker) -> None:
    fail(breaker, 2)
    assert (breaker.state, breaker.allows()) == ("closed", True)


def test_it_opens_at_the_threshold(breaker: CircuitBreaker) -> None:
    fail(breaker, 3)
    assert (breaker.state, breaker.allows()) == ("open", False)


def test_only_failures_in_a_row_count(breaker: CircuitBreaker) -> None:
    fail(breaker, 2)
    breaker.succeeded()
    fail(breaker, 2)
    assert breaker.state == "closed"


def test_after_a_while_one_trial_may_go(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 9.9
    assert not breaker.allows()
    clock.now += 0.1
    assert (breaker.state, breaker.allows()) == ("half-open", True)
    assert breaker.allows(), "asking does not take the trial"
    assert breaker.started()
    assert not breaker.allows()
    assert not breaker.started(), "there is one trial"


def test_a_good_trial_closes_it(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 10
    breaker.started()
    breaker.succeeded()
    assert breaker.state == "closed"
    fail(breaker, 2)
    assert breaker.state == "closed", "the count starts again"


def test_a_bad_trial_opens_it_for_the_whole_time_again(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 10
    fail(breaker, 1)
    assert not breaker.allows()
    clock.now += 9.9
    assert not breaker.allows()
    clock.now += 0.1
    assert breaker.allows()


def test_a_trial_without_a_verdict_leaves_the_next_one_possible(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 10
    assert breaker.started()
    breaker.abandoned()
    assert (breaker.state, breaker.allows()) == ("half-open", True)


def test_a_call_from_before_that_fails_late_prolongs_the_pause(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 6
    breaker.failed()
    clock.now += 6
    assert not breaker.allows()


def test_the_network_never_loses_a_node_to_a_trial_that_was_stopped(clock: Clock) -> None:
    """A trial ended by the asker, or refused by an exhausted block, neither succeeded nor failed."""
    network = Network()
    network._breakers["northfield"] = breaker = CircuitBreaker(threshold=1, recovery_seconds=10, clock=clock)
    breaker.failed()
    clock.now += 10
    with pytest.raises(KeyboardInterrupt), network.using("northfield"):
        raise KeyboardInterrupt
    assert breaker.allows()


def test_the_network_does_not_end_another_calls_trial(clock: Clock) -> None:
    network = Network()
    network._breakers["northfield"] = breaker = CircuitBreaker(threshold=1, recovery_seconds=10, clock=clock)
    breaker.failed()
    clock.now += 10
    with network.using("northfield"):
        with network.using("northfield"):
            pass
        assert not breaker.allows(), "the first call is still the trial"
    assert breaker.allows()
