"""What proves nothing: wrong places, sizes, roots and leaves, proofs cut, lengthened or turned, and nonsense."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance.merkle import proofs, tiles
from compliance.merkle.hashing import EMPTY_ROOT, leaf_hash, node_hash
from tests.compliance.merkle.stores import Store, entries, filled, hashes

SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33)
OTHER = leaf_hash(b"not in the log")


@pytest.fixture(scope="module")
def store() -> Store:
    return filled(300)


def mutations(proof: list[bytes]) -> list[list[bytes]]:
    """Proofs of the same claim that are not it."""
    found = [[*proof, OTHER], [OTHER, *proof]]
    if proof:
        found += [proof[:-1], proof[1:], [*proof, proof[-1]]]
        found += [[*proof[:nth], OTHER, *proof[nth + 1 :]] for nth in range(len(proof))]
    if len(proof) > 1:
        found.append(proof[::-1])
    return found


@pytest.mark.parametrize("size", SIZES)
def test_inclusion_holds_for_nothing_else(size: int, store: Store) -> None:
    root, leaves = store.root(size), hashes(entries(size))
    for index in range(size):
        proof = tiles.inclusion(index, size, store.read)
        assert proofs.verify_inclusion(index, size, leaves[index], proof, root)
        for other in {*range(size + 2), -1, 2**63} - {index}:
            assert not proofs.verify_inclusion(other, size, leaves[index], proof, root)
        for other in range(index + 1, 2 * size + 2):
            if other != size and store.root(other) != root:
                good = proofs.verify_inclusion(index, other, leaves[index], proof, store.root(other))
                assert good == (proof == tiles.inclusion(index, other, store.read))
        assert not proofs.verify_inclusion(index, size, OTHER, proof, root)
        assert not proofs.verify_inclusion(index, size, leaves[index], proof, OTHER)
        for changed in mutations(proof):
            assert not proofs.verify_inclusion(index, size, leaves[index], changed, root)


@pytest.mark.parametrize("second", SIZES)
def test_consistency_holds_for_nothing_else(second: int, store: Store) -> None:
    roots = [store.root(size) for size in range(2 * second + 2)]
    for first in range(1, second + 1):
        proof = tiles.consistency(first, second, store.read)
        assert proofs.verify_consistency(first, second, proof, roots[first], roots[second])
        assert not proofs.verify_consistency(first, second, proof, OTHER, roots[second])
        assert not proofs.verify_consistency(first, second, proof, roots[first], OTHER)
        for changed in mutations(proof):
            assert not proofs.verify_consistency(first, second, changed, roots[first], roots[second])
        for other in {*range(second + 2)} - {first}:
            assert not proofs.verify_consistency(other, second, proof, roots[first], roots[second])
        if first < second:
            assert not proofs.verify_consistency(second, first, proof, roots[second], roots[first])
            assert not proofs.verify_consistency(second, first, proof, roots[first], roots[second])


def test_a_log_that_was_set_back_or_rewritten_is_not_consistent(store: Store) -> None:
    other = Store()
    other.grow(hashes([*entries(99), b"rewritten", *entries(200)[100:]]))
    for first in (100, 128, 150):
        assert not proofs.verify_consistency(
            first, 200, tiles.consistency(first, 200, other.read), store.root(first), other.root()
        )
        assert not proofs.verify_consistency(
            first, 200, tiles.consistency(first, 200, store.read), store.root(first), other.root()
        )
    assert proofs.verify_consistency(99, 200, tiles.consistency(99, 200, other.read), store.root(99), other.root())


def test_no_inner_node_passes_for_an_entry() -> None:
    """Second pre-images: an entry that is the text of an inner node has another hash."""
    left, right = hashes(entries(2))
    inner = node_hash(left, right)
    assert leaf_hash(left + right) != inner
    assert leaf_hash(b"\x01" + left + right) != inner
    store = filled(4)
    proof = tiles.inclusion(0, 4, store.read)
    assert proofs.verify_inclusion(0, 2, inner, proof[1:], store.root())  # as a leaf hash of two it would pass:
    assert not proofs.verify_inclusion(0, 4, inner, proof[1:], store.root())  # but not of the four that were signed
    assert not proofs.verify_inclusion(0, 2, leaf_hash(left + right), proof[1:], store.root())


def test_the_empty_tree() -> None:
    assert not proofs.verify_inclusion(0, 0, OTHER, [], EMPTY_ROOT)
    assert proofs.verify_consistency(0, 0, [], EMPTY_ROOT, EMPTY_ROOT)
    assert proofs.verify_consistency(0, 5, [], EMPTY_ROOT, OTHER)
    assert not proofs.verify_consistency(0, 5, [OTHER], EMPTY_ROOT, OTHER)
    assert not proofs.verify_consistency(0, 5, [], OTHER, OTHER)
    assert not proofs.verify_consistency(0, 0, [], OTHER, OTHER)


def test_a_root_that_is_none_is_not_proven_by_a_proof_that_is_none() -> None:
    assert proofs.root_from_inclusion(5, 5, OTHER, []) == b""
    assert not proofs.verify_inclusion(5, 5, OTHER, [], b"")


NONSENSE: Any = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=40),
    st.binary(max_size=40),
    st.just(OTHER),
    st.lists(st.one_of(st.none(), st.integers(), st.binary(max_size=33), st.just(OTHER)), max_size=70),
    st.integers(min_value=2**62, max_value=2**80),
)


@given(NONSENSE, NONSENSE, NONSENSE, NONSENSE, NONSENSE)
def test_nonsense_proves_nothing_and_raises_nothing(a: Any, b: Any, c: Any, d: Any, e: Any) -> None:
    assert proofs.verify_inclusion(a, b, c, d, e) is False
    assert isinstance(proofs.root_from_inclusion(a, b, c, d), bytes)
    assert proofs.verify_consistency(a, b, c, d, e) in (False, a == b and d == e)
    assert proofs.verify_consistency(a, b, [OTHER] * 3, OTHER, OTHER) is False


SMALL = st.integers(min_value=0, max_value=40)


@given(SMALL, SMALL, st.lists(st.binary(min_size=32, max_size=32), max_size=8))
def test_random_proofs_prove_nothing(index: int, size: int, proof: list[bytes]) -> None:
    store = filled(40)
    leaf = hashes(entries(41))[index]
    root = store.root(size)
    good = index < size and proof == tiles.inclusion(index, size, store.read)
    assert proofs.verify_inclusion(index, size, leaf, proof, root) == good
