"""Nodes that stall, show a wrong certificate or answer nonsense: the question is safe, the charge is right, and so is
what the asker hears."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psycopg
import pytest

from fdrouter.demo.access import User
from fdrouter.demo.layout import COORDINATOR
from fdrouter.demo.stack import node_database
from federation import identity
from tests.flows import faulty
from tests.flows.faulty import Impostor, Listener, Reply, SilentNode, StallingNode
from tests.flows.harness import MODEL, Network

_numbers = itertools.count(1)
QUESTION = "Which side effect does velorapine cause?"
COHORT = {"kind": "cohort.text", "epsilon": 3.0, "contexts": 48, "max_tokens": 6, "hospitals": ["northfield"]}
GENERAL = {"kind": "general"}
AT_NORTHFIELD = {"kind": "general", "hospitals": ["northfield"]}
LIE = "Velorapine is harmless."
READ_SECONDS = 8.0
ROSTER_SECONDS = 20.0
REFRESHED = (
    "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%%certificate_sha256%%FROM federation_node%%'"
    " AND pid <> pg_backend_pid() AND state = 'idle' AND query_start > %s"
)


@pytest.fixture(scope="module")
def impatient(network: Network) -> Iterator[Network]:
    """The network with a worker that soon gives a node up, and without the probes that would notice a bad one."""
    limits = {"FDROUTER_NODE_READ_SECONDS": str(READ_SECONDS), "FDROUTER_NODE_CONNECT_SECONDS": "3"}
    with network.without("beat", kill=False), network.with_environment("worker-dispatch", **limits):
        yield network
    deadline = time.monotonic() + 60  # beat is back: its next probe sees the nodes again
    while httpx.get(f"{network.base_url}/ready", timeout=10).status_code != 200:
        assert time.monotonic() < deadline, "the network is not ready again"
        time.sleep(0.5)


class Spent(NamedTuple):
    """Micro-epsilon charged to people and departments, and what was charged to Northfield's block."""

    quotas: int
    block: int


def spent(network: Network) -> Spent:
    quotas = network.execute("SELECT sum(used) FROM privacy_scope WHERE unit = 'micro_epsilon'")[0][0]
    with psycopg.connect(network.stack.database_url(node_database(network.layout.nodes[0]))) as records:
        found = records.execute("SELECT sum(used) FROM privacy_scope WHERE kind = 'block'").fetchone()
    return Spent(int(quotas), int(found[0]) if found else 0)


def ask(network: Network, person: User, privacy: dict[str, Any], *, stream: bool = False) -> httpx.Response:
    question = f"{QUESTION} (fault {next(_numbers)})"  # the same twice would be answered from the stored release
    body = {"model": MODEL, "messages": [{"role": "user", "content": question}], "max_tokens": 4, "stream": stream}
    with network.http(person) as http:
        return http.post("/v1/chat/completions", json=body | {"privacy": privacy})


