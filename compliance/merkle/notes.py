"""Signed checkpoints: C2SP signed-note, tlog-checkpoint and tlog-cosignature, each with two signatures.

The log signs the size and root of its tree, and witnesses cosign what they found to be consistent. Both sign with
Ed25519 and with ML-DSA-65 under one name; a note counts only if both hold. Lines of unknown keys are ignored.

Key ids are the first four bytes of SHA-256(name, newline, type, public key). The types of Ed25519 are C2SP's own (0x01
notes, 0x04 cosignatures). For ML-DSA-65 C2SP has none, so they are 0xff and an identifier, which is also the
signature's context (FIPS 204, section 5.2). What a witness signs with ML-DSA-65 is what C2SP defines for ML-DSA-44: it
names the witness, the time, the log, the size and the root.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa

from compliance.merkle.hashing import EMPTY_ROOT, SIZE
from compliance.merkle.proofs import MAX_SIZE

ED25519_NOTE = b"\x01"
ED25519_COSIGNATURE = b"\x04"
MLDSA65_NOTE = b"\xfffdrouter/ml-dsa-65"
MLDSA65_COSIGNATURE = b"\xfffdrouter/ml-dsa-65/cosignature"
MAX_NOTE = 4 * 2**20
"""Characters of a note: two signatures of each of some 400 witnesses."""
MAX_NAME = 255
"""Bytes of a name, which the cosigned message counts in one byte."""
MAX_TIME = 2**63 - 1
_DASH = "\N{EM DASH} "
_COSIGNED = b"subtree/v1\n\x00"


class NoteInvalid(Exception):
    """The note is malformed, or not signed as it has to be."""


def _check_name(name: str) -> None:
    bad = not name or len(name.encode()) > MAX_NAME or any(c.isspace() or c == "+" or c < " " for c in name)
    if bad:
        raise ValueError("a name has 1 to 255 bytes, no spaces, no plus and no control characters")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Size and 32-byte root of the log ``origin``.

    Raises:
        ValueError: no log can have such a checkpoint.
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        _check_name(self.origin)
        if not 0 <= self.size <= MAX_SIZE or len(self.root) != SIZE or (self.size == 0 and self.root != EMPTY_ROOT):
            raise ValueError("no tree has this size and root")

    def body(self) -> str:
        """The text that is signed: three lines, the last newline included."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


@dataclass(frozen=True, slots=True)
class Key:
    """The name and the public keys of a log or a witness.

    Raises:
        ValueError: no key can have this name.
    """

    name: str
    ed25519: ed25519.Ed25519PublicKey
    mldsa65: mldsa.MLDSA65PublicKey

    def __post_init__(self) -> None:
        _check_name(self.name)


@dataclass(frozen=True, slots=True)
class Signer:
    """The private side of a :class:`Key`. Its repr shows the name only."""

    name: str
    ed25519: ed25519.Ed25519PrivateKey
    mldsa65: mldsa.MLDSA65PrivateKey

    def __post_init__(self) -> None:
        _check_name(self.name)

    def __repr__(self) -> str:
        return f"Signer({self.name!r})"

    @property
    def key(self) -> Key:
        """What others need to check its signatures."""
        return Key(self.name, self.ed25519.public_key(), self.mldsa65.public_key())


def key_id(name: str, kind: bytes, public: bytes) -> bytes:
    """The four bytes by which a signature line names its key and its type ``kind``."""
    return hashlib.sha256(name.encode() + b"\n" + kind + public).digest()[:4]


def sign(checkpoint: Checkpoint, signer: Signer) -> str:
    """The checkpoint as a note with both signatures of the log.

    Raises:
        ValueError: the signer is not the log that the checkpoint is of.
    """
    if signer.name != checkpoint.origin:
        raise ValueError("a log signs its own checkpoints")
    body = checkpoint.body()
    data, key = body.encode(), signer.key
    classical = _line(key, ED25519_NOTE, signer.ed25519.sign(data))
    return f"{body}\n{classical}{_line(key, MLDSA65_NOTE, signer.mldsa65.sign(data, MLDSA65_NOTE[1:]))}"


def open_checkpoint(note: str, key: Key) -> Checkpoint:
    """The checkpoint of the log that ``key`` belongs to.

    Raises:
        NoteInvalid: the note is malformed, of another log, or one of the log's two signatures is missing or wrong.
    """
    checkpoint, lines = _parse(note)
    if checkpoint.origin != key.name:
        raise NoteInvalid("the checkpoint is of another log")
    data = checkpoint.body().encode()
    try:
        key.ed25519.verify(_of(lines, key, ED25519_NOTE), data)
        key.mldsa65.verify(_of(lines, key, MLDSA65_NOTE), data, MLDSA65_NOTE[1:])
    except (InvalidSignature, ValueError):
        raise NoteInvalid("a signature of the log is wrong") from None
    return checkpoint


def read_checkpoint(note: str) -> Checkpoint:
    """What a note says, with no signature checked: only to find out whose key to check it with.

    Raises:
        NoteInvalid: the note is malformed.
    """
    return _parse(note)[0]


