"""Masks cancel in the whole sum and in nothing short of it; every part of what was agreed changes all of them."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdrouter.errors import InvalidParameter
from federation.secagg import masks, session
from federation.secagg.masks import Words
from federation.secagg.session import Session

SUBJECT = "ab" * 32


def members(count: int) -> tuple[tuple[str, str], ...]:
    return tuple((f"node-{n:02d}", f"{n:016x}") for n in range(count))


def make(count: int = 3, length: int = 4, id: str = "one") -> Session:
    return Session(id, members(count), SUBJECT, length)


def seeds_of(of: Session) -> dict[tuple[str, str], bytes]:
    return {(me, to): seed for me in of.names for to, seed in masks.fresh_seeds(of, me).items()}


def share(of: Session, me: str, values: list[int], seeds: dict[tuple[str, str], bytes]) -> Words:
    given_ = {to: seed for (giver, to), seed in seeds.items() if giver == me}
    got = {giver: seed for (giver, to), seed in seeds.items() if to == me}
    return masks.share(of, me, values, given_, got)


def shares(of: Session, values: dict[str, list[int]]) -> dict[str, Words]:
    seeds = seeds_of(of)
    return {me: share(of, me, values[me], seeds) for me in of.names}


def looks_random(words: Words) -> bool:
    """Bits set, and bits that agree with the word before, within six standard deviations of a half."""
    bits = np.unpackbits(words.view(np.uint8))
    changes = np.unpackbits((words[1:] ^ words[:-1]).view(np.uint8))
    return all(abs(found.mean() - 0.5) < 3 / np.sqrt(found.size) for found in (bits, changes))


# --- the sum ----------------------------------------------------------------------------------------------------------
@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_sum_of_all_shares_is_the_sum_of_all_values(data: st.DataObject) -> None:
    of = make(data.draw(st.integers(3, 9)), data.draw(st.integers(1, 13)))
    number = st.integers(-masks.MAX_VALUE, masks.MAX_VALUE)
    values = {me: data.draw(st.lists(number, min_size=of.length, max_size=of.length)) for me in of.names}
    found = masks.total(of, shares(of, values))
    assert found == [sum(values[me][cell] for me in of.names) for cell in range(of.length)]


def test_the_largest_values_of_the_most_members_do_not_overflow() -> None:
    of = make(32, 1)
    for value in (masks.MAX_VALUE, -masks.MAX_VALUE):
        assert masks.total(of, shares(of, dict.fromkeys(of.names, [value]))) == [32 * value]


def test_shares_may_come_in_any_order_and_as_text() -> None:
    of = make(4, 3)
    found = shares(of, dict.fromkeys(of.names, [1, -2, 3]))
    back = {name: masks.from_text(masks.to_text(words)) for name, words in reversed(found.items())}
    assert masks.total(of, back) == [4, -8, 12]


# --- what is hidden ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("some", [1, 2, 3])
def test_any_shares_short_of_all_look_random_also_added_up(some: int) -> None:
    of = make(4, 4096)
    found = shares(of, dict.fromkeys(of.names, [7] * of.length))
    for names in combinations(of.names, some):
        added = np.zeros(of.length, dtype=np.uint64)
        for name in names:
            assert looks_random(found[name])
            added += found[name]
        assert looks_random(added)
    assert not looks_random(sum(found.values(), np.zeros(of.length, dtype=np.uint64)))


def test_a_colluding_member_takes_its_own_masks_away_and_no_more() -> None:
    """The coordinator with one member: what it can take off a share leaves the mask of the two honest ones."""
    of = make(3, 4096)
    seeds, values = seeds_of(of), [7] * 4096
    first, second, third = of.names
    honest = [share(of, name, values, seeds) for name in (first, second)]
    stripped = [
        honest[0] - masks.expand(seeds[first, third], of, first, third),
        honest[1] - masks.expand(seeds[second, third], of, second, third),
    ]
    assert looks_random(stripped[0]) and looks_random(stripped[1])
    assert (stripped[0] + stripped[1]).tolist() == [14] * of.length, "their sum is what the noise must hide"


def test_the_same_values_have_other_shares_in_every_session() -> None:
    of = make(3, 64)
    values = dict.fromkeys(of.names, [5] * 64)
    one, two = shares(of, values), shares(of, values)
    for name in of.names:
        assert not set(one[name].tolist()) & set(two[name].tolist())


# --- what a mask is bound to ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change",
    [
        {"id": "two"},
        {"subject": "cd" * 32},
        {"length": 5},
        {"members": members(4)},
        {"members": (*members(2), ("node-02", "f" * 16))},
        {"members": (*members(2), ("node-03", f"{2:016x}"))},
    ],
    ids=["session", "question", "length", "a member more", "other keys", "another name"],
)
def test_the_same_seed_gives_another_mask_where_anything_else_was_agreed(change: dict[str, object]) -> None:
    of, seed = make(), bytes(range(32))
    other = replace(of, **change)  # type: ignore[arg-type]
    assert of.digest != other.digest
    mine, theirs = (masks.expand(seed, one, "node-00", "node-01") for one in (of, other))
    assert not set(mine.tolist()) & set(theirs.tolist())


def test_a_mask_belongs_to_one_pair_in_one_direction() -> None:
    of, seed = make(), bytes(range(32))
    found = [masks.expand(seed, of, *pair).tolist() for pair in (("a", "b"), ("b", "a"), ("a", "c"), ("ab", ""))]
    assert len({word for words in found for word in words}) == 16


def test_a_mask_is_what_its_primitives_say() -> None:
    """Known answer: HKDF-SHA256 and AES-256-CTR of the seed 00..1f, so that two versions never mask differently."""
    of = Session("6f1f0c52-1f5e-4a8e-9a53-1e4dbf6e3b50", members(3), SUBJECT, 2)
    assert of.digest == "f4dc5e43af6eb322aaf513040ac99f6fce8096da0333feff05d8763d052d12e4"
    assert [f"{word:016x}" for word in masks.expand(bytes(range(32)), of, "node-00", "node-01").tolist()] == [
        "c238fb28da0f406d",
        "4ea96f9358ebaf04",
    ]


def test_a_tampered_seed_or_a_replayed_share_spoils_the_sum() -> None:
    of = make(3, 8)
    seeds, values = seeds_of(of), {me: [n] * 8 for n, me in enumerate(make().names)}
    good = {me: share(of, me, values[me], seeds) for me in of.names}
    assert masks.total(of, good) == [3] * 8
    pair = ("node-00", "node-02")
    bad = seeds | {pair: bytes([seeds[pair][0] ^ 1]) + seeds[pair][1:]}
    spoilt = masks.total(of, good | {"node-02": share(of, "node-02", values["node-02"], bad)})
    assert all(abs(number) > 10**6 for number in spoilt)
    again = make(3, 8, id="two")
    replayed = masks.total(again, shares(again, values) | {"node-01": good["node-01"]})
    assert all(abs(number) > 10**6 for number in replayed)


def test_swapped_shares_add_up_all_the_same_and_swapped_seeds_do_not() -> None:
    of = make(3, 8)
    seeds, values = seeds_of(of), [1] * 8
    swapped = seeds | {("node-00", "node-01"): seeds["node-00", "node-02"]}
    found = {me: share(of, me, values, seeds) for me in of.names[:1]}
    found |= {me: share(of, me, values, swapped) for me in of.names[1:]}
    assert masks.total(of, found) != [3] * 8


# --- what is refused --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "changes",
    [
        {"members": members(2)},
        {"members": members(33)},
        {"members": tuple(reversed(members(3)))},
        {"members": (*members(3), members(3)[-1])},
        {"members": (*members(2), ("node-02", members(2)[0][1]))},
        {"subject": "ab"},
        {"length": 0},
        {"length": session.MAX_LENGTH + 1},
    ],
    ids=["two", "33", "order", "twice", "shared keys", "subject", "nothing", "too long"],
)
def test_a_session_that_does_not_add_up_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidParameter):
        replace(make(), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("roster", [["ab", "cd", "ef"], [["a"], ["b"], ["c"]], [["a", 1], ["b", 2], ["c", 3]]])
def test_a_roster_that_is_none_is_refused(roster: list[list[str]]) -> None:
    with pytest.raises(InvalidParameter):
        session.make("one", roster, SUBJECT, 1)


@pytest.mark.parametrize(
    "values",
    [[1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, masks.MAX_VALUE + 1], [-masks.MAX_VALUE - 1, 0, 0, 0]],
    ids=["few", "many", "too large", "too small"],
)
def test_values_that_cannot_be_summed_are_refused(values: list[int]) -> None:
    of = make()
    with pytest.raises(InvalidParameter):
        share(of, "node-00", values, seeds_of(of))


def test_a_share_needs_exactly_the_seeds_of_all_others() -> None:
    of = make()
    seeds = seeds_of(of)
    pairs = list(seeds)
    with pytest.raises(InvalidParameter):
        share(of, pairs[0][0], [0] * 4, {pair: seed for pair, seed in seeds.items() if pair != pairs[0]})
    with pytest.raises(InvalidParameter):
        share(of, "node-00", [0] * 4, seeds | {("node-00", "stranger"): bytes(32)})
    with pytest.raises(InvalidParameter):
        share(of, "stranger", [0] * 4, seeds)
    with pytest.raises(InvalidParameter):
        share(of, "node-00", [0] * 4, seeds | {("node-00", "node-01"): bytes(31)})


def test_a_total_needs_every_share_in_full() -> None:
    of = make()
    found = shares(of, dict.fromkeys(of.names, [1] * 4))
    name = of.names[0]
    for changed in (
        {n: words for n, words in found.items() if n != name},
        found | {"stranger": found[name]},
        found | {name: found[name][:3]},
        found | {name: np.append(found[name], found[name][:1])},
    ):
        with pytest.raises(InvalidParameter):
            masks.total(of, changed)


@pytest.mark.parametrize("text", ["", "AAAA", "not base64", "AAAAAAAAAAA", None, 7])
def test_what_is_no_share_is_refused(text: str) -> None:
    if text == "":
        assert masks.from_text(text).size == 0
        return
    with pytest.raises(InvalidParameter):
        masks.from_text(text)
