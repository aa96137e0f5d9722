"""The tree as RFC 6962 defines it, by recursion over all leaf data: slow, and independent of the tiles."""

from __future__ import annotations

import hashlib


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def split(count: int) -> int:
    """The largest power of two below ``count``."""
    k = 1
    while 2 * k < count:
        k *= 2
    return k


def mth(entries: list[bytes]) -> bytes:
    """Merkle Tree Hash, section 2.1."""
    if not entries:
        return sha256(b"")
    if len(entries) == 1:
        return sha256(b"\0" + entries[0])
    k = split(len(entries))
    return sha256(b"\1" + mth(entries[:k]) + mth(entries[k:]))


def path(m: int, entries: list[bytes]) -> list[bytes]:
    """Audit path of entry ``m``, section 2.1.1."""
    if len(entries) == 1:
        return []
    k = split(len(entries))
    if m < k:
        return [*path(m, entries[:k]), mth(entries[k:])]
    return [*path(m - k, entries[k:]), mth(entries[:k])]


def proof(m: int, entries: list[bytes]) -> list[bytes]:
    """Consistency proof from the first ``m`` entries, section 2.1.2."""
    return subproof(m, entries, True)


def subproof(m: int, entries: list[bytes], whole: bool) -> list[bytes]:
    if m == len(entries):
        return [] if whole else [mth(entries)]
    k = split(len(entries))
    if m <= k:
        return [*subproof(m, entries[:k], whole), mth(entries[k:])]
    return [*subproof(m - k, entries[k:], False), mth(entries[:k])]