def refusal(network: Network, person: User, response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The error as the API shows it, once history, ledger and response are found to agree about it."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert (error["code"], error["type"]) == (code, "server_error")
    request_id = error["details"]["id"]
    kept = network.ended(person, request_id)
    charged = error["details"]["charged"]
    assert (kept["state"], kept["error"]["code"], kept["error"]["charged"]) == ("failed", code, charged)
    assert not kept.get("answer")
    assert network.reservation(request_id) == ("settled" if charged else "released")
    return error


def answered_by(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    document = response.json()
    assert document["choices"][0]["message"]["content"]
    return str(document["node"]["id"])


@contextmanager
def northfield_is(network: Network, person: User, node: Listener) -> Iterator[None]:
    """The roster leads to ``node`` inside the block; afterwards the real one is asked and answers."""
    genuine = network.execute("SELECT url FROM federation_node WHERE id = 'northfield'")[0][0]
    with closing(node):
        try:
            _readdress(network, node.url)
            yield
        finally:
            _readdress(network, genuine)
    assert answered_by(ask(network, person, AT_NORTHFIELD)) == "northfield"


def _readdress(network: Network, url: str) -> None:
    moved = "UPDATE federation_node SET url = %s WHERE id = 'northfield' RETURNING clock_timestamp()"
    at = network.execute(moved, (url,))[0][0]
    deadline = time.monotonic() + ROSTER_SECONDS
    while not network.execute(REFRESHED, (at,)):  # the worker has read the roster since
        assert time.monotonic() < deadline, "the worker did not read the roster"
        time.sleep(0.05)


# --- slow --------------------------------------------------------------------------------------------------------


def test_an_answer_that_does_not_come_is_a_504_and_the_charge_stands(impatient: Network, user: User) -> None:
    node = StallingNode(impatient.layout.nodes[0].port)
    before = spent(impatient)
    with northfield_is(impatient, user, node):
        begun = time.monotonic()
        response = ask(impatient, user, COHORT)
        assert READ_SECONDS <= time.monotonic() - begun < 60
        error = refusal(impatient, user, response, 504, "node_timeout")
        assert error["message"] == "The hospital's node did not answer in time."
        assert error["details"]["charged"] is True
        assert node.heard.is_set(), "the node was asked, and may have answered"
        after = spent(impatient)
        assert after.quotas - before.quotas == 3 * 3_000_000, "of person, department and hospital, once"
        assert after.block > before.block
        other = ask(impatient, user, {"kind": "general", "hospitals": ["lakeside"]})
        assert answered_by(other) == "lakeside"


def test_a_stream_that_never_begins_is_a_504_as_well(impatient: Network, user: User) -> None:
    with northfield_is(impatient, user, StallingNode(impatient.layout.nodes[0].port)):
        response = ask(impatient, user, AT_NORTHFIELD, stream=True)
        assert refusal(impatient, user, response, 504, "node_timeout")["details"]["charged"] is True


def test_a_node_that_never_speaks_was_not_asked(impatient: Network, user: User) -> None:
    node, before = SilentNode(), spent(impatient)
    with northfield_is(impatient, user, node):
        assert answered_by(ask(impatient, user, GENERAL)) == "lakeside"
        error = refusal(impatient, user, ask(impatient, user, COHORT), 503, "no_node")
        assert error["details"]["charged"] is False
        assert node.tried == 2
        assert spent(impatient) == before


# --- a wrong certificate -----------------------------------------------------------------------------------------


def stranger(network: Network, folder: Path) -> Path:
    """A certificate for the same name and host, of an authority that the network does not know."""
    identity.create_ca(folder / "ca")
    identity.issue(folder / "ca", folder / "northfield", "northfield", server=True)
    return folder / "northfield"


def other_node(network: Network, folder: Path) -> Path:
    """The identity of another member of the network."""
    return network.layout.identity("lakeside")


@pytest.mark.parametrize("posing", [stranger, other_node])
def test_a_node_with_a_wrong_certificate_hears_nothing(
    posing: Any, impatient: Network, user: User, tmp_path: Path
) -> None:
    ca = impatient.layout.identity(COORDINATOR) / "ca.pem"
    node = Impostor(posing(impatient, tmp_path), ca, lambda body: faulty.answer(LIE, None))
    before = spent(impatient)
    with northfield_is(impatient, user, node):
        assert answered_by(ask(impatient, user, GENERAL)) == "lakeside"
        assert node.tried == 1
        error = refusal(impatient, user, ask(impatient, user, COHORT), 503, "no_node")
        assert error["message"] == "No hospital node that may answer this is available right now."
        assert error["details"]["charged"] is False
        assert (node.tried, node.heard) == (2, b"")
        assert spent(impatient) == before


# --- nonsense ----------------------------------------------------------------------------------------------------


def nonsense(network: Network) -> dict[str, Reply]:
    """What a node with the right certificate may say instead of an answer."""
    me, other = network.layout.identity("northfield"), network.layout.identity("lakeside")

    def signed(envelope: bytes, signer: Path = me, about: str = LIE, **changes: Any) -> bytes:
        return faulty.answer(LIE, faulty.receipt_for(envelope, me, signer, about, **changes))

    def tampered(envelope: bytes) -> bytes:
        receipt = faulty.receipt_for(envelope, me, me, LIE)
        receipt["body"]["kind"] = "chart"
        return faulty.answer(LIE, receipt)

    return {
        "no HTTP": lambda envelope: b"\x16\x00\xff" + LIE.encode(),
        "no JSON": lambda envelope: faulty.response(f"<html>{LIE}</html>\n".encode()),
        "no text": lambda envelope: faulty.response(b'{"type":"answer","text":"\xff\xfe"}\n'),
        "an envelope": lambda envelope: faulty.response(envelope + b"\n"),
        "half an answer": lambda envelope: signed(envelope)[:-40],
        "no receipt": lambda envelope: faulty.answer(LIE, None),
        "signed by another": lambda envelope: signed(envelope, signer=other),
        "changed after signing": tampered,
        "about another answer": lambda envelope: signed(envelope, about="Velorapine causes vertigo."),
        "about another request": lambda envelope: signed(envelope, request_digest="ab" * 32),
    }


@pytest.mark.parametrize("stream", [False, True])
def test_nonsense_is_refused_and_never_shown(impatient: Network, user: User, stream: bool) -> None:
    """All kinds of it in one test: each starts from a node that has just answered well."""
    me, before = impatient.layout.identity("northfield"), spent(impatient)
    for name, reply in nonsense(impatient).items():
        node = Impostor(me, me / "ca.pem", reply)
        with northfield_is(impatient, user, node):
            response = ask(impatient, user, GENERAL, stream=stream)
            error = refusal(impatient, user, response, 502, "node_failed")
            assert error["message"] == "The hospital's node failed to answer.", name
            assert error["details"]["charged"] is True, name
            assert "elorapine" not in response.text, name
            assert QUESTION.encode() not in node.heard and b'"sealed"' in node.heard, name
            assert node.tried == 1, "what may have been answered is asked nowhere else"
    assert spent(impatient) == before


def test_the_same_node_with_a_right_receipt_is_believed(impatient: Network, user: User) -> None:
    """Or the tests above would pass for a node that is refused for another reason."""
    me = impatient.layout.identity("northfield")
    true = Impostor(me, me / "ca.pem", lambda envelope: faulty.answer(LIE, faulty.receipt_for(envelope, me, me, LIE)))
    with northfield_is(impatient, user, true):
        response = ask(impatient, user, GENERAL)
    assert response.json()["choices"][0]["message"]["content"] == LIE
