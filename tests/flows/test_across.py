"""Three hospitals answer together over mutual TLS, each from its own records; no engine has a part in it."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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

QUESTION = "How many patients on velorapine had a dry cough?"
NODES = ("northfield", "lakeside", "hillcrest")


class IdleEngine(BaseHTTPRequestHandler):
    """Says that it serves the model, which is all that a node's health asks; it is never asked for a word."""

    def do_GET(self) -> None:
        body = json.dumps({"object": "list", "data": [{"id": MODEL, "object": "model"}]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing to say."""


@pytest.fixture(scope="module")
def three() -> Iterator[Network]:
    folder = embedded.ROOT / str(os.getpid()) / "across"
    server = ThreadingHTTPServer(("127.0.0.1", 0), IdleEngine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        engine = f"http://127.0.0.1:{server.server_port}"
        with harness.network(
            folder, nodes=3, engine=engine, reports=True, overrides={"FDROUTER_LEASE_SECONDS": "4"}
        ) as running:
            yield running
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def person(three: Network) -> User:
    found = three.user("attending")
    with three.http(found) as http:
        http.get("/api/budget").raise_for_status()
    three.execute("UPDATE privacy_scope SET cap = 1000000000 WHERE unit = 'micro_epsilon'")
    return found


def ask(network: Network, person: User, question: str = QUESTION, **privacy: Any) -> httpx.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": question}]}
    with network.http(person) as http:
        return http.post("/v1/chat/completions", json=body | {"privacy": {"across": True, **privacy}})


def keys(network: Network) -> dict[str, PublicIdentity]:
    found = {}
    for name in (*NODES, "coordinator"):
        text = (network.layout.identity(name) / "public.json").read_text(encoding="utf-8")
        found[name] = identity.load_public(json.loads(text))
    return found


def used(network: Network) -> dict[str, int]:
    """What each hospital reports of its block."""
    found = {}
    for node in network.layout.nodes:
        with psycopg.connect(network.stack.database_url(f"node_{node.id}")) as connection:
            row = connection.execute("SELECT used FROM privacy_scope WHERE kind = 'block' AND unit = 'nano_rdp'")
            found[node.id] = int((row.fetchone() or (0,))[0])
    return found


def test_three_hospitals_count_together_and_each_pays(three: Network, person: User) -> None:
    before = used(three)
    document = ask(three, person, kind="cohort.count", epsilon=1.0).raise_for_status().json()
    text = document["choices"][0]["message"]["content"]
    privacy = document["privacy"]
    found = re.match(r"About (\d+) records match\. The noise leaves (\d+) to (\d+), in 95 of 100 cases\.", text)
    assert found and 130 <= int(found[1]) <= 260 and "3 hospitals together" in text
    assert privacy["mechanism"] == "count_across" and privacy["epsilon"] == 1.0 and privacy["delta"] > 0
    assert privacy["hospitals"] == sorted(NODES) and len(privacy["receipt"]["receipts"]) == 3
    assert receipts.proves_sum(privacy["receipt"], keys(three))
    after = used(three)
    assert len({after[name] - before[name] for name in NODES}) == 1 and all(after[n] > before[n] for n in NODES)


def test_the_same_question_again_is_answered_for_nothing(three: Network, person: User) -> None:
    first = ask(three, person, kind="cohort.count", epsilon=0.8).raise_for_status().json()
    before = used(three)
    again = ask(three, person, kind="cohort.count", epsilon=0.8, hospitals=list(NODES)).raise_for_status().json()
    assert again["choices"] == first["choices"] and used(three) == before
    privacy = again["privacy"]
    assert privacy["epsilon"] == 0.0 and privacy["repeat_of"] and privacy["released_at"]
    assert receipts.proves_sum(privacy["receipt"], keys(three))
    coordinator = keys(three)["coordinator"]
    text, number = again["choices"][0]["message"]["content"], privacy["receipt"]["body"]["message_id"]
    assert receipts.covers(privacy["receipt"], coordinator, message_id=number, answer=text)


def test_a_choice_of_three_hospitals(three: Network, person: User) -> None:
    question = "Which side effect did patients on velorapine develop?"
    options = ["dry cough", "rash", "nausea"]
    document = ask(three, person, question, kind="cohort.choice", options=options).raise_for_status().json()
    text = document["choices"][0]["message"]["content"]
    assert text.startswith("Said most often: dry cough.") and "3 hospitals together" in text
    assert document["privacy"]["mechanism"] == "choice_across"


def test_two_hospitals_are_too_few(three: Network, person: User) -> None:
    told = ask(three, person, kind="cohort.count", hospitals=["northfield", "lakeside"])
    assert told.status_code == 422 and "three hospitals" in told.json()["error"]["message"]


def test_a_hospital_that_is_down_leaves_everybody_uncharged(three: Network, person: User) -> None:
    before = used(three)
    with three.without("node-lakeside"):
        told = ask(three, person, kind="cohort.count", epsilon=0.9, hospitals=list(NODES))
    error = told.json()["error"]
    assert (error["code"], error["details"]["hospital"]) == ("no_node", "lakeside")
    assert error["details"]["charged"] is False and error["details"]["charged_at"] == []
    assert used(three) == before, "the offers of the others were taken back"


def test_a_hospital_whose_operator_does_not_trust_a_peer_takes_no_part(three: Network, person: User) -> None:
    pinned = three.layout.identity("hillcrest") / "peers" / "northfield.json"
    text, before = pinned.read_text(encoding="utf-8"), used(three)
    pinned.unlink()
    try:
        told = ask(three, person, kind="cohort.count", epsilon=0.6, hospitals=list(NODES))
    finally:
        pinned.write_text(text, encoding="utf-8")
    message = told.json()["error"]["message"]
    assert "hillcrest does not know northfield" in message and "No hospital's records were charged" in message
    assert used(three) == before
    ask(three, person, kind="cohort.count", epsilon=0.6, hospitals=list(NODES)).raise_for_status()


def test_evidence_is_whole_and_ledgers_add_up(three: Network, person: User) -> None:
    """Every answered sum has one event of its receipt at the coordinator and one at each hospital."""
    done = three.execute(
        "SELECT count(*) FROM federation_inference WHERE state = 'done'"
        " AND NOT receipt #> '{body,mechanism}' ? 'repeat_of'"
    )[0][0]
    assert done >= 3
    for node in three.layout.nodes:
        with psycopg.connect(three.stack.database_url(f"node_{node.id}")) as connection:
            kept = "SELECT count(*) FROM privacy_reservation WHERE state = 'settled'"
            receipts_given = "SELECT count(*) FROM compliance_event WHERE kind = 'node.receipt'"
            open_calls = "SELECT count(*) FROM federation_nodecall WHERE state = 'running'"
            found = [connection.execute(sql).fetchone() for sql in (kept, receipts_given, open_calls)]
        assert found == [(done,), (done,), (0,)]


def test_a_worker_that_dies_leaves_no_hospital_in_doubt(three: Network, person: User) -> None:
    """Killed while hospitals count, the request is taken up again: answered, or failed and told who stays charged."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "stream": True}
    privacy = {"across": True, "kind": "cohort.count", "epsilon": 0.5, "hospitals": list(NODES)}
    before, former = used(three), three.latest()
    with three.http(person) as http, suppress(httpx.HTTPError):
        http.post("/v1/chat/completions", json=body | {"privacy": privacy}, timeout=1.5)
    number = three.latest()
    assert number != former
    three.kill("worker-dispatch")
    three.start("worker-dispatch")
    ended = three.ended(person, number)
    after = used(three)
    charged = sorted(name for name in NODES if after[name] > before[name])
    if ended["state"] == "done":
        assert charged == sorted(NODES)
    else:
        assert (ended["state"], ended["error"]["charged"]) == ("failed", True)
        assert ended["error"]["details"]["charged_at"] == charged
