"""``/v1`` as OpenAI clients use it: answers, streams, the privacy object, idempotency keys."""

from __future__ import annotations

import json
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from federation.models import Inference
from federation.states import InferenceState
from privacy.models import Reservation, ReservationState, Unit
from tests.federation.api.backend import ANSWER, MODELS, WORDS
from tests.federation.api.stack import Person, Stack, until

QUESTION: Any = [{"role": "user", "content": "How does aspirin work?"}]
PRIVACY_FIELDS = {"kind", "epsilon", "delta", "unit", "adjacency", "mechanism", "remaining", "receipt"}
PRIVACY_FIELDS |= {"repeat_of", "released_at"}  # of a stored release that is told again
PRIVACY_FIELDS |= {"chosen", "hospitals"}  # why this kind, where it was left open; who answered together


def events(text: str) -> list[Any]:
    """The documents of an event stream; its end is there."""
    lines = [line[5:].strip() for line in text.splitlines() if line.startswith("data:")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


# --- the openai package, unchanged --------------------------------------------------------------------------------
def test_the_openai_client_lists_models_and_names_one(stack: Stack, ada: Person) -> None:
    with stack.openai(ada) as client:
        assert {model.id for model in client.models.list()} == set(MODELS)
        assert client.models.retrieve("steady").owned_by == "fdrouter"
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("gpt-9")
    assert caught.value.code == "model_not_found"


def test_the_openai_client_gets_an_answer_with_its_privacy(stack: Stack, ada: Person) -> None:
    with stack.openai(ada) as client:
        completion = client.chat.completions.create(model="steady", messages=QUESTION, temperature=0.5, max_tokens=20)
    assert completion.choices[0].message.content == ANSWER
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "total_tokens": 13,
    }
    found = completion.model_dump()
    assert found["privacy"] == {
        "kind": "general",
        "epsilon": 0.0,
        "delta": 0.0,
        "unit": None,
        "adjacency": None,
        "mechanism": None,
        "remaining": {"user": 10.0, "department": 10.0, "block": None},
        "receipt": None,
        "repeat_of": None,
        "released_at": None,
        "chosen": None,
        "hospitals": None,
    }
    assert found["node"] == {"id": "engine-steady", "name": "Engine steady"}
    sent = stack.backend.bodies[-1]
    assert (sent["temperature"], sent["max_tokens"], sent["messages"]) == (0.5, 20, QUESTION)


def test_the_openai_client_streams_and_the_last_event_has_the_privacy(stack: Stack, ada: Person) -> None:
    with stack.openai(ada) as client:
        stream = client.chat.completions.create(model="steady", messages=QUESTION, stream=True)
        chunks = list(stream)
    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content]
    assert texts == list(WORDS)
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    last = chunks[-1].model_dump()
    assert last["choices"][0]["finish_reason"] == "stop"
    assert set(last["privacy"]) == PRIVACY_FIELDS
    assert last["usage"]["total_tokens"] == 13
    assert [chunk for chunk in chunks[:-1] if getattr(chunk, "privacy", None)] == []


def test_privacy_options_travel_in_the_extra_body(stack: Stack, ada: Person) -> None:
    key = str(uuid.uuid4())
    options = {"privacy": {"kind": "general", "hospitals": ["northfield"], "idempotency_key": key}}
    with stack.openai(ada) as client:
        completion = client.chat.completions.create(model="steady", messages=QUESTION, extra_body=options)
    row = Inference.objects.get(user=ada.user)
    assert completion.id == f"chatcmpl-{row.pk.hex}"
    assert (row.idempotency_key, row.hospitals, row.channel) == (key, ["northfield"], "api")


def test_a_stream_is_an_event_stream_that_nobody_caches(stack: Stack, ada: Person) -> None:
    response = stack.ask(ada, stream=True)
    assert response.headers["content-type"] == "text/event-stream"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    first, *_, last = events(response.text)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert last["node"]["id"] == "engine-steady"


@pytest.mark.parametrize("stream", [False, True])
def test_an_empty_answer_is_an_answer(stack: Stack, ada: Person, stream: bool) -> None:
    response = stack.ask(ada, "empty", stream=stream)
    assert response.status_code == 200
    assert stack.ended(ada).state == InferenceState.DONE


def test_privacy_headers_do_what_the_body_does(stack: Stack, ada: Person) -> None:
    key = str(uuid.uuid4())
    headers = {
        "X-Privacy-Kind": "general",
        "X-Privacy-Hospitals": "northfield, ,northfield",
        "X-Privacy-Idempotency-Key": key,
        "X-Purpose-Of-Use": "HQUALIMP",
    }
    assert stack.ask(ada, headers=headers).status_code == 200
    row = stack.ended(ada)
    assert (row.idempotency_key, row.hospitals, row.purpose) == (key, ["northfield"], "HQUALIMP")


def test_the_body_wins_over_the_headers(stack: Stack, ada: Person) -> None:
    response = stack.ask(ada, privacy={"kind": "general"}, headers={"X-Privacy-Kind": "nonsense"})
    assert response.status_code == 200


def test_a_header_that_is_no_number_is_named(stack: Stack, ada: Person) -> None:
    response = stack.ask(ada, headers={"X-Privacy-Epsilon": "much"})
    assert response.status_code == 422
    assert response.json()["error"]["param"] == "privacy.epsilon"


