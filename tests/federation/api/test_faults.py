"""Engines that break, and databases that go away: the right error, the charge that rule 7 asks for, nothing lost."""

from __future__ import annotations

import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from compliance.models import Event
from federation.models import Inference
from federation.states import InferenceState
from privacy.models import Reservation, ReservationState
from tests.federation.api.backend import ANSWER, WORDS
from tests.federation.api.stack import LEASE_SECONDS, NODE_READ_SECONDS, Person, Stack, until

RECOVERY_SECONDS = 4 * LEASE_SECONDS + 10


def check_end(stack: Stack, person: Person, code: str, *, charged: bool) -> Inference:
    """Row, ledger and evidence of the person's only request agree."""
    row = stack.ended(person)
    assert (row.state, row.reason, row.details["charged"]) == (InferenceState.FAILED, code, charged)
    state = ReservationState.SETTLED if charged else ReservationState.RELEASED
    assert Reservation.objects.get(pk=row.pk).state == state
    assert person.used() == int(charged)
    kinds = set(Event.objects.filter(subject=row.pk).values_list("kind", flat=True))
    assert {"request.submit", "ledger.reserve", "request.fail"} <= kinds
    assert ("ledger.settle" in kinds, "ledger.release" in kinds) == (charged, not charged)
    return row


# --- engines ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stream", [False, True])
def test_a_node_that_is_down_costs_nothing(stack: Stack, ada: Person, stream: bool) -> None:
    response = stack.ask(ada, "refusing", stream=stream)
    assert response.status_code == 503
    error = response.json()["error"]
    assert (error["code"], error["type"], error["details"]["charged"]) == ("no_node", "server_error", False)
    row = check_end(stack, ada, "no_node", charged=False)
    assert error["details"]["id"] == str(row.pk)


@pytest.mark.parametrize("model", ["error", "garbage", "shapeless", "truncated"])
def test_an_engine_that_answers_nonsense_is_a_502_and_stays_charged(stack: Stack, ada: Person, model: str) -> None:
    response = stack.ask(ada, model)
    assert response.status_code == 502
    error = response.json()["error"]
    assert (error["code"], error["details"]["charged"]) == ("node_failed", True)
    assert "deadbeef" not in response.text
    check_end(stack, ada, "node_failed", charged=True)


def test_an_engine_that_stalls_is_a_504_and_stays_charged(stack: Stack, ada: Person) -> None:
    begun = time.monotonic()
    response = stack.ask(ada, "stalling")
    assert NODE_READ_SECONDS <= time.monotonic() - begun < NODE_READ_SECONDS + 8
    assert response.status_code == 504
    assert response.json()["error"]["code"] == "node_timeout"
    check_end(stack, ada, "node_timeout", charged=True)


def test_a_stream_that_dies_ends_with_an_error_event(stack: Stack, ada: Person) -> None:
    response = stack.ask(ada, "dying", stream=True)
    assert response.status_code == 200
    assert WORDS[0].strip() in response.text
    assert "[DONE]" not in response.text
    last = response.text.strip().rpartition("data: ")[2]
    assert '"code":"node_failed"' in last
    assert '"charged":true' in last
    check_end(stack, ada, "node_failed", charged=True)


def test_a_stream_that_fails_before_it_starts_has_the_right_status(stack: Stack, ada: Person) -> None:
    assert stack.ask(ada, "error", stream=True).status_code == 502
    check_end(stack, ada, "node_failed", charged=True)


def test_one_breaking_request_does_not_disturb_the_others(stack: Stack, ada: Person) -> None:
    people = [stack.person() for _ in range(3)]
    with ThreadPoolExecutor(4) as pool:
        broken = pool.submit(stack.ask, ada, "dying", stream=True)
        fine = [pool.submit(stack.ask, person) for person in people]
    assert [future.result().status_code for future in fine] == [200] * 3
    assert "node_failed" in broken.result().text


# --- stopping -----------------------------------------------------------------------------------------------------
def test_a_request_that_is_stopped_stays_charged_and_ends(stack: Stack, ada: Person) -> None:
    calls = stack.backend.calls["gated"]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(stack.ask, ada, "gated", stream=True)
        until(lambda: stack.backend.calls["gated"] > calls)
        (row,) = stack.rows(ada)
        assert stack.api(ada, "DELETE", f"inferences/{row.pk}").status_code == 202
        text = asked.result().text
    assert '"cancelled"' in text
    ended = stack.ended(ada)
    assert ended.state == InferenceState.CANCELLED
    assert Reservation.objects.get(pk=ended.pk).state == ReservationState.SETTLED


