"""Two hospitals write a text together over mutual TLS; the engine is one whose numbers are known."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
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
PRIVACY = {"kind": "cohort.text", "across": True, "epsilon": 3.0, "contexts": 64}


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


def ask(network: Network, person: User, question: str = QUESTION, **privacy: Any) -> httpx.Response:
    body = {"model": MODEL, "messages": [{"role": "user", "content": question}], "max_tokens": 6}
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
