"""Encryption at rest: bound to key, purpose and row; any damage is noticed."""

from __future__ import annotations

import pytest
from pytest_django import Settings

from fdrouter import crypto

OWNER = b"row-1"


@pytest.mark.parametrize("text", [b"", b"a", bytes(range(256)) * 100])
def test_round_trip(text: bytes) -> None:
    assert crypto.unseal("answer", OWNER, crypto.seal("answer", OWNER, text)) == text


def test_the_same_text_looks_different_every_time() -> None:
    assert len({crypto.seal("answer", OWNER, b"same") for _ in range(50)}) == 50


def test_the_text_is_not_in_the_ciphertext() -> None:
    assert b"blood pressure" not in crypto.seal("answer", OWNER, b"her blood pressure is high")


def test_memoryviews_of_the_database_are_read() -> None:
    assert crypto.unseal("answer", OWNER, memoryview(crypto.seal("answer", OWNER, b"a"))) == b"a"


@pytest.mark.parametrize(("purpose", "owner"), [("request", OWNER), ("answer", b"row-2"), ("answer", b"")])
def test_another_purpose_or_row_cannot_read_it(purpose: str, owner: bytes) -> None:
    with pytest.raises(crypto.Unreadable):
        crypto.unseal(purpose, owner, crypto.seal("answer", OWNER, b"secret"))


def test_another_key_cannot_read_it(settings: Settings) -> None:
    sealed = crypto.seal("answer", OWNER, b"secret")
    settings.DATA_KEY = bytes(32)
    with pytest.raises(crypto.Unreadable):
        crypto.unseal("answer", OWNER, sealed)


def test_every_flipped_bit_is_noticed() -> None:
    sealed = crypto.seal("answer", OWNER, b"ok")
    for position in range(len(sealed) * 8):
        damaged = bytearray(sealed)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(crypto.Unreadable):
            crypto.unseal("answer", OWNER, bytes(damaged))


def test_every_cut_is_noticed() -> None:
    sealed = crypto.seal("answer", OWNER, b"ok")
    for length in range(len(sealed)):
        with pytest.raises(crypto.Unreadable):
            crypto.unseal("answer", OWNER, sealed[:length])
