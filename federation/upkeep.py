"""What beat calls: node probes and overdue reservations."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any

from django.db import transaction
from django.utils import timezone

from fdrouter.evidence import Event, record
from federation.database import in_thread
from federation.gateway import CallFailed, Gateway, NodeEndpoint
from federation.identity import load_public
from federation.models import Inference, Node, Transport
from federation.states import TERMINAL
from privacy import ledger

log = logging.getLogger(__name__)


def expire_reservations() -> int:
    """Ends overdue reservations of requests that are over or gone; a request still under way keeps its own."""
    with transaction.atomic():
        expired = ledger.expire(exclude=Inference.objects.exclude(state__in=TERMINAL))
        record(*(Event(kind="ledger.expire", subject=pk, outcome="ok") for pk in sorted(expired)))
    return len(expired)


def _endpoint(node: Node) -> NodeEndpoint:
    public = load_public(node.public_keys) if node.public_keys else None
    return NodeEndpoint(
        node.pk,
        node.name,
        node.hospital_id,
        node.url,
        node.transport,
        frozenset(node.served_models),
        public,
        certificate_sha256=node.certificate_sha256,
    )


def _is_block(block: Any) -> bool:
    """Whether pages and quotes can compute with it."""
    names = ("epsilon", "epsilon_left", "used", "cap", "alpha")
    return isinstance(block, dict) and all(
        isinstance(block.get(n), int | float) and math.isfinite(block[n]) for n in names
    )


async def _probe(gateway: Gateway, node: Node) -> dict[str, Any]:
    try:
        status = await gateway.health(_endpoint(node))
    except (CallFailed, ValueError, KeyError, TypeError) as error:
        reason = error.code if isinstance(error, CallFailed) else "bad_keys"
        log.info("node not healthy", extra={"node": node.pk, "reason": reason})
        return {**node.status, "healthy": False, "checked_at": timezone.now().isoformat()}
    if not isinstance(status, dict):  # garbage of one node must not keep the others from being probed
        status = {"engine": "unknown"}
    if not _is_block(status.get("block")):
        status = {**status, "block": None}
    others = status.get("blocks")
    if not isinstance(others, list) or not all(
        _is_block(block) and isinstance(block.get("key"), str) for block in others
    ):
        status = {**status, "blocks": []}
    healthy = node.transport == Transport.OPENAI or status.get("engine") == "ok"
    status = {**status, "mismatch": node.status.get("mismatch")}
    return {**status, "healthy": healthy, "checked_at": timezone.now().isoformat()}


def _active_nodes() -> list[Node]:
    return list(Node.objects.filter(active=True))


async def probe_nodes() -> int:
    """Writes each active node's status; returns how many are healthy."""
    # Not Django's async queries: their one thread would keep a connection for ever, also a dead one.
    nodes = await in_thread(_active_nodes)()
    gateway = Gateway()
    try:
        statuses = await asyncio.gather(*(_probe(gateway, node) for node in nodes))
    finally:
        await gateway.close()

    def save() -> None:
        for node, status in zip(nodes, statuses, strict=True):
            seen = {"last_seen_at": timezone.now()} if status["healthy"] else {}
            Node.objects.filter(pk=node.pk).update(status=status, **seen)

    await in_thread(save)()
    return sum(bool(status["healthy"]) for status in statuses)
