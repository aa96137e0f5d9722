"""The two hashes of the tree (RFC 6962, section 2.1, SHA-256).

The prefixes 0x00 and 0x01 keep leaves and inner nodes apart: no inner node can be passed off as an entry.
"""

from __future__ import annotations

import hashlib

SIZE = 32
"""Bytes of every hash in the tree."""
EMPTY_ROOT = hashlib.sha256(b"").digest()
"""The root of the tree without entries."""


def leaf_hash(data: bytes) -> bytes:
    """The 32-byte hash of an entry's data."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The 32-byte hash of an inner node over the 32-byte hashes of its children."""
    return hashlib.sha256(b"\x01" + left + right).digest()
