"""The nodes as a worker sees them: addresses and keys from the table, load and breakers from its own calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from federation.breaker import CircuitBreaker
from federation.database import Reconnecting
from federation.gateway import NodeEndpoint
from federation.identity import load_public
from federation.models import Transport
from federation.planning.greedy import Candidate

_NODES = (
    "SELECT id, name, hospital_id, url, transport, served_models, public_keys, status, certificate_sha256"
    " FROM federation_node WHERE active"
)


class Network:
    """A snapshot that :meth:`refresh` renews; everything else is in memory."""

    def __init__(self) -> None:
        self._nodes: dict[str, NodeEndpoint] = {}
        self._load: Counter[str] = Counter()
        self._breakers: dict[str, CircuitBreaker] = {}

    async def refresh(self, database: Reconnecting) -> None:
        """Reads the roster. A node with unreadable keys is left out."""
        found: dict[str, NodeEndpoint] = {}
        for pk, name, hospital, url, transport, models, keys, status, fingerprint in await database.fetch(_NODES):
            try:
                public = load_public(keys) if keys else None
            except (KeyError, ValueError, TypeError):
                continue
            found[pk] = NodeEndpoint(pk, name, hospital, url, transport, frozenset(models), public, status, fingerprint)
        self._nodes = found

    def endpoint(self, node: str) -> NodeEndpoint | None:
        return self._nodes.get(node)

    def label(self, node: str) -> dict[str, str] | None:
        """What an asker is told about a node."""
        found = self._nodes.get(node)
        return {"id": found.id, "name": found.name} if found else None

    def over_records(self, hospital: str) -> NodeEndpoint | None:
        """The hospital's node that answers from its records and is enrolled with keys; the first by id."""
        found = [n for n in self._nodes.values() if n.hospital == hospital and n.transport == Transport.SEALED]
        return min((node for node in found if node.public), key=lambda node: node.id, default=None)

    def has_records(self, hospital: str) -> bool:
        return any(n.hospital == hospital and n.transport == Transport.SEALED for n in self._nodes.values())

    def candidates(self) -> list[Candidate]:
        """What the planner may choose from now: open breakers are left out."""
        return [
            Candidate(
                node=node.id,
                hospital=node.hospital,
                models=node.served_models,
                records=node.transport == Transport.SEALED,
                load=self._load[node.id],
                block_left=_block_left(node.status),
                healthy=node.status.get("healthy", True),
                released=bool(node.status.get("releases")),
            )
            for node in self._nodes.values()
            if self._breaker(node.id).allows()
        ]

    def _breaker(self, node: str) -> CircuitBreaker:
        return self._breakers.setdefault(node, CircuitBreaker())

    @contextmanager
    def using(self, node: str) -> Iterator[CircuitBreaker]:
        """Counts a call under way and hands out the node's breaker."""
        breaker = self._breaker(node)
        trial = breaker.started()
        self._load[node] += 1
        try:
            yield breaker
        finally:
            self._load[node] -= 1
            if trial:  # without a verdict the next call is the trial; else the node would stay left out for ever
                breaker.abandoned()


def _block_left(status: dict[str, Any]) -> float:
    block = status.get("block") or {}
    cap = block.get("cap") or 0
    return max(0.0, 1.0 - block.get("used", 0) / cap) if cap else 1.0
