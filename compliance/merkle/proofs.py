"""Checks of inclusion and consistency proofs (RFC 9162, sections 2.1.3.2 and 2.1.4.2).

What is checked here may come from anybody. Nothing in this module raises: what is malformed, too long or too short
proves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from compliance.merkle.hashing import EMPTY_ROOT, SIZE, node_hash

MAX_SIZE = 2**63 - 1
"""The largest tree: sizes are the database's signed 64-bit integers."""


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_SIZE


def _is_hash(value: object) -> bool:
    return isinstance(value, bytes) and len(value) == SIZE


def _are_hashes(values: object) -> bool:
    return isinstance(values, list | tuple) and all(map(_is_hash, values))


def root_from_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes]) -> bytes:
    """The root of the tree of ``size`` entries in which ``proof`` places the leaf hash ``leaf`` at ``index``.

    The proof goes from the leaf's sibling up. Empty bytes, which are no root: no tree of this size has such a proof.
    """
    if not (_is_size(index) and _is_size(size) and _is_hash(leaf) and _are_hashes(proof)) or index >= size:
        return b""
    node, last, root = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return b""
        if node & 1 or node == last:
            root = node_hash(sibling, root)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        node, last = node >> 1, last >> 1
    return root if last == 0 else b""


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether ``proof`` shows that the tree of ``size`` entries under ``root`` has the leaf hash at ``index``."""
    return _is_hash(root) and root_from_inclusion(index, size, leaf, proof) == root


def verify_consistency(first: int, second: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes) -> bool:
    """Whether ``proof`` shows that the tree of ``second`` entries begins with the whole tree of ``first`` entries.

    An empty tree is the beginning of every tree and needs no proof.
    """
    if not (_is_size(first) and _is_size(second) and _is_hash(first_root) and _is_hash(second_root)):
        return False
    if not _are_hashes(proof) or first > second:
        return False
    if first == second:
        return not proof and first_root == second_root and (first > 0 or first_root == EMPTY_ROOT)
    if first == 0:
        return not proof and first_root == EMPTY_ROOT
    return _roots_from_consistency(first, second, proof, first_root) == (first_root, second_root)


def _roots_from_consistency(
    first: int, second: int, proof: Sequence[bytes], first_root: bytes
) -> tuple[bytes, bytes] | None:
    """Both roots as the proof has them, for 0 < first < second; ``None``: it has the wrong length."""
    path = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    if not path:
        return None
    node, last = first - 1, second - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            return None
        if node & 1 or node == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        node, last = node >> 1, last >> 1
    return (old, new) if last == 0 else None
