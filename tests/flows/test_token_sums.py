"""Two hospitals write a text together over mutual TLS: with an engine whose numbers are known, and with a real one."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import psycopg
import pytest

from fdrouter.demo.access import User
from federation import identity, receipts
from federation.identity import PublicIdentity
from tests import embedded
from tests.flows import harness
from tests.flows.harness import MODEL, Network
from tests.node.likely import Likely

QUESTION = "Which side effect did patients on velorapine develop?"
NODES = ("lakeside", "northfield")
PRIVACY: dict[str, Any] = {
    "kind": "cohort.text",
    "across": True,
    "epsilon": 3.0,
    "contexts": 48,
    "hospitals": list(NODES),
}


@pytest.fixture(scope="module")
def engine() -> Iterator[Likely]:
    found = Likely(MODEL)
    yield found
    found.close()


@pytest.fixture(scope="module")
def two(engine: Likely) -> Iterator[Network]:
    folder = embedded.ROOT / str(os.getpid()) / "token-sums"
    overrides = {"FDROUTER_LEASE_SECONDS": "4"}
    with harness.network(folder, nodes=2, engine=engine.url, reports=True, overrides=overrides) as running:
        yield running


@pytest.fixture
def person(two: Network) -> User:
    found = two.user("attending")
    with two.http(found) as http:
        http.get("/api/budget").raise_for_status()
    two.execute("UPDATE privacy_scope SET cap = 1000000000 WHERE unit = 'micro_epsilon'")
    return found


def ask(network: Network, person: User, *, tokens: int = 6, **privacy: Any) -> httpx.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": tokens}
    with network.http(person) as http:
        return http.post("/v1/chat/completions", json=body | {"privacy": {**PRIVACY, **privacy}})


def keys(network: Network) -> dict[str, PublicIdentity]:
    found = {}
    for name in (*NODES, "coordinator"):
        text = (network.layout.identity(name) / "public.json").read_text(encoding="utf-8")
        found[name] = identity.load_public(json.loads(text))
    return found


def used(network: Network) -> dict[str, int]:
    found = {}
    for node in network.layout.nodes:
        with psycopg.connect(network.stack.database_url(f"node_{node.id}")) as connection:
            row = connection.execute("SELECT used FROM privacy_scope WHERE kind = 'block' AND unit = 'nano_rdp'")
            found[node.id] = int((row.fetchone() or (0,))[0])
    return found


def test_two_hospitals_write_a_text_and_each_pays_for_what_was_drawn(two: Network, person: User) -> None:
    before = used(two)
    told = ask(two, person)
    document = told.json()
    assert told.status_code == 200, document
    text, privacy = document["choices"][0]["message"]["content"], document["privacy"]
    assert "2 hospitals together: " in text and "coordinator is trusted" in text
    assert privacy["mechanism"] == "text_across" and privacy["epsilon"] == 3.0 and privacy["hospitals"] == list(NODES)
    assert receipts.proves_text(privacy["receipt"], keys(two), answer=text)
    tokens = document["usage"]["completion_tokens"]
    after = used(two)
    assert 1 <= tokens <= 6 and len({after[name] - before[name] for name in NODES}) == 1
    assert all(after[name] > before[name] for name in NODES)


def test_a_text_streams_as_it_is_written_and_is_said_again_for_nothing(two: Network, person: User) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 5, "stream": True}
    parts: list[str] = []
    with two.http(person) as http:
        with http.stream("POST", "/v1/chat/completions", json=body | {"privacy": PRIVACY}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data: {"):
                    parts += [choice["delta"].get("content") or "" for choice in json.loads(line[6:])["choices"]]
    before = used(two)
    again = ask(two, person, tokens=5).raise_for_status().json()
    text = again["choices"][0]["message"]["content"]
    assert "".join(parts) == text and sum(map(bool, parts)) >= 3
    assert used(two) == before and again["privacy"]["epsilon"] == 0.0 and again["privacy"]["repeat_of"]
    assert receipts.proves_text(again["privacy"]["receipt"], keys(two), answer=text)


def test_a_hospital_that_is_down_leaves_the_other_uncharged(two: Network, person: User) -> None:
    before = used(two)
    with two.without("node-lakeside"):
        told = ask(two, person, epsilon=2.9)
    details = told.json()["error"]["details"]
    assert (details["hospital"], details["charged"], details["charged_at"]) == ("lakeside", False, [])
    assert used(two) == before


def in_the_middle(two: Network, person: User, engine: Likely, act: Callable[[], None], **privacy: Any) -> str:
    """Asks, and does something when the engine has answered for the second token; returns the request's number."""
    former, begun = numbers(two), len(engine.rows)
    rows = 2 * (PRIVACY["contexts"] // 2 + 1)
    asking = threading.Thread(target=lambda: suppressed(two, person, **privacy))
    asking.start()
    deadline = time.monotonic() + 90
    while len(engine.rows) < begun + rows + 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    act()
    asking.join(90)
    (new,) = numbers(two) - former
    return new


def numbers(two: Network) -> set[str]:
    """The ids of all requests so far."""
    return {str(row[0]) for row in two.execute("SELECT id FROM federation_inference")}


def suppressed(two: Network, person: User, **privacy: Any) -> None:
    with suppress(httpx.HTTPError):
        assert ask(two, person, **privacy).status_code != 422


def test_a_hospital_that_dies_in_the_middle_ends_it_and_both_stay_charged_in_full(
    two: Network, person: User, engine: Likely
) -> None:
    before = used(two)
    number = in_the_middle(two, person, engine, lambda: two.kill("node-lakeside"), epsilon=2.95)
    two.start("node-lakeside")
    ended, after = two.ended(person, number), used(two)
    assert (ended["state"], ended["error"]["charged"]) == ("failed", True)
    assert sorted(ended["error"]["details"]["charged_at"]) == list(NODES)
    assert len({after[name] - before[name] for name in NODES}) == 1 and all(after[n] > before[n] for n in NODES)


def test_a_worker_that_dies_in_the_middle_loses_the_text_and_nothing_more_is_given(
    two: Network, person: User, engine: Likely
) -> None:
    before = used(two)

    def die() -> None:
        two.kill("worker-dispatch")
        two.start("worker-dispatch")

    number = in_the_middle(two, person, engine, die, epsilon=2.85)
    ended, after = two.ended(person, number), used(two)
    assert (ended["state"], ended["error"]["charged"]) == ("failed", True)
    assert all(after[name] > before[name] for name in NODES)


def test_no_call_is_left_open_and_every_answer_has_its_receipts(two: Network) -> None:
    done = two.execute(
        "SELECT count(*) FROM federation_inference WHERE state = 'done'"
        " AND NOT receipt #> '{body,mechanism}' ? 'repeat_of'"
    )[0][0]
    for node in two.layout.nodes:
        with psycopg.connect(two.stack.database_url(f"node_{node.id}")) as connection:
            given = "SELECT count(*) FROM compliance_event WHERE kind = 'node.receipt'"
            running = "SELECT count(*) FROM federation_nodecall WHERE state = 'running'"
            assert [connection.execute(sql).fetchone() for sql in (given, running)] == [(done,), (0,)]


def test_with_a_real_model_records_of_two_hospitals_are_heard(network: Network, user: User) -> None:
    """What the planted records say: nobody at either hospital names it in the question."""
    document = ask(network, user, epsilon=5.0, tokens=12).raise_for_status().json()
    text, privacy = document["choices"][0]["message"]["content"], document["privacy"]
    assert text.startswith("In our records") and "2 hospitals together" in text
    assert privacy["mechanism"] == "text_across" and privacy["receipt"]["body"]["left"] == {}
    assert receipts.proves_text(privacy["receipt"], keys(network), answer=text)
