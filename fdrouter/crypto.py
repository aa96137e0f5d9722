"""Encryption at rest and digests. Primitives come from ``cryptography``; nothing here is a new construction."""

from __future__ import annotations

import hmac
import os
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

_VERSION = b"\x01"
_NONCE_BYTES = 12


class Unreadable(Exception):
    """The ciphertext is damaged, belongs to another row, or the key is not the one it was made with."""


@lru_cache(maxsize=32)
def _key(master: bytes, purpose: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"fdrouter/" + purpose.encode()).derive(master)


@lru_cache(maxsize=32)
def _cipher(master: bytes, purpose: str) -> AESGCM:
    return AESGCM(_key(master, "at-rest/" + purpose))


def seal(purpose: str, owner: bytes, plaintext: bytes) -> bytes:
    """Encrypts under the data key with AES-256-GCM; ``owner`` (a row's id) is bound as associated data.

    The random 96-bit nonces allow 2**32 messages a purpose and key (NIST SP 800-38D, 8.3).
    """
    nonce = os.urandom(_NONCE_BYTES)
    return _VERSION + nonce + _cipher(settings.DATA_KEY, purpose).encrypt(nonce, plaintext, owner)


def unseal(purpose: str, owner: bytes, ciphertext: bytes | memoryview) -> bytes:
    """Reverses :func:`seal`.

    Raises:
        Unreadable: version, key, owner or contents do not match.
    """
    data = bytes(ciphertext)
    if data[:1] != _VERSION:
        raise Unreadable("unknown version")
    nonce, body = data[1 : 1 + _NONCE_BYTES], data[1 + _NONCE_BYTES :]
    if len(nonce) < _NONCE_BYTES:
        raise Unreadable("too short")
    try:
        return _cipher(settings.DATA_KEY, purpose).decrypt(nonce, body, owner)
    except InvalidTag:
        raise Unreadable("authentication failed") from None


def fingerprint(purpose: str, data: bytes) -> bytes:
    """32 bytes that tell equal data apart from other data, and tell nothing to who guesses: HMAC-SHA-256."""
    return hmac.digest(_key(settings.DATA_KEY, "fingerprint/" + purpose), data, "sha256")
