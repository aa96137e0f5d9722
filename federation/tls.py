"""Mutual TLS to nodes: the network's CA vouches, and the roster says which certificate a node has."""

from __future__ import annotations

import hashlib
import hmac
import ssl
from functools import lru_cache
from pathlib import Path


@lru_cache(maxsize=256)
def context_for(folder: Path, certificate_sha256: str) -> ssl.SSLContext:
    """This process's identity towards the one node with this certificate (SHA-256 of its DER form, in hex).

    A certificate of the same CA that belongs to another node ends the handshake with
    :class:`ssl.SSLCertVerificationError`, before anything is sent. For asyncio, which wraps memory buffers.

    Raises:
        ValueError: the roster has no fingerprint for this node. Without one any member could stand in for it.
    """
    if len(certificate_sha256) != 64:
        raise ValueError("no certificate fingerprint")
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=str(folder / "ca.pem"))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")

    class Pinned(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            found = hashlib.sha256(self.getpeercert(binary_form=True) or b"").hexdigest()
            if not hmac.compare_digest(found, certificate_sha256):
                raise ssl.SSLCertVerificationError("the certificate is not the one in the roster")

    context.sslobject_class = Pinned
    return context