def cosign(note: str, signer: Signer, at: int) -> str:
    """The note with both cosignatures of ``signer``, made at ``at`` (seconds since 1970); they replace earlier ones.

    The caller has checked the log's signatures and that the checkpoint is consistent with all that it cosigned before:
    that is what a cosignature states.

    Raises:
        NoteInvalid: the note is malformed.
        ValueError: no cosignature can be of this time.
    """
    if not 0 < at <= MAX_TIME:
        raise ValueError("a cosignature has a time")
    checkpoint, lines = _parse(note)
    key, stamp = signer.key, struct.pack(">Q", at)
    classical = signer.ed25519.sign(_timed(checkpoint, at))
    quantum_safe = signer.mldsa65.sign(_cosigned(checkpoint, signer.name, at), MLDSA65_COSIGNATURE[1:])
    own = {_id(key, ED25519_COSIGNATURE), _id(key, MLDSA65_COSIGNATURE)}
    kept = "".join(_written(name, data) for name, data in lines if name != key.name or data[:4] not in own)
    added = _line(key, ED25519_COSIGNATURE, stamp + classical) + _line(key, MLDSA65_COSIGNATURE, stamp + quantum_safe)
    return f"{checkpoint.body()}\n{kept}{added}"


def cosigned_by(note: str, key: Key) -> int | None:
    """When the witness cosigned the note (seconds since 1970); ``None`` unless both cosignatures are of one time."""
    try:
        checkpoint, lines = _parse(note)
        classical, quantum_safe = (_of(lines, key, kind) for kind in (ED25519_COSIGNATURE, MLDSA65_COSIGNATURE))
        at = int.from_bytes(classical[:8], "big")
        if classical[:8] != quantum_safe[:8] or not 0 < at <= MAX_TIME:
            return None
        key.ed25519.verify(classical[8:], _timed(checkpoint, at))
        key.mldsa65.verify(quantum_safe[8:], _cosigned(checkpoint, key.name, at), MLDSA65_COSIGNATURE[1:])
    except (NoteInvalid, InvalidSignature, ValueError):
        return None
    return at


# --- messages -------------------------------------------------------------------------------------------------------
def _timed(checkpoint: Checkpoint, at: int) -> bytes:
    """What a witness signs with Ed25519."""
    return f"cosignature/v1\ntime {at}\n{checkpoint.body()}".encode()


def _cosigned(checkpoint: Checkpoint, witness: str, at: int) -> bytes:
    """What a witness signs with ML-DSA: C2SP's ``cosigned_message`` for the whole tree."""
    name, origin = witness.encode(), checkpoint.origin.encode()
    head = _COSIGNED + bytes([len(name)]) + name + struct.pack(">Q", at) + bytes([len(origin)]) + origin
    return head + struct.pack(">QQ", 0, checkpoint.size) + checkpoint.root


# --- lines ----------------------------------------------------------------------------------------------------------
def _id(key: Key, kind: bytes) -> bytes:
    public = key.ed25519 if kind in (ED25519_NOTE, ED25519_COSIGNATURE) else key.mldsa65
    return key_id(key.name, kind, public.public_bytes_raw())


def _written(name: str, data: bytes) -> str:
    return f"{_DASH}{name} {base64.b64encode(data).decode()}\n"


def _line(key: Key, kind: bytes, signature: bytes) -> str:
    return _written(key.name, _id(key, kind) + signature)


def _of(lines: list[tuple[str, bytes]], key: Key, kind: bytes) -> bytes:
    """The key's one signature of a type.

    Raises:
        NoteInvalid: there is none, or more than one.
    """
    wanted = _id(key, kind)
    found = [data[4:] for name, data in lines if name == key.name and data[:4] == wanted]
    if len(found) != 1:
        raise NoteInvalid("a signature is missing" if not found else "a signature is there twice")
    return found[0]


def _decoded(text: str) -> bytes:
    """The bytes of base64 in its one spelling."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("not canonical base64")
    return data


def _parse(note: str) -> tuple[Checkpoint, list[tuple[str, bytes]]]:
    """Checkpoint and signature lines, as name and bytes (key id first).

    Raises:
        NoteInvalid: anything at all is malformed.
    """
    try:
        if len(note) > MAX_NOTE or re.search(r"[\x00-\x09\x0b-\x1f]", note):
            raise ValueError("too long, or control characters")
        text, gap, signatures = note.rpartition("\n\n")
        origin, size, root = text.split("\n")
        if not gap or not re.fullmatch("0|[1-9][0-9]{0,18}", size):
            raise ValueError("not three lines of a checkpoint")
        return Checkpoint(origin, int(size), _decoded(root)), list(_lines(signatures))
    except (ValueError, TypeError, AttributeError, binascii.Error):
        raise NoteInvalid("the note is malformed") from None


def _lines(signatures: str) -> Iterator[tuple[str, bytes]]:
    *lines, rest = signatures.split("\n")
    if rest or not lines:
        raise ValueError("no signature, or the last line does not end")
    for line in lines:
        name, data = line.removeprefix(_DASH).split(" ")
        _check_name(name)
        signature = _decoded(data)
        if not line.startswith(_DASH) or len(signature) <= 4:
            raise ValueError("not a signature line")
        yield name, signature
