"""Assigns a waiting batch to nodes, one request after the other, each to its cheapest admissible node.

Pure: a function of the snapshot it is given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A node as the planner sees it. ``load`` counts calls under way; ``block_left`` is in [0, 1].

    ``released``: its hospital has published something.
    """

    node: str
    hospital: str
    models: frozenset[str]
    records: bool
    load: int
    block_left: float = 1.0
    healthy: bool = True
    released: bool = False


@dataclass(frozen=True, slots=True)
class Demand:
    """A request as the planner sees it. ``hospitals`` empty means any; ``records`` needs a hospital's records.

    ``released``: it is answered from what was published, which costs a block nothing.
    """

    id: str
    model: str
    hospitals: frozenset[str]
    records: bool
    home: str | None = None
    released: bool = False


def admissible(demand: Demand, node: Candidate) -> bool:
    """Whether the node may answer the request at all."""
    if demand.model not in node.models or (demand.records and not node.records):
        return False
    return not demand.hospitals or node.hospital in demand.hospitals


def assign(demands: Sequence[Demand], nodes: Sequence[Candidate]) -> dict[str, str | None]:
    """Node id per request id; ``None`` where no node may answer.

    Cost is the load after assignment, and half of one for a hospital that is not the asker's own. A request over
    records prefers the block with more left, and its own hospital by as much as half a block. Ties go to the smaller
    node id, so the result is reproducible.
    """
    load = {node.node: node.load for node in nodes}
    result: dict[str, str | None] = {}
    for demand in demands:
        options = [node for node in nodes if admissible(demand, node)]
        if not options:
            result[demand.id] = None
            continue

        def cost(node: Candidate, demand: Demand = demand) -> tuple[float, str]:
            away = node.hospital != demand.home
            charged = demand.records and not demand.released
            preference = (1.0 - node.block_left) * 4 + 2.0 * away if charged else 0.5 * away
            if demand.released and not node.released:  # it may have published since its last probe, so it may be asked
                preference += 1e3
            # A node whose last probe failed may be back already: it comes last, but it comes.
            return load[node.node] + preference + (0.0 if node.healthy else 1e6), node.node

        chosen = min(options, key=cost)
        load[chosen.node] += 1
        result[demand.id] = chosen.node
    return result
