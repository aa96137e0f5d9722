"""Asks the hospitals' nodes to cosign this log's latest checkpoint, and keeps what they sign."""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction
from django.db.models import Max

from compliance.log import checkpoints
from compliance.log.entries import append
from compliance.log.sequencing import read_tile
from compliance.merkle import notes, tiles
from compliance.models import Checkpoint, Cosignature
from fdrouter import evidence
from federation.database import in_thread
from federation.gateway import CallFailed, Gateway, NodeEndpoint
from federation.identity import load_public
from federation.models import Node, Transport

log = logging.getLogger(__name__)
REFUSALS = ("smaller", "fork", "inconsistent")


@dataclass(frozen=True, slots=True)
class Asked:
    """A node that has not cosigned the checkpoint, and the size of the last one that it did."""

    endpoint: NodeEndpoint
    cosigned: int


def ask_all() -> int:
    """Asks every active node that has not cosigned the latest checkpoint yet; returns how many did now."""
    return asyncio.run(collect())


async def collect() -> int:
    """:func:`ask_all` on a running loop."""
    point, asked = await in_thread(_outstanding)()
    if point is None or not asked:
        return 0
    gateway = Gateway()
    try:
        return sum(await asyncio.gather(*(_ask(gateway, point, one) for one in asked)))
    finally:
        await gateway.close()


def _outstanding() -> tuple[Checkpoint | None, list[Asked]]:
    point = checkpoints.latest()
    return point, list(_missing(point)) if point else []


def _missing(point: Checkpoint) -> Iterator[Asked]:
    last = dict(Cosignature.objects.values_list("witness").annotate(size=Max("checkpoint")))
    for node in Node.objects.filter(active=True, transport=Transport.SEALED).order_by("pk"):
        try:
            public = load_public(node.public_keys)
        except (KeyError, TypeError, ValueError):
            continue
        if last.get(public.name, 0) < point.size:
            models, place = frozenset(node.served_models), (node.pk, node.name, node.hospital_id, node.url)
            endpoint = NodeEndpoint(*place, node.transport, models, public, certificate_sha256=node.certificate_sha256)
            yield Asked(endpoint, last.get(public.name, 0))


async def _ask(gateway: Gateway, point: Checkpoint, asked: Asked) -> bool:
    """Whether the node cosigned. One that has seen another size than was thought is asked a second time."""
    first = asked.cosigned
    for _ in range(2):
        try:
            document = await in_thread(_document)(point, first)
            answer = await gateway.witness(asked.endpoint, document)
        except CallFailed as error:
            log.info("not cosigned", extra={"node": asked.endpoint.id, "reason": error.code})
            return False
        seen = answer.get("seen")
        if type(seen) is not int or not 0 <= seen < point.size:
            return await in_thread(_keep)(point, asked.endpoint, answer)
        first = seen
    return False


def _document(point: Checkpoint, first: int) -> dict[str, Any]:
    proof = tiles.consistency(first, point.size, read_tile)
    return {"note": point.note, "first": first, "proof": [base64.b64encode(value).decode() for value in proof]}


def _keep(point: Checkpoint, endpoint: NodeEndpoint, answer: dict[str, Any]) -> bool:
    """Stores a cosignature that holds. A refusal is evidence here, too: a witness has seen another history."""
    lines, refused = answer.get("lines"), answer.get("refused")
    public = endpoint.public
    if public is None:
        return False
    if refused in REFUSALS:
        log.error("witness refused", extra={"node": endpoint.id, "reason": refused, "size": point.size})
        details = {"witness": public.name, "size": point.size, "root": bytes(point.root).hex()}
        with transaction.atomic():
            append(
                [evidence.Event(kind="witness.refused", outcome=refused, hospital=endpoint.hospital, details=details)]
            )
        return False
    good = isinstance(lines, str) and lines.count("\n") == 2 and lines.endswith("\n")
    if not good or notes.cosigned_by(point.note + str(lines), checkpoints.key_of(public)) is None:
        log.warning("cosignature wrong", extra={"node": endpoint.id, "size": point.size})
        return False
    with connection.cursor() as cursor:
        cursor.execute("SELECT log_cosign(%s, %s, %s)", [point.size, public.name, lines])
        return bool(cursor.fetchone()[0])
