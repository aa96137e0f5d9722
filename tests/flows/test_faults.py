"""What breaks while a request is under way: nothing is lost, and the charge is what the architecture's table says."""

from __future__ import annotations

import itertools
import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import openai
import psycopg
import pytest

from fdrouter.demo.access import User
from fdrouter.demo.stack import node_database
from tests.flows.harness import MODEL, Network

_numbers = itertools.count(1)
LONG = [{"role": "user", "content": "Explain in detail how the heart pumps blood."}]
SMALL = {"kind": "cohort.text", "epsilon": 3.0, "contexts": 48, "max_tokens": 6, "hospitals": ["northfield"]}


def _question() -> list[dict[str, str]]:
    """Never the same twice: a question asked before would be answered from its stored release."""
    return [{"role": "user", "content": f"Which side effect does velorapine cause? (case {next(_numbers)})"}]


def _client(network: Network, person: User) -> Any:
    """The official client; untyped, since its types know neither our plain dictionaries nor ``privacy``."""
    return network.openai(person)


def _stream(client: Any, messages: Any, **options: Any) -> Iterator[Any]:
    return iter(client.chat.completions.create(model=MODEL, messages=messages, stream=True, **options))


def _first_text(stream: Iterator[Any]) -> str:
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            return str(chunk.choices[0].delta.content)
    raise AssertionError("the stream held no text")


def _kinds(network: Network, request_id: str) -> list[str]:
    rows = network.execute("SELECT kind FROM compliance_event WHERE subject = %s ORDER BY seq", (request_id,))
    return [row[0] for row in rows]


def test_every_step_of_a_cohort_answer_leaves_evidence(network: Network, user: User) -> None:
    with _client(network, user) as client:
        answer = client.chat.completions.create(model=MODEL, messages=_question(), extra_body={"privacy": SMALL})
    privacy = answer.model_extra["privacy"] if answer.model_extra else {}
    assert privacy["kind"] == "cohort.text" and privacy["epsilon"] == 3.0 and privacy["adjacency"] == "swap"
    assert (
        privacy["receipt"]["body"]["mechanism"]["rho_spent"] <= privacy["receipt"]["body"]["mechanism"]["rho_reserved"]
    )
    request_id = str(uuid.UUID(answer.id.removeprefix("chatcmpl-")))
    assert _kinds(network, request_id) == [
        "policy.decision",
        "request.submit",
        "ledger.reserve",
        "request.route",
        "node.receipt",
        "ledger.settle",
        "request.finish",
    ]


def test_the_same_key_twice_is_answered_once_and_charged_once(network: Network, user: User) -> None:
    asked, privacy = _question(), SMALL | {"idempotency_key": uuid.uuid4().hex}
    before = network.execute("SELECT sum(used) FROM privacy_scope WHERE unit = 'micro_epsilon'")[0][0]
    with _client(network, user) as client:
        first, second = (
            client.chat.completions.create(model=MODEL, messages=asked, extra_body={"privacy": privacy})
            for _ in range(2)
        )
        other = [{"role": "user", "content": "Something else?"}]
        with pytest.raises(openai.ConflictError):
            client.chat.completions.create(model=MODEL, messages=other, extra_body={"privacy": privacy})
    assert first.id == second.id and first.choices[0].message.content == second.choices[0].message.content
    after = network.execute("SELECT sum(used) FROM privacy_scope WHERE unit = 'micro_epsilon'")[0][0]
    assert after - before == 3 * 3_000_000  # of the person, the department and the hospital


