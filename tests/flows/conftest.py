"""People for the flow tests."""

from __future__ import annotations

import pytest

from fdrouter.demo.access import User
from tests.flows.harness import Network


@pytest.fixture
def user(network: Network) -> User:
    """A clinician with a large quota, so that each test pays for itself."""
    person = network.user("attending")
    network.execute("UPDATE privacy_scope SET cap = 1000000000 WHERE unit = 'micro_epsilon'")
    with network.http(person) as http:
        http.get("/api/budget").raise_for_status()
    network.execute("UPDATE privacy_scope SET cap = 1000000000 WHERE unit = 'micro_epsilon'")
    return person
