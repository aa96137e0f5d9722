"""The log of evidence: a Merkle tree over append-only rows.

Events are written in the transaction of their action (:func:`append`) and get their place in the tree in batches
afterwards (:func:`sequence`); checkpoints sign what the tree holds (:func:`checkpoint`). :func:`tend` does both.
Nodes cosign the coordinator's (:func:`witness`).
"""

from compliance.log.checkpoints import LogDamaged, checkpoint, tend
from compliance.log.entries import append, erase
from compliance.log.sequencing import sequence
from compliance.log.witnessing import witness

__all__ = ["LogDamaged", "append", "checkpoint", "erase", "sequence", "tend", "witness"]
