"""The tree computed again, entry by entry: what stored tiles and signed roots must equal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from compliance.merkle.hashing import EMPTY_ROOT, SIZE, node_hash
from compliance.merkle.tiles import HEIGHT, WIDTH


class Levels:
    """All hashes of every tile level, 32 bytes each (in memory: 32 MB for a million entries), and roots by size."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.size = 0
        self.roots: dict[int, bytes] = {0: EMPTY_ROOT}
        self._wanted = frozenset(sizes)
        self._levels: list[bytearray] = []
        self._parts: list[tuple[int, bytes]] = []  # complete subtrees from left to right: height, root

    def add(self, value: bytes) -> None:
        """The next entry's leaf hash."""
        self._store(0, value)
        height = 0
        while self._parts and self._parts[-1][0] == height:
            value, height = node_hash(self._parts.pop()[1], value), height + 1
            if height % HEIGHT == 0:
                self._store(height // HEIGHT, value)
        self._parts.append((height, value))
        self.size += 1
        if self.size in self._wanted:
            self.roots[self.size] = self._root()

    def _store(self, level: int, value: bytes) -> None:
        if level == len(self._levels):
            self._levels.append(bytearray())
        self._levels[level] += value

    def _root(self) -> bytes:
        found = self._parts[-1][1]
        for _, left in reversed(self._parts[:-1]):
            found = node_hash(left, found)
        return found

    def expected(self) -> set[tuple[int, int]]:
        """The tiles that must be there, as (level, index)."""
        return {
            (level, index)
            for level, hashes in enumerate(self._levels)
            for index in range(-(-len(hashes) // (SIZE * WIDTH)))
        }

    def compare(self, level: int, index: int, stored: bytes) -> Iterator[tuple[int, str]]:
        """What is wrong with a stored tile: the place in it, and what it is."""
        start = SIZE * WIDTH * index
        computed = bytes(self._levels[level][start : start + SIZE * WIDTH]) if level < len(self._levels) else b""
        if stored == computed:
            return
        for at in range(0, max(len(stored), len(computed)), SIZE):
            one, other = stored[at : at + SIZE], computed[at : at + SIZE]
            if one != other:
                yield (
                    at // SIZE,
                    "lacks the hash" if not one else "has a hash too many," if not other else "differs in the hash",
                )