@pytest.mark.parametrize(
    "privacy", [{"kind": "cohort.count"}, {"kind": "cohort.choice", "options": ["dry cough", "rash"]}]
)
def test_the_same_question_again_is_answered_from_the_stored_release(
    network: Network, user: User, privacy: dict[str, Any]
) -> None:
    def spent() -> tuple[int, int]:
        quotas = network.execute("SELECT sum(used) FROM privacy_scope WHERE unit = 'micro_epsilon'")[0][0]
        blocks = 0
        for home in network.layout.nodes:
            with psycopg.connect(network.stack.database_url(node_database(home))) as node:
                blocks += node.execute("SELECT sum(used) FROM privacy_scope WHERE unit = 'nano_rdp'").fetchall()[0][0]
        return quotas, blocks

    asked = _question()  # of any hospital: the second time it goes where it was answered
    begun = spent()
    with _client(network, user) as client:
        first = client.chat.completions.create(model=MODEL, messages=asked, extra_body={"privacy": privacy})
        paid = spent()
        again = client.chat.completions.create(model=MODEL, messages=asked, extra_body={"privacy": privacy})
    assert paid[0] > begun[0] and paid[1] > begun[1]
    assert spent() == paid
    assert first.id != again.id and first.choices[0].message.content == again.choices[0].message.content
    told = again.model_extra["privacy"]
    assert told["epsilon"] == 0.0 and told["repeat_of"] == str(uuid.UUID(first.id.removeprefix("chatcmpl-")))


def test_an_answer_is_there_after_the_browser_left(network: Network, user: User) -> None:
    with _client(network, user) as client:
        stream = client.chat.completions.create(model=MODEL, messages=LONG, stream=True, max_tokens=60)
        _first_text(iter(stream))
        stream.close()
    ended = network.ended(user, network.latest())
    assert ended["state"] == "done" and len(ended["answer"]) > 20


def test_a_stopped_request_ends_at_once_and_stays_charged(network: Network, user: User) -> None:
    with _client(network, user) as client:
        stream = client.chat.completions.create(
            model=MODEL, messages=_question(), stream=True, extra_body={"privacy": SMALL}
        )
        _first_text(iter(stream))
        request_id = network.latest()
        with network.http(user) as http:
            assert http.delete(f"/api/inferences/{request_id}").status_code == 202
        stream.close()
    ended = network.ended(user, request_id)
    if ended["state"] == "cancelled":  # it may have finished first
        assert ended["error"]["charged"] is True
    assert network.reservation(request_id) == "settled"


def test_without_a_node_nothing_is_charged(network: Network, user: User) -> None:
    with network.without("node-northfield"), _client(network, user) as client:
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model=MODEL, messages=_question(), extra_body={"privacy": SMALL})
        assert caught.value.status_code == 503 and caught.value.code == "no_node"
        assert network.reservation(network.latest()) == "released"


def test_another_hospital_answers_a_general_question_when_a_node_is_down(network: Network, user: User) -> None:
    with network.without("node-northfield"), _client(network, user) as client:
        answer = client.chat.completions.create(model=MODEL, messages=LONG, max_tokens=5)
    assert (answer.model_extra or {})["node"]["id"] == "lakeside"


def test_redis_restarts_under_a_request(network: Network, user: User) -> None:
    with _client(network, user) as client:
        stream = _stream(client, LONG, max_tokens=120)
        _first_text(stream)
        with network.without("redis"):
            time.sleep(1)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    ended = network.ended(user, network.latest())
    assert ended["state"] == "done" and text and ended["answer"].endswith(text[-10:])


def test_the_worker_is_killed_under_a_request(network: Network, user: User) -> None:
    with _client(network, user) as client:
        stream = client.chat.completions.create(
            model=MODEL, messages=_question(), stream=True, extra_body={"privacy": SMALL}
        )
        iterator = iter(stream)
        _first_text(iterator)
        request_id = network.latest()
        with network.without("worker-dispatch"):
            pass
        stream.close()
    ended = network.ended(user, request_id)
    # The node saw the records: the charge stands whether its answer could still be fetched or not, and stands once.
    assert network.reservation(request_id) == "settled"
    assert ended["state"] in ("done", "failed")
    paid = network.execute("SELECT count(*) FROM privacy_entry WHERE reservation_id = %s", (request_id,))
    assert paid[0][0] == 5  # epsilon of the three that pay, and one request of the person and of the department


def test_the_coordinator_is_killed_under_a_request(network: Network, user: User) -> None:
    with _client(network, user) as client:
        stream = _stream(client, LONG, max_tokens=60)
        _first_text(stream)
        request_id = network.latest()
        with network.without("coordinator"):
            pass
    assert network.ended(user, request_id)["state"] == "done"


