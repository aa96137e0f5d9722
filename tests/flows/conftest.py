"""The network that flow tests share, started once a run."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests import embedded
from tests.flows import harness
from tests.flows.harness import Network


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    """Two hospitals, report worker included. A test that takes a part down puts it back (``Network.without``)."""
    folder = embedded.ROOT / str(os.getpid()) / "network"
    overrides = {"FDROUTER_LEASE_SECONDS": "4"}
    with harness.network(folder, nodes=2, reports=True, overrides=overrides) as running:
        yield running