# --- what is left, charged and kept -------------------------------------------------------------------------------
def test_an_answer_costs_one_request_and_no_epsilon(stack: Stack, ada: Person) -> None:
    stack.ask(ada)
    row = stack.ended(ada)
    assert (ada.used(), ada.used(Unit.MICRO_EPSILON)) == (1, 0)
    assert Reservation.objects.get(pk=row.pk).state == ReservationState.SETTLED


def test_contents_lie_sealed_in_the_row(stack: Stack, ada: Person) -> None:
    stack.ask(ada)
    row = stack.ended(ada)
    assert row.request is not None
    assert row.answer is not None
    assert b"aspirin" not in bytes(row.request)
    assert b"thins" not in bytes(row.answer)


def test_no_log_holds_a_question_or_an_answer(stack: Stack, ada: Person) -> None:
    stack.ask(ada)
    stack.ask(ada, "dying", stream=True)
    for part in ("coordinator", "worker"):
        assert "aspirin" not in stack.log_of(part).lower()
        assert ada.token not in stack.log_of(part)


# --- idempotency keys ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("stream", [False, True])
def test_the_same_key_twice_gets_the_stored_answer_and_is_charged_once(stack: Stack, ada: Person, stream: bool) -> None:
    calls = stack.backend.calls["steady"]
    privacy = {"idempotency_key": str(uuid.uuid4())}
    first = stack.ask(ada, privacy=privacy)
    again = stack.ask(ada, privacy=privacy, stream=stream)
    assert again.status_code == 200
    if stream:
        *chunks, last = events(again.text)
        assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == ANSWER
        assert last["privacy"] == first.json()["privacy"]
    else:
        assert again.json()["id"] == first.json()["id"]
        assert again.json()["choices"] == first.json()["choices"]
        assert again.json()["privacy"] == first.json()["privacy"]
    assert stack.backend.calls["steady"] == calls + 1
    assert ada.used() == 1
    assert len(stack.rows(ada)) == 1


def test_the_same_key_at_the_same_time_is_one_request(stack: Stack, ada: Person) -> None:
    calls = stack.backend.calls["gated"]
    privacy = {"idempotency_key": str(uuid.uuid4())}
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(stack.ask, ada, "gated", privacy=privacy, stream=bool(n % 2)) for n in range(4)]
        until(lambda: stack.backend.calls["gated"] > calls)
        stack.backend.gate.set()
        responses = [future.result() for future in asked]
    assert [response.status_code for response in responses] == [200] * 4
    for response in responses:
        if response.headers["content-type"] == "application/json":
            text = response.json()["choices"][0]["message"]["content"]
        else:
            text = "".join(event["choices"][0]["delta"].get("content", "") for event in events(response.text))
        assert text == ANSWER
    assert stack.backend.calls["gated"] == calls + 1
    assert ada.used() == 1


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "user", "content": "Something else"}]},
        {"temperature": 1.0},
        {"model": "empty"},
        {"privacy": {"hospitals": ["northfield"]}},
        {"privacy": {"purpose": "HQUALIMP"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_key_with_another_request_is_a_conflict(stack: Stack, ada: Person, change: dict[str, Any]) -> None:
    key = {"idempotency_key": str(uuid.uuid4())}
    stack.ask(ada, privacy=key)
    response = stack.ask(ada, **{**change, "privacy": {**change.get("privacy", {}), **key}})
    assert response.status_code == 409
    assert response.json()["error"]["code"] == "idempotency_conflict"
    assert ada.used() == 1


def test_the_same_key_of_somebody_else_is_another_request(stack: Stack, ada: Person) -> None:
    privacy = {"idempotency_key": "mine"}
    eve = stack.person()
    ids = {stack.ask(person, privacy=privacy).json()["id"] for person in (ada, eve)}
    assert len(ids) == 2


def test_a_stored_refusal_is_told_again_as_it_was(stack: Stack, ada: Person) -> None:
    """As after a hospital's block could not pay: the key's second use hears the same, and costs nothing."""
    privacy = {"idempotency_key": str(uuid.uuid4())}
    assert stack.ask(ada, "refusing", privacy=privacy).status_code == 503
    details = {"charged": False, "unit": "nano_rdp"}
    Inference.objects.filter(user=ada.user).update(reason="block_exhausted", details=details)
    response = stack.ask(ada, "refusing", privacy=privacy)
    assert response.status_code == 402
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "block_exhausted")
    assert error["details"]["charged"] is False
    assert ada.used() == 0


# --- a client that leaves -----------------------------------------------------------------------------------------
def test_who_leaves_in_the_middle_finds_the_answer_later(stack: Stack, ada: Person) -> None:
    body = {"model": "gated", "messages": QUESTION, "stream": True}
    with stack.http(ada) as client, client.stream("POST", "/v1/chat/completions", json=body) as response:
        for line in response.iter_lines():
            if WORDS[0].strip() in line:
                break
    stack.backend.gate.set()
    row = stack.ended(ada)
    found = stack.api(ada, "GET", f"inferences/{row.pk}").json()
    assert (found["state"], found["answer"]) == ("done", ANSWER)
    assert ada.used() == 1