def test_postgresql_restarts_under_a_request(network: Network, user: User) -> None:
    with _client(network, user) as client:
        stream = _stream(client, LONG, max_tokens=150)
        _first_text(stream)
        request_id = network.latest()
        with network.without("postgres", kill=False):
            pass
        list(stream)
    ended = network.ended(user, request_id)
    assert ended["state"] in ("done", "failed")
    assert network.reservation(request_id) in ("settled", "released")
    with network.http(user) as http:
        assert http.get("/ready").status_code == 200


def test_the_engine_is_killed_in_the_middle_of_an_answer(network: Network, user: User) -> None:
    with _client(network, user) as client:
        stream = _stream(client, _question(), extra_body={"privacy": SMALL | {"contexts": 96, "max_tokens": 24}})
        _first_text(stream)
        request_id = network.latest()
        with network.without("engine"):
            with pytest.raises(openai.APIError):
                list(stream)
            ended = network.ended(user, request_id)
            with pytest.raises(openai.InternalServerError):
                client.chat.completions.create(model=MODEL, messages=_question(), extra_body={"privacy": SMALL})
            untouched = network.latest()
    assert ended["state"] == "failed" and ended["error"]["charged"] is True
    assert network.reservation(request_id) == "settled"
    # An engine that nobody could reach has seen nothing.
    assert untouched != request_id and network.reservation(untouched) == "released"


@pytest.mark.parametrize(
    ("privacy", "status"),
    [
        ({"kind": "cohort.tex"}, 422),
        ({"kind": "cohort.text", "epsilon": 0}, 422),
        ({"kind": "cohort.text", "epsilon": -1}, 422),
        ({"kind": "cohort.text", "epsilon": 1e308}, 422),
        ({"kind": "cohort.text", "epsilon": 1, "contexts": 8}, 422),
        ({"kind": "cohort.text", "hospitals": ["nowhere"]}, 404),
        ({"kind": "chart", "patient": "p-unknown"}, 403),
    ],
)
def test_a_bad_request_costs_nothing(network: Network, user: User, privacy: dict[str, Any], status: int) -> None:
    before = network.execute("SELECT sum(used) FROM privacy_scope WHERE unit = 'micro_epsilon'")
    with _client(network, user) as client, pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model=MODEL, messages=_question(), extra_body={"privacy": privacy})
    assert caught.value.status_code == status
    body = json.loads(caught.value.response.text)["error"]
    assert body["message"] and body["code"]
    assert network.execute("SELECT sum(used) FROM privacy_scope WHERE unit = 'micro_epsilon'") == before


def test_a_question_too_long_for_a_group_is_refused_before_it_is_charged(network: Network, user: User) -> None:
    spent = "SELECT sum(used) FROM privacy_scope WHERE kind = 'block'"
    node = network.stack.database_url(node_database(network.layout.nodes[0]))
    with psycopg.connect(node) as records:
        before = records.execute(spent).fetchone()
        with _client(network, user) as client, pytest.raises(openai.UnprocessableEntityError) as caught:
            long = [{"role": "user", "content": "which side effect did velorapine cause " * 60}]
            client.chat.completions.create(model=MODEL, messages=long, extra_body={"privacy": SMALL})
        assert caught.value.code == "invalid_parameter"
        assert network.reservation(network.latest()) == "released"
        assert records.execute(spent).fetchone() == before


def test_a_department_that_spent_its_quota_is_told_so(network: Network) -> None:
    researcher = network.user("researcher")
    with network.http(researcher) as http:
        http.get("/api/budget").raise_for_status()
    network.execute("UPDATE privacy_scope SET cap = 2000000 WHERE label = 'Research' AND unit = 'micro_epsilon'")
    with _client(network, researcher) as client, pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model=MODEL, messages=_question(), extra_body={"privacy": SMALL})
    assert caught.value.code == "quota_spent" and "Research" in caught.value.message
