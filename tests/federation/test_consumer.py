"""The WebSocket of the Ask page, over a real connection: who may speak, what is answered, what is refused."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from accounts.models import ApiToken, Membership, Role
from federation import outcome
from federation.states import InferenceState
from tests.federation.api.backend import ANSWER, WORDS
from tests.federation.api.stack import Person, Stack, until

ERROR_FIELDS = {"type", "id", "code", "message", "details", "charged"}


class Page:
    """One open connection."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    def send(self, message: Any) -> None:
        self._socket.send(message if isinstance(message, str | bytes) else json.dumps(message))

    def ask(self, **values: Any) -> None:
        self.send({"type": "ask", "kind": "general", "model": "steady", "prompt": "How does aspirin work?", **values})

    def next(self, timeout: float = 15.0) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._socket.recv(timeout))
        return message

    def until(self, kind: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The first message of this type, and those before it."""
        before = []
        while (message := self.next())["type"] != kind:
            assert message["type"] != "error", message
            before.append(message)
        return message, before

    def error(self, code: str) -> dict[str, Any]:
        message = self.next()
        assert message["type"] == "error", message
        assert set(message) == ERROR_FIELDS
        assert message["code"] == code
        return message


@contextmanager
def page(stack: Stack, person: Person | None, **options: Any) -> Iterator[Page]:
    headers = {"Cookie": stack.cookie(person.user)} if person else {}
    url = stack.url.replace("http", "ws") + "/ws/ask"
    options = {"origin": stack.url, "additional_headers": headers, **options}
    with connect(url, proxy=None, **options) as socket:
        yield Page(socket)


# --- who ----------------------------------------------------------------------------------------------------------
def test_signed_out_the_connection_is_closed_with_its_own_code(stack: Stack) -> None:
    with page(stack, None) as anonymous, pytest.raises(ConnectionClosed) as closed:
        anonymous.next()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401


def test_what_a_signed_out_client_sends_is_not_heard(stack: Stack) -> None:
    with page(stack, None) as anonymous, pytest.raises(ConnectionClosed) as closed:
        anonymous.ask()
        anonymous.send({"type": "resume", "id": str(uuid.uuid4())})
        while True:
            anonymous.next()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 4401


def test_another_sites_page_cannot_connect(stack: Stack, ada: Person) -> None:
    with pytest.raises(InvalidStatus) as refused, page(stack, ada, origin="https://evil.example"):
        pass
    assert refused.value.response.status_code == 403


def test_a_post_that_ended_is_noticed_on_an_open_connection(stack: Stack, ada: Person) -> None:
    with page(stack, ada) as ask:
        ask.ask()
        ask.until("done")
        Membership.objects.filter(user=ada.user).update(active=False)
        ask.ask()
        with pytest.raises(ConnectionClosed) as closed:
            ask.next()
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 4401
    assert len(stack.rows(ada)) == 1
    assert ApiToken.objects.filter(membership__user=ada.user).exists()


def test_an_officer_is_denied(stack: Stack) -> None:
    with page(stack, stack.person(Role.PRIVACY_OFFICER)) as ask:
        ask.ask()
        assert ask.error("policy_denied")["charged"] is False


# --- asking -------------------------------------------------------------------------------------------------------
def test_an_answer_comes_word_by_word_and_then_whole(stack: Stack, ada: Person) -> None:
    key = str(uuid.uuid4())
    with page(stack, ada) as ask:
        ask.ask(hospitals=["northfield"], patient="", epsilon=None, purpose="HQUALIMP", idempotency_key=key)
        accepted = ask.next()
        done, before = ask.until("done")
    (row,) = stack.rows(ada)
    assert accepted == {
        "type": "accepted",
        "id": str(row.pk),
        "kind": "general",
        "chosen": None,
        "epsilon": 0.0,
        "delta": 0.0,
        "expected_seconds": 5,
    }
    assert [message["text"] for message in before if message["type"] == "delta"] == list(WORDS)
    assert (done["id"], done["answer"]) == (str(row.pk), ANSWER)
    assert done["node"] == {"id": "engine-steady", "name": "Engine steady"}
    assert done["usage"] == {"prompt_tokens": 9, "completion_tokens": 4}
    assert done["privacy"] == outcome.result_of(row)["privacy"]
    assert (row.channel, row.purpose, row.idempotency_key) == ("web", "HQUALIMP", key)


def test_several_hospitals_are_asked_together_only_on_request(stack: Stack, ada: Person) -> None:
    with page(stack, ada) as ask:
        ask.ask(kind="cohort.count", across=True)
        error = ask.error("no_node")
        assert "At least three hospitals" in error["message"] and error["charged"] is False
        ask.ask(kind="cohort.count", across="yes")
        ask.error("invalid_parameter")
        ask.ask(kind="cohort.keywords", across=True)
        ask.error("invalid_parameter")
    assert stack.rows(ada) == []


def test_a_cohort_question_says_its_cost_when_it_is_accepted(stack: Stack, ada: Person) -> None:
    """No node over records is in this network, so the request itself fails, free of charge."""
    with page(stack, ada) as ask:
        ask.ask(kind="cohort.text", epsilon=3.0)
        accepted = ask.next()
        assert (accepted["type"], accepted["epsilon"], accepted["delta"]) == ("accepted", 3.0, 1e-5)
        assert accepted["expected_seconds"] > 5
        failed = ask.error("no_node")
    assert (failed["id"], failed["charged"]) == (accepted["id"], False)
    assert stack.ended(ada).state == InferenceState.FAILED


def test_a_failure_names_the_request_and_says_that_it_stays_charged(stack: Stack, ada: Person) -> None:
    with page(stack, ada) as ask:
        ask.ask(model="dying")
        accepted, _ = ask.until("accepted")
        assert ask.next()["type"] == "delta"
        failed = ask.error("node_failed")
    assert (failed["id"], failed["charged"]) == (accepted["id"], True)
    assert failed["message"] == "The hospital's node failed to answer."


def test_the_same_key_twice_gives_the_stored_answer(stack: Stack, ada: Person) -> None:
    key = str(uuid.uuid4())
    with page(stack, ada) as ask:
        ask.ask(idempotency_key=key)
        first, _ = ask.until("done")
        ask.ask(idempotency_key=key)
        again, before = ask.until("done")
        ask.ask(idempotency_key=key, prompt="Something else")
        ask.error("idempotency_conflict")
    assert [message["type"] for message in before] == ["accepted"]
    assert again == first
    assert ada.used() == 1


def test_only_so_many_answers_at_a_time(stack: Stack, ada: Person) -> None:
    with page(stack, ada) as ask:
        for _ in range(4):
            ask.ask(model="gated")
        until(lambda: len(stack.rows(ada)) == 4)
        ask.ask(model="gated")
        messages = []
        while (message := ask.next())["type"] != "error":
            messages.append(message)
        assert message["code"] == "invalid_parameter"
        stack.backend.gate.set()
        while sum(message["type"] == "done" for message in messages) < 4:
            messages.append(ask.next())
    assert {message["type"] for message in messages} == {"accepted", "delta", "done"}
    assert len(stack.rows(ada)) == 4


# --- stopping and coming back -------------------------------------------------------------------------------------
def test_stopping(stack: Stack, ada: Person) -> None:
    with page(stack, ada) as ask:
        ask.ask(model="gated")
        accepted, _ = ask.until("accepted")
        ask.until("delta")
        ask.send({"type": "cancel", "id": accepted["id"]})
        stopped = ask.error("cancelled")
    assert (stopped["id"], stopped["charged"], stopped["message"]) == (accepted["id"], True, "The request was stopped.")
    assert stack.ended(ada).state == InferenceState.CANCELLED


def test_an_answer_outlives_the_page_and_a_new_one_resumes_it(stack: Stack, ada: Person) -> None:
    with page(stack, ada) as ask:
        ask.ask(model="gated")
        accepted, _ = ask.until("accepted")
        ask.until("delta")
    with page(stack, ada) as again:
        again.send({"type": "resume", "id": accepted["id"]})
        again.send({"type": "resume", "id": accepted["id"]})  # twice is once
        again.send({"type": "nonsense"})  # its error says that both have been heard
        again.error("invalid_parameter")
        stack.backend.gate.set()
        done, before = again.until("done")
        assert (done["answer"], before) == (ANSWER, [])
        again.send({"type": "nonsense"})
        again.error("invalid_parameter")
    with page(stack, ada) as later:
        later.send({"type": "resume", "id": accepted["id"]})
        done, before = later.until("done")
    assert (done["answer"], before) == (ANSWER, [])
    assert ada.used() == 1


@pytest.mark.parametrize("of", ["eve", "nobody"])
def test_somebody_elses_request_cannot_be_resumed_or_stopped(stack: Stack, ada: Person, of: str) -> None:
    eve = stack.person()
    with page(stack, eve) as hers, page(stack, ada) as mine:
        hers.ask(model="gated")
        accepted, _ = hers.until("accepted")
        target = accepted["id"] if of == "eve" else str(uuid.uuid4())
        mine.send({"type": "resume", "id": target})
        assert mine.error("not_found")["message"] == "There is nothing here."
        mine.send({"type": "cancel", "id": target})
        mine.send({"type": "resume", "id": target})
        mine.error("not_found")
        stack.backend.gate.set()
        hers.until("done")
    assert stack.ended(eve).cancel_requested_at is None


# --- what is no message -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "message",
    [
        "",
        "{",
        "null",
        "[]",
        '"ask"',
        "[" * 90_000,
        b"\x00\xff\xfe",
        b'{"type": "ask"}',
        {},
        {"type": None},
        {"type": "shout"},
        {"type": ["ask"]},
        {"type": {"ask": 1}},
        {"type": "cancel"},
        {"type": "cancel", "id": 7},
        {"type": "resume", "id": "7"},
        {"type": "resume", "id": ["a"]},
        {"type": "ask"},
        {"type": "ask", "prompt": 7},
        {"type": "ask", "prompt": "  "},
        {"type": "ask", "prompt": "\ud800"},
        {"type": "ask", "prompt": "?", "kind": "shout"},
        {"type": "ask", "prompt": "?", "kind": {"a": 1}},
        {"type": "ask", "prompt": "?", "hospitals": 7},
        {"type": "ask", "prompt": "?", "patient": ["p"]},
        {"type": "ask", "prompt": "?", "purpose": "CURIOSITY"},
        {"type": "ask", "prompt": "?", "model": [1]},
        {"type": "ask", "prompt": "?", "epsilon": 1},
        {"type": "ask", "prompt": "?", "kind": "cohort.text", "epsilon": "3"},
        {"type": "ask", "prompt": "?", "kind": "cohort.text", "epsilon": 1e308},
        {"type": "ask", "prompt": "x" * 1_000_000},
    ],
    ids=lambda message: repr(message)[:60],
)
def test_what_is_no_message_is_told_so_and_the_connection_lives(stack: Stack, ada: Person, message: Any) -> None:
    with page(stack, ada) as ask:
        ask.send(message)
        found = ask.error("invalid_parameter")
        assert (found["id"], found["charged"]) == (None, False)
        ask.ask()
        assert ask.until("done")[0]["answer"] == ANSWER
    assert len(stack.rows(ada)) == 1


def test_an_unknown_model_is_told(stack: Stack, ada: Person) -> None:
    with page(stack, ada) as ask:
        ask.ask(model="gpt-9")
        ask.error("model_not_found")


def test_a_spent_allowance_is_told_with_whose_it_is(stack: Stack, ada: Person) -> None:
    ada.exhaust("department_epsilon")
    with page(stack, ada) as ask:
        ask.ask(kind="cohort.text", epsilon=3.0)
        assert ask.error("quota_spent")["details"]["scope"] == "department"


def test_a_database_that_restarts_leaves_open_connections_usable(stack: Stack, ada: Person) -> None:
    cookie = {"Cookie": stack.cookie(ada.user)}
    with page(stack, None, additional_headers=cookie) as ask:
        ask.ask()
        ask.until("done")
        stack.database.restart()
        ask.ask()
        ask.until("done")
    assert ada.used() == 2