# --- Redis --------------------------------------------------------------------------------------------------------
def test_without_redis_a_request_is_kept_and_answered_by_the_sweep(stack: Stack, ada: Person) -> None:
    """The broker cannot be told; the row is durable, and the worker finds it when its first lease runs out."""
    with stack.without_redis():
        begun = time.monotonic()
        response = stack.ask(ada)
        waited = time.monotonic() - begun
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == ANSWER
    assert waited < RECOVERY_SECONDS
    assert stack.ended(ada).attempt == 1
    assert ada.used() == 1
    assert stack.ask(stack.person()).status_code == 200


def test_without_redis_the_coordinator_stays_responsive(stack: Stack, ada: Person) -> None:
    """A broker that refuses must not hold up the event loop that everybody shares."""
    slowest = 0.0
    with stack.without_redis(), ThreadPoolExecutor(1) as pool, stack.http(ada) as client:
        asked = pool.submit(stack.ask, ada)
        while not asked.done():
            begun = time.monotonic()
            assert client.get("/health").status_code == 200
            slowest = max(slowest, time.monotonic() - begun)
            time.sleep(0.05)
    assert asked.result().status_code == 200
    assert slowest < 3.0


def test_redis_that_restarts_in_the_middle_loses_no_answer(stack: Stack, ada: Person) -> None:
    calls = stack.backend.calls["gated"]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(stack.ask, ada, "gated", stream=True)
        until(lambda: stack.backend.calls["gated"] > calls)
        with stack.without_redis():
            stack.backend.gate.set()
            response: httpx.Response = asked.result()
    assert response.status_code == 200
    assert "".join(_contents(response.text)) == ANSWER
    assert ada.used() == 1


def _contents(text: str) -> list[str]:
    import json

    events = [json.loads(line[5:]) for line in text.splitlines() if line.startswith("data: {")]
    return [event["choices"][0]["delta"].get("content", "") for event in events]


def test_stopping_works_without_redis(stack: Stack, ada: Person) -> None:
    """The wish is in the table; nobody can be told in the middle, so the answer may still come."""
    calls = stack.backend.calls["gated"]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(stack.ask, ada, "gated")
        until(lambda: stack.backend.calls["gated"] > calls)
        with stack.without_redis():
            (row,) = stack.rows(ada)
            assert stack.api(ada, "DELETE", f"inferences/{row.pk}").status_code == 202
        stack.backend.gate.set()
        asked.result()
    assert stack.ended(ada).cancel_requested_at is not None


# --- PostgreSQL ---------------------------------------------------------------------------------------------------
def test_a_database_that_restarts_between_requests_is_noticed_by_nobody(stack: Stack) -> None:
    """Every connection that any thread kept is dead afterwards: new people, pages and answers must work again."""
    for person in (stack.person() for _ in range(6)):  # every thread has had a connection
        assert stack.ask(person).status_code == 200
    stack.database.restart()
    newcomers = [stack.person() for _ in range(8)]
    begun = time.monotonic()
    assert [stack.ask(person).status_code for person in newcomers] == [200] * 8
    assert [stack.api(person, "GET", "me").status_code for person in newcomers] == [200] * 8
    assert time.monotonic() - begun < RECOVERY_SECONDS
    assert {row.attempt for person in newcomers for row in stack.rows(person)} == {1}


def test_a_database_that_restarts_in_the_middle_costs_time_and_no_answer(stack: Stack, ada: Person) -> None:
    calls = stack.backend.calls["gated"]
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(stack.ask, ada, "gated", privacy={"idempotency_key": str(uuid.uuid4())})
        until(lambda: stack.backend.calls["gated"] > calls)
        stack.database.restart()
        stack.backend.gate.set()
        response = asked.result()
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == ANSWER
    assert stack.ended(ada).state == InferenceState.DONE
    assert ada.used() == 1


def test_a_worker_that_dies_is_replaced_by_another_attempt(stack: Stack, ada: Person) -> None:
    calls = stack.backend.calls["gated"]
    part = stack.fleet.running["worker"].part
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(stack.ask, ada, "gated")
        until(lambda: stack.backend.calls["gated"] > calls)
        stack.fleet.stop("worker", kill=True)
        stack.backend.gate.set()
        stack.fleet.start(part)
        stack.fleet.wait_healthy("worker")
        response = asked.result()
    assert response.status_code == 200
    row = stack.ended(ada)
    assert (row.state, row.attempt) == (InferenceState.DONE, 2)
    assert ada.used() == 1


def test_many_at_once_are_all_answered(stack: Stack) -> None:
    people = [stack.person() for _ in range(4)]
    barrier = threading.Barrier(12)

    def ask(n: int) -> Any:
        barrier.wait()
        return stack.ask(people[n % 4], stream=bool(n % 2))

    with ThreadPoolExecutor(12) as pool:
        responses = list(pool.map(ask, range(12)))
    assert [response.status_code for response in responses] == [200] * 12
    assert [person.used() for person in people] == [3] * 4
