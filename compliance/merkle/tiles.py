"""The tree as tiles of 256 hashes (C2SP tlog-tiles), which are all that has to be stored and read.

The hash at place ``i`` of level ``L`` covers the entries ``[i * 256**L, (i + 1) * 256**L)``; tile ``n`` of a level
holds the places ``[256 n, 256 (n + 1))``. A tree of ``size`` entries has ``size // 256**L`` places at level ``L``: only
the last tile of a level is partial, and it only grows. Whoever stores the tiles gives ``read``; what one call here
reads is at most two tiles a level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from compliance.merkle.hashing import EMPTY_ROOT, SIZE, node_hash
from compliance.merkle.proofs import MAX_SIZE

WIDTH = 256
"""Hashes of a full tile."""
HEIGHT = 8
"""Levels of the binary tree within a tile: 2**HEIGHT == WIDTH."""

Read = Callable[[int, int], bytes]
"""(level, index) -> the concatenated 32-byte hashes of the stored tile; a partial one is shorter."""


class TileDamaged(Exception):
    """A stored tile is missing, or too short for the size that the tree is said to have."""


def grow(size: int, hashes: Sequence[bytes], read: Read) -> dict[tuple[int, int], bytes]:
    """The tiles that are new or longer once the leaf hashes ``hashes`` follow a tree of ``size`` entries.

    Whole tiles by (level, index), to be written as they are. The cost is in the number of hashes, not in ``size``.

    Raises:
        ValueError: a hash has not 32 bytes, or the size is none.
        TileDamaged: a partial tile that must be longer is not as long as ``size`` says.
    """
    _check_size(size + len(hashes))
    if size < 0 or any(len(value) != SIZE for value in hashes):
        raise ValueError("a size is not negative, and a hash has 32 bytes")
    grown: dict[tuple[int, int], bytes] = {}
    level, before, added = 0, size, list(hashes)
    while added:
        index, kept = divmod(before, WIDTH)
        found = [*_hashes(read(level, index), level, index, 0, kept), *added] if kept else added
        full = []
        for nth, start in enumerate(range(0, len(found), WIDTH)):
            tile = found[start : start + WIDTH]
            grown[level, index + nth] = b"".join(tile)
            if len(tile) == WIDTH:
                full.append(_fold(tile))
        level, before, added = level + 1, before // WIDTH, full
    return grown


def root(size: int, read: Read) -> bytes:
    """The root of the first ``size`` entries; the tiles may hold more.

    Raises:
        ValueError: the size is none.
        TileDamaged: the tiles hold less.
    """
    _check_size(size)
    return _Tree(read).range_root(0, size) if size else EMPTY_ROOT


def inclusion(index: int, size: int, read: Read) -> list[bytes]:
    """The proof that entry ``index`` is in the tree of ``size`` entries, from its sibling up (PATH of RFC 6962).

    Raises:
        ValueError: not 0 <= index < size.
        TileDamaged: the tiles hold less than ``size`` entries.
    """
    _check_size(size)
    if not 0 <= index < size:
        raise ValueError("the entry is not in a tree of this size")
    tree, low, high, proof = _Tree(read), 0, size, []
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            proof.append(tree.range_root(middle, high))
            high = middle
        else:
            proof.append(tree.range_root(low, middle))
            low = middle
    return proof[::-1]


def consistency(first: int, second: int, read: Read) -> list[bytes]:
    """The proof that the tree of ``second`` entries begins with that of ``first`` entries (PROOF of RFC 6962).

    Nothing has to be shown for an empty tree or for a tree and itself.

    Raises:
        ValueError: not 0 <= first <= second.
        TileDamaged: the tiles hold less than ``second`` entries.
    """
    _check_size(second)
    if not 0 <= first <= second:
        raise ValueError("the first tree is not a beginning of the second")
    if first in (0, second):
        return []
    tree, low, high, proof, known = _Tree(read), 0, second, [], True
    while first != high:
        middle = low + _split(high - low)
        if first <= middle:
            proof.append(tree.range_root(middle, high))
            high = middle
        else:
            proof.append(tree.range_root(low, middle))
            low, known = middle, False
    if not known:  # otherwise the subtree is the first tree itself, whose root the verifier has
        proof.append(tree.range_root(low, high))
    return proof[::-1]


def _check_size(size: int) -> None:
    if not 0 <= size <= MAX_SIZE:
        raise ValueError("no tree has this size")


def _split(width: int) -> int:
    """The largest power of two below ``width`` (of 2 or more)."""
    return 1 << (width - 1).bit_length() - 1


def _hashes(tile: bytes, level: int, index: int, low: int, high: int) -> list[bytes]:
    """The hashes [low, high) of a stored tile."""
    if len(tile) < high * SIZE or len(tile) % SIZE:
        raise TileDamaged(f"tile {index} of level {level} has {len(tile)} bytes, {high * SIZE} are needed")
    return [bytes(tile[start : start + SIZE]) for start in range(low * SIZE, high * SIZE, SIZE)]


def _fold(hashes: list[bytes]) -> bytes:
    """The root over a power of two of hashes."""
    while len(hashes) > 1:
        hashes = [node_hash(hashes[nth], hashes[nth + 1]) for nth in range(0, len(hashes), 2)]
    return hashes[0]


class _Tree:
    """Roots of subtrees, each tile read once."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._tiles: dict[tuple[int, int], bytes] = {}

    def range_root(self, low: int, high: int) -> bytes:
        """The root over the entries [low, high), where ``low`` is where RFC 6962 would split.

        The range is cut into complete subtrees, the largest first, which are joined from the right.
        """
        parts = []
        while low < high:
            height = (high - low).bit_length() - 1
            parts.append(self._complete(low, height))
            low += 1 << height
        found = parts.pop()
        while parts:
            found = node_hash(parts.pop(), found)
        return found

    def _complete(self, low: int, height: int) -> bytes:
        """The root over the entries [low, low + 2**height), all of which exist; ``low`` is a multiple of 2**height."""
        level, within = divmod(height, HEIGHT)
        index, place = divmod(low >> HEIGHT * level, WIDTH)
        tile = self._tiles.get((level, index))
        if tile is None:
            tile = self._tiles[level, index] = self._read(level, index)
        return _fold(_hashes(tile, level, index, place, place + (1 << within)))
