"""The log of evidence: a Merkle tree over append-only rows.

Events are written in the transaction of their action (:func:`append`) and get their place in the tree in batches
afterwards (:func:`sequence`). Checkpoints sign what the tree holds.
"""

from compliance.log.entries import append, erase
from compliance.log.sequencing import sequence

__all__ = ["append", "erase", "sequence"]
