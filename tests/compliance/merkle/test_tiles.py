"""Tiles against the definition by recursion: every size and index, and growth over the borders of tiles."""

from __future__ import annotations

import random

import pytest

from compliance.merkle import proofs, tiles
from compliance.merkle.hashing import EMPTY_ROOT, leaf_hash
from tests.compliance.merkle import naive
from tests.compliance.merkle.stores import Store, entries, filled, hashes

SMALL = 300
LARGE = (255, 256, 257, 511, 512, 513, 767, 1000, 1023, 1024, 1025, 1999, 2000)
PLACES = 2**16


@pytest.fixture(scope="module")
def store() -> Store:
    return filled(2000)


@pytest.fixture(scope="module")
def deep() -> Store:
    """Three levels, grown in random batches."""
    draw, grown, left = random.Random(6962), Store(), hashes(entries(PLACES + 700))
    while left:
        count = draw.choice((1, 2, 16, 255, 256, 257, 4000))
        grown.grow(left[:count])
        left = left[count:]
    return grown


def test_every_root_and_inclusion_proof_of_small_trees(store: Store) -> None:
    data = entries(SMALL)
    for size in range(SMALL + 1):
        root = naive.mth(data[:size])
        assert store.root(size) == root
        for index in range(size):
            proof = tiles.inclusion(index, size, store.read)
            assert proofs.root_from_inclusion(index, size, leaf_hash(data[index]), proof) == root


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 65, 255, 256, 257, 300])
def test_inclusion_proofs_are_the_rfc_s(size: int, store: Store) -> None:
    data = entries(size)
    for index in range(size):
        assert tiles.inclusion(index, size, store.read) == naive.path(index, data)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 65, 255, 256, 257, 300])
def test_consistency_proofs_are_the_rfc_s(size: int, store: Store) -> None:
    data = entries(size)
    for first in range(1, size + 1):
        assert tiles.consistency(first, size, store.read) == naive.proof(first, data)


def test_every_pair_of_small_trees_is_consistent(store: Store) -> None:
    roots = [store.root(size) for size in range(SMALL + 1)]
    for second in range(SMALL + 1):
        for first in range(second + 1):
            proof = tiles.consistency(first, second, store.read)
            assert proofs.verify_consistency(first, second, proof, roots[first], roots[second])


@pytest.mark.parametrize("size", LARGE)
def test_larger_trees(size: int, store: Store) -> None:
    data, draw = entries(size), random.Random(size)
    root = naive.mth(data)
    assert store.root(size) == root
    for index in draw.sample(range(size), 20):
        proof = tiles.inclusion(index, size, store.read)
        assert proof == naive.path(index, data)
    for first in draw.sample(range(1, size + 1), 20):
        proof = tiles.consistency(first, size, store.read)
        assert proof == naive.proof(first, data)
        assert proofs.verify_consistency(first, size, proof, naive.mth(data[:first]), root)


def test_growth_in_any_batches_gives_the_same_tiles() -> None:
    whole, draw = filled(1500), random.Random(1)
    for _ in range(5):
        grown, left = Store(), hashes(entries(1500))
        while left:
            count = draw.randint(0, 300)
            grown.grow(left[:count])
            left = left[count:]
        assert grown.tiles == whole.tiles


@pytest.mark.parametrize("before", [0, 1, 255, 256, 257, 511, 512])
@pytest.mark.parametrize("added", [0, 1, 2, 255, 256, 257, 513])
def test_growth_returns_what_is_new_or_longer_and_nothing_else(before: int, added: int) -> None:
    store, after = filled(before), filled(before + added)
    old = dict(store.tiles)
    grown = store.grow(hashes(entries(before + added))[before:])
    assert store.tiles == after.tiles
    assert set(grown) == {place for place, tile in after.tiles.items() if old.get(place) != tile}
    assert all(
        len(tile) > len(old.get(place, b"")) and tile.startswith(old.get(place, b"")) for place, tile in grown.items()
    )


def test_tiles_have_the_sizes_of_the_specification() -> None:
    """C2SP tlog-tiles: the partial tile of level l has floor(s / 256**l) mod 256 hashes, and none is empty."""
    for size in (1, 255, 256, 257, 2000):
        store = filled(size)
        wanted: dict[tuple[int, int], int] = {}
        for level in range(3):
            full, rest = divmod(size // 256**level, 256)
            wanted |= {(level, nth): 256 for nth in range(full)} | ({(level, full): rest} if rest else {})
        assert {place: len(tile) // 32 for place, tile in store.tiles.items()} == wanted


def test_a_tree_of_three_levels(deep: Store) -> None:
    data, draw, size = entries(PLACES + 700), random.Random(2), PLACES + 700
    assert deep.tiles == filled(size).tiles
    assert len(deep.tiles[2, 0]) == 32
    root = naive.mth(data)
    assert deep.root() == root
    assert deep.root(PLACES) == naive.mth(data[:PLACES])
    for index in (0, PLACES - 1, PLACES, size - 1, *draw.sample(range(size), 50)):
        leaf = leaf_hash(data[index])
        assert proofs.verify_inclusion(index, size, leaf, tiles.inclusion(index, size, deep.read), root)
    for first in (1, 256, PLACES - 1, PLACES, PLACES + 1, size - 1, *draw.sample(range(1, size), 50)):
        proof = tiles.consistency(first, size, deep.read)
        assert proofs.verify_consistency(first, size, proof, deep.root(first), root)


def test_few_tiles_are_read(deep: Store) -> None:
    """At most two a level, however many entries there are."""
    draw = random.Random(3)
    for _ in range(200):
        size = draw.randint(1, deep.size)
        calls = (
            lambda size=size: tiles.root(size, deep.read),
            lambda size=size: tiles.inclusion(draw.randrange(size), size, deep.read),
            lambda size=size: tiles.consistency(draw.randint(0, size), size, deep.read),
        )
        for call in calls:
            deep.reads = 0
            call()
            assert deep.reads <= 6


def test_nothing_to_show_for_an_empty_tree_or_the_same_one(store: Store) -> None:
    assert store.root(0) == EMPTY_ROOT
    assert tiles.consistency(0, 300, store.read) == tiles.consistency(300, 300, store.read) == []


def test_a_missing_or_short_tile_is_noticed() -> None:
    store = filled(600)
    store.tiles[0, 2] = store.tiles[0, 2][:-32]
    for call in (
        lambda: tiles.root(600, store.read),
        lambda: tiles.inclusion(0, 600, store.read),
        lambda: tiles.consistency(599, 600, store.read),
        lambda: tiles.grow(600, [bytes(32)], store.read),
    ):
        with pytest.raises(tiles.TileDamaged):
            call()
    store.tiles[0, 2] = filled(600).tiles[0, 2] + b"x"
    with pytest.raises(tiles.TileDamaged):
        tiles.root(600, store.read)


def test_impossible_questions(store: Store) -> None:
    for call in (
        lambda: tiles.inclusion(5, 5, store.read),
        lambda: tiles.inclusion(-1, 5, store.read),
        lambda: tiles.consistency(6, 5, store.read),
        lambda: tiles.consistency(-1, 5, store.read),
        lambda: tiles.root(-1, store.read),
        lambda: tiles.root(2**63, store.read),
        lambda: tiles.grow(-1, [bytes(32)], store.read),
        lambda: tiles.grow(0, [bytes(31)], store.read),
    ):
        with pytest.raises(ValueError):
            call()
