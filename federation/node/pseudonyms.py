"""References by which this node speaks of a patient outside its own database."""

from __future__ import annotations

import base64
import hashlib
import hmac
from functools import lru_cache

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings

_DIGEST_BYTES = 10


@lru_cache(maxsize=8)
def _key(master: bytes, node: str) -> bytes:
    info = b"fdrouter/patient-reference/" + node.encode()
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(master)


def reference_of(source_id: str) -> str:
    """``p-`` and 16 characters, a keyed digest of the source id (HMAC-SHA-256 cut to 80 bits).

    It depends on this patient and this node only, so ties that are broken by it do not link patients to each other,
    and two hospitals' references to one person do not match.
    """
    key = _key(settings.DATA_KEY, settings.NODE_ID)
    digest = hmac.new(key, source_id.encode(), hashlib.sha256).digest()[:_DIGEST_BYTES]
    return "p-" + base64.b32encode(digest).decode().lower()
