"""Three hospitals answer together over mutual TLS, each from its own records; no engine has a part in it."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
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
    import psycopg

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
    number = re.sub(r"\D", "", document["id"].removeprefix("chatcmpl-"))
    assert number
    after = used(three)
    assert len({after[name] - before[name] for name in NODES}) == 1 and all(after[n] > before[n] for n in NODES)
