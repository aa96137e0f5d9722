"""What one hospital published answers a question asked at another one, for nothing. No engine has a part in it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import openai
import pytest

from federation import receipts
from federation.identity import load_public
from tests.flows import harness
from tests.flows.harness import MODEL, Network
from tests.flows.test_across import IdleEngine

PROJECT = Path(__file__).resolve().parents[2]
QUESTION = [{"role": "user", "content": "How many patients on velorapine had a dry cough?"}]
PROBED_SECONDS = 90.0


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Two hospitals whose engine says that it is there, and can do nothing else."""
    engine = ThreadingHTTPServer(("127.0.0.1", 0), IdleEngine)
    threading.Thread(target=engine.serve_forever, daemon=True).start()
    folder, address = tmp_path_factory.mktemp("released") / "network", f"http://127.0.0.1:{engine.server_port}"
    try:
        with harness.network(folder, nodes=2, engine=address, reports=True) as running:
            yield running
    finally:
        engine.shutdown()
        engine.server_close()


def release(network: Network, hospital: str, *arguments: str) -> str:
    """The hospital's own command, as its IT would run it."""
    node = next(node for node in network.layout.nodes if node.id == hospital)
    environment = {"PATH": os.environ.get("PATH", ""), **network.stack.node_environment(node)}
    command = [sys.executable, "manage.py", "release", *arguments]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_published_number_is_asked_across_the_network_and_costs_nothing(hospitals: Network) -> None:
    person = hospitals.user("attending")
    home = person.hospital
    publisher = next(node.id for node in hospitals.layout.nodes if node.id != home)
    with hospitals.openai(person) as client:

        def ask() -> openai.types.chat.ChatCompletion:
            wish = {"privacy": {"kind": "cohort.released"}}
            return client.chat.completions.create(model=MODEL, messages=QUESTION, extra_body=wish)  # type: ignore[arg-type]

        with pytest.raises(openai.NotFoundError) as refused:
            ask()
        assert refused.value.code == "nothing_released" and "published nothing yet" in str(refused.value)

        name = release(hospitals, publisher, "plan", "cards", "--epsilon", "6", "--by", "Pia Planner")[:8]
        release(hospitals, publisher, "approve", name, "--by", "Otto Officer")
        assert "published" in release(hospitals, publisher, "make", name)
        deadline = time.monotonic() + PROBED_SECONDS
        told: list[tuple[object, ...]] = []
        while not (told and told[0][0]):
            assert time.monotonic() < deadline, "the probe does not tell what is published"
            time.sleep(1)
            told = hospitals.execute(
                "SELECT status->'releases'->0->>'epsilon', public_keys FROM federation_node WHERE id = %s", (publisher,)
            )
        assert told[0][0] == "6.0"
        answer = ask()
    found = answer.model_dump()
    text = answer.choices[0].message.content or ""
    assert "patients were counted: velorapine with dry cough. The noise leaves" in text
    assert "at epsilon 6 per patient. That was paid once; asking costs nothing more." in text
    assert found["node"]["id"] == publisher and found["privacy"]["epsilon"] == 0.0
    receipt = found["privacy"]["receipt"]
    assert receipt["body"]["mechanism"] is None and receipt["body"]["released"]["releases"][0]["epsilon"] == 6.0
    keys = load_public(told[0][1])  # type: ignore[arg-type]
    assert receipts.covers(receipt, keys, message_id=receipt["body"]["message_id"], answer=text)
    row = hospitals.latest()
    kept = hospitals.execute("SELECT kind, epsilon_micro, state FROM federation_inference WHERE id = %s", (row,))
    assert kept == [("cohort.released", 0, "done")]
