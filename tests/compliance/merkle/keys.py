"""Keys of a log and its witnesses, the same in every run."""

from __future__ import annotations

import base64
import hashlib
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa

from compliance.merkle.notes import Signer


@cache
def signer(name: str, generation: int = 1) -> Signer:
    """The signer of this name; another ``generation`` has other keys."""
    seed = hashlib.sha256(f"{name} {generation}".encode()).digest()
    return Signer(
        name, ed25519.Ed25519PrivateKey.from_private_bytes(seed), mldsa.MLDSA65PrivateKey.from_seed_bytes(seed)
    )


def document(name: str, generation: int = 1) -> dict[str, str]:
    """The public keys as in ``keys.json``."""
    key = signer(name, generation).key
    raw = {"ed25519": key.ed25519.public_bytes_raw(), "mldsa65": key.mldsa65.public_bytes_raw()}
    return {"name": name} | {field: base64.b64encode(data).decode() for field, data in raw.items()}
