"""Masks that cancel in the sum of all members and hide everything short of it.

Every two members share a secret seed. The one whose name comes first adds the stream that the seed expands to, the
other subtracts it, in whole numbers modulo 2^64. The sum of all shares is the sum of the values; any smaller set is
uniformly random to whoever lacks one of the seeds between the set and the rest (Bonawitz et al., CCS 2017, section 4,
without its recovery of members that drop out: here a sum without one of them is no sum).

A seed is expanded by HKDF-SHA256 and AES-256 in counter mode. The key is bound to the session, to the two members and
to the length, and is used once.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fdrouter.errors import InvalidParameter
from federation.secagg.session import PROTOCOL, Session

SEED_BYTES = 32
MAX_VALUE = 2**56  # 32 values of this size stay within the signed half of 64 bits
_WORD = np.dtype("<u8")

Words = npt.NDArray[np.uint64]


def fresh_seeds(session: Session, me: str) -> dict[str, bytes]:
    """A new seed for each member after ``me``, from the operating system."""
    return {name: os.urandom(SEED_BYTES) for name in session.takers(me)}


def expand(seed: bytes, session: Session, giver: str, taker: str) -> Words:
    """The mask of two members: ``session.length`` numbers modulo 2^64."""
    if len(seed) != SEED_BYTES:
        raise InvalidParameter(f"A seed has {SEED_BYTES} bytes.", field="seed")
    info = "\0".join([PROTOCOL, "mask", session.digest, giver, taker, str(session.length)]).encode()
    key = HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(seed)
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(stream.update(bytes(_WORD.itemsize * session.length)), dtype=_WORD)


def share(
    session: Session, me: str, values: Sequence[int], given: Mapping[str, bytes], got: Mapping[str, bytes]
) -> Words:
    """The values of ``me`` under all masks that it shares.

    ``given`` holds the seeds that ``me`` chose, by taker; ``got`` those that others chose, by giver.

    Raises:
        InvalidParameter: a seed too few or too many, another number of values, a value out of range.
    """
    if set(given) != set(session.takers(me)) or set(got) != set(session.givers(me)):
        raise InvalidParameter("There must be one seed for each other member.", field="seeds")
    if len(values) != session.length:
        raise InvalidParameter(f"There must be {session.length} values.", field="values")
    if not all(-MAX_VALUE <= value <= MAX_VALUE for value in values):
        raise InvalidParameter("A value is out of the range that can be summed.", field="values")
    found = np.array(values, dtype=np.int64).astype(np.uint64)
    for taker, seed in given.items():
        found += expand(seed, session, me, taker)
    for giver, seed in got.items():
        found -= expand(seed, session, giver, me)
    return found


def total(session: Session, shares: Mapping[str, Words]) -> list[int]:
    """The sum of all members' values.

    Raises:
        InvalidParameter: a share is missing, or has another length.
    """
    if set(shares) != set(session.names):
        raise InvalidParameter("A sum needs the share of every member.", field="shares")
    if any(words.shape != (session.length,) for words in shares.values()):
        raise InvalidParameter(f"A share must hold {session.length} numbers.", field="shares")
    found = np.zeros(session.length, dtype=np.uint64)
    for words in shares.values():
        found += words
    return [int(value) for value in found.view(np.int64)]


def to_text(words: Words) -> str:
    """A share as base64 of its numbers, 8 bytes each, lowest byte first."""
    return base64.b64encode(words.astype(_WORD).tobytes()).decode()


def from_text(text: str) -> Words:
    """Reverses :func:`to_text`.

    Raises:
        InvalidParameter: it is not such a text.
    """
    try:
        data = base64.b64decode(text, validate=True)
        return np.frombuffer(data, dtype=_WORD).astype(np.uint64)
    except (binascii.Error, TypeError, ValueError):
        raise InvalidParameter("This is not a share.", field="share") from None
