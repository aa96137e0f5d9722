"""What travels from a worker to the web process that waits: small frames, packed, sealed, on one Redis channel each.

The row in PostgreSQL is the truth; a lost frame costs time, never an answer.
"""

from __future__ import annotations

import uuid
from enum import IntEnum
from typing import Any

import msgspec

from fdrouter import crypto

_pack = msgspec.msgpack.Encoder().encode
_unpack_batch = msgspec.msgpack.Decoder(list[tuple[bytes, int, bytes]]).decode
_unpack = msgspec.msgpack.decode


class Frame(IntEnum):
    """DONE and FAILED are the last frame of a request."""

    PROGRESS = 0
    DELTA = 1
    DONE = 2
    FAILED = 3


def seal(request_id: uuid.UUID, data: Any) -> bytes:
    """A frame's data, readable with the data key only: Redis keeps no contents in clear."""
    return crypto.seal("frame", request_id.bytes, _pack(data))


def open_sealed(request_id: uuid.UUID, sealed: bytes) -> Any:
    """Reverses :func:`seal`; raises :class:`fdrouter.crypto.Unreadable`."""
    return _unpack(crypto.unseal("frame", request_id.bytes, sealed))


def pack_batch(frames: list[tuple[bytes, int, bytes]]) -> bytes:
    return _pack(frames)


def unpack_batch(data: bytes) -> list[tuple[bytes, int, bytes]]:
    return _unpack_batch(data)


def decode_json(data: bytes) -> Any:
    """A sealed row's JSON, once opened."""
    return msgspec.json.decode(data)
