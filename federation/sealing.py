"""Messages to nodes: sealed with hybrid HPKE (X25519 + ML-KEM-768), signed with Ed25519 and ML-DSA-65.

HPKE in base mode does not say who sent a message, so the envelope is signed; both signatures must hold. ``info``
binds recipient, message id and direction, so an envelope cannot be replayed as another or to another node.
"""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from federation.identity import Identity, PublicIdentity

VERSION = 1
_SUITE = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class BadEnvelope(Exception):
    """The envelope is malformed, not for this recipient, not from this sender, or damaged."""


def canonical(value: Any) -> bytes:
    """One byte string for one JSON value: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sign(identity: Identity, purpose: str, data: bytes) -> dict[str, str]:
    """Both signatures over SHA-256 of purpose and data."""
    message = hashlib.sha256(purpose.encode() + b"\0" + data).digest()
    return {
        "key_id": identity.public.key_id,
        "ed25519": base64.b64encode(identity.ed25519.sign(message)).decode(),
        "mldsa65": base64.b64encode(identity.mldsa65.sign(message)).decode(),
    }


def verify(public: PublicIdentity, purpose: str, data: bytes, signatures: dict[str, str]) -> bool:
    """Whether *both* signatures are the identity's."""
    message = hashlib.sha256(purpose.encode() + b"\0" + data).digest()
    try:
        if signatures["key_id"] != public.key_id:
            return False
        public.ed25519.verify(_raw(signatures["ed25519"]), message)
        public.mldsa65.verify(_raw(signatures["mldsa65"]), message)
    except (InvalidSignature, KeyError, TypeError, ValueError):
        return False
    return True


def _raw(text: str) -> bytes:
    """The bytes of base64 in its one spelling: the spare bits before padding must not make a second one."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("not canonical base64")
    return data


def _info(recipient: str, message_id: str) -> bytes:
    return f"fdrouter/v{VERSION}/request/{recipient}/{message_id}".encode()


def seal(sender: Identity, recipient: PublicIdentity, message_id: str, payload: dict[str, Any]) -> bytes:
    """The payload as a signed envelope that only ``recipient`` can open."""
    sealed = _SUITE.encrypt(canonical(payload), recipient.kem, _info(recipient.name, message_id))
    envelope = {
        "version": VERSION,
        "from": sender.name,
        "to": recipient.name,
        "id": message_id,
        "sealed": base64.b64encode(sealed).decode(),
    }
    return canonical({**envelope, "signatures": sign(sender, "envelope", canonical(envelope))})


def unseal(recipient: Identity, sender: PublicIdentity, data: bytes) -> tuple[str, dict[str, Any]]:
    """Message id and payload of an envelope.

    Raises:
        BadEnvelope: anything at all is wrong with it.
    """
    try:
        envelope = json.loads(data)
        signatures = envelope.pop("signatures")
        if envelope["version"] != VERSION or envelope["to"] != recipient.name or envelope["from"] != sender.name:
            raise BadEnvelope("not for this recipient, or not from this sender")
        if not verify(sender, "envelope", canonical(envelope), signatures):
            raise BadEnvelope("signature")
        sealed = base64.b64decode(envelope["sealed"], validate=True)
        payload = json.loads(_SUITE.decrypt(sealed, recipient.kem, _info(recipient.name, envelope["id"])))
        return envelope["id"], payload
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InvalidTag) as error:
        raise BadEnvelope(type(error).__name__) from None
