"""Tiles in a dictionary, as the database would keep them."""

from __future__ import annotations

from collections.abc import Sequence

from compliance.merkle import hashing, tiles


class Store:
    """A log of leaf hashes. ``reads`` counts what was read since it was last set."""

    def __init__(self) -> None:
        self.size = 0
        self.tiles: dict[tuple[int, int], bytes] = {}
        self.reads = 0

    def read(self, level: int, index: int) -> bytes:
        self.reads += 1
        return self.tiles.get((level, index), b"")

    def grow(self, hashes: Sequence[bytes]) -> dict[tuple[int, int], bytes]:
        grown = tiles.grow(self.size, hashes, self.read)
        self.tiles |= grown
        self.size += len(hashes)
        return grown

    def root(self, size: int | None = None) -> bytes:
        return tiles.root(self.size if size is None else size, self.read)


def entries(count: int, name: str = "entry") -> list[bytes]:
    return [f"{name} {nth}".encode() for nth in range(count)]


def hashes(data: list[bytes]) -> list[bytes]:
    return [hashing.leaf_hash(one) for one in data]


def filled(count: int) -> Store:
    store = Store()
    store.grow(hashes(entries(count)))
    return store
