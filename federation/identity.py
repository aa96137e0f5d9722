"""Network identities: one CA, a TLS certificate for each process, and hybrid keys for sealing and signing.

A node's certificate is for servers and the coordinator's for clients (extended key usage), so OpenSSL refuses a node
that tries to call another node. Folder of an identity: ``ca.pem cert.pem key.pem keys.json public.json`` and, at a
node, ``coordinator.json`` (the public keys it obeys).
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import ipaddress
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, x25519
from cryptography.hazmat.primitives.hpke import MLKEM768X25519PrivateKey, MLKEM768X25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CERTIFICATE_DAYS = 397
_PEM = serialization.Encoding.PEM


@dataclass(frozen=True, slots=True)
class PublicIdentity:
    """What others need to seal to an identity and to check its signatures."""

    name: str
    kem: MLKEM768X25519PublicKey
    ed25519: ed25519.Ed25519PublicKey
    mldsa65: mldsa.MLDSA65PublicKey
    key_id: str


@dataclass(frozen=True, slots=True)
class Identity:
    """The private side. Its repr shows the name only."""

    name: str
    kem: MLKEM768X25519PrivateKey
    ed25519: ed25519.Ed25519PrivateKey
    mldsa65: mldsa.MLDSA65PrivateKey
    public: PublicIdentity

    def __repr__(self) -> str:
        return f"Identity({self.name!r})"


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def write_secret(path: Path, data: bytes) -> None:
    """Writes a file that its owner alone may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The private key as PEM, not encrypted."""
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def create_ca(folder: Path, name: str = "fdrouter network CA") -> None:
    """Makes the network's CA (ECDSA P-256) in ``folder``: ``ca.pem`` and ``ca-key.pem``."""
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_key_usage(sign_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    write_secret(folder / "ca-key.pem", key_pem(key))
    (folder / "ca.pem").write_bytes(certificate.public_bytes(_PEM))


def _key_usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def issue(
    ca: Path, folder: Path, name: str, *, server: bool, hosts: tuple[str, ...] = ("localhost", "127.0.0.1")
) -> str:
    """Makes an identity in ``folder``, with a certificate from the CA in ``ca``. Returns the certificate's SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    ca_certificate = x509.load_pem_x509_certificate((ca / "ca.pem").read_bytes())
    ca_key = serialization.load_pem_private_key((ca / "ca-key.pem").read_bytes(), None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise TypeError("the CA key must be an elliptic-curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    usage = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(ca_certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=CERTIFICATE_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
        .add_extension(x509.SubjectAlternativeName([_host(host) for host in hosts]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_certificate.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
        .sign(ca_key, hashes.SHA256())
    )
    write_secret(folder / "key.pem", key_pem(key))
    (folder / "cert.pem").write_bytes(certificate.public_bytes(_PEM))
    (folder / "ca.pem").write_bytes((ca / "ca.pem").read_bytes())
    _create_keys(folder, name)
    return certificate.fingerprint(hashes.SHA256()).hex()


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _create_keys(folder: Path, name: str) -> None:
    keys = {
        "name": name,
        "mlkem768": _b64(mlkem.MLKEM768PrivateKey.generate().private_bytes_raw()),
        "x25519": _b64(x25519.X25519PrivateKey.generate().private_bytes_raw()),
        "ed25519": _b64(ed25519.Ed25519PrivateKey.generate().private_bytes_raw()),
        "mldsa65": _b64(mldsa.MLDSA65PrivateKey.generate().private_bytes_raw()),
    }
    write_secret(folder / "keys.json", json.dumps(keys).encode())
    (folder / "public.json").write_text(json.dumps(_public_document(keys), indent=2), encoding="utf-8")


def _private(keys: dict[str, str]) -> dict[str, Any]:
    raw = {field: base64.b64decode(keys[field]) for field in ("mlkem768", "x25519", "ed25519", "mldsa65")}
    return {
        "mlkem768": mlkem.MLKEM768PrivateKey.from_seed_bytes(raw["mlkem768"]),
        "x25519": x25519.X25519PrivateKey.from_private_bytes(raw["x25519"]),
        "ed25519": ed25519.Ed25519PrivateKey.from_private_bytes(raw["ed25519"]),
        "mldsa65": mldsa.MLDSA65PrivateKey.from_seed_bytes(raw["mldsa65"]),
    }


def _public_document(keys: dict[str, str]) -> dict[str, str]:
    document = {name: _b64(key.public_key().public_bytes_raw()) for name, key in _private(keys).items()}
    material = "".join(document[field] for field in sorted(document))
    return {"name": keys["name"], **document, "key_id": hashlib.sha256(material.encode()).hexdigest()[:16]}


def load_public(document: dict[str, str]) -> PublicIdentity:
    """A public identity from the JSON of ``public.json``.

    Raises:
        ValueError, KeyError: malformed keys, or a key id that does not belong to them.
    """
    raw = {field: document[field] for field in ("mlkem768", "x25519", "ed25519", "mldsa65")}
    key_id = hashlib.sha256("".join(raw[field] for field in sorted(raw)).encode()).hexdigest()[:16]
    if key_id != document["key_id"]:
        raise ValueError("the key id does not belong to these keys")
    data = {field: base64.b64decode(value) for field, value in raw.items()}
    return PublicIdentity(
        name=document["name"],
        kem=MLKEM768X25519PublicKey(
            mlkem.MLKEM768PublicKey.from_public_bytes(data["mlkem768"]),
            x25519.X25519PublicKey.from_public_bytes(data["x25519"]),
        ),
        ed25519=ed25519.Ed25519PublicKey.from_public_bytes(data["ed25519"]),
        mldsa65=mldsa.MLDSA65PublicKey.from_public_bytes(data["mldsa65"]),
        key_id=key_id,
    )


@lru_cache(maxsize=16)
def load(folder: Path) -> Identity:
    """The identity in ``folder``."""
    keys: dict[str, str] = json.loads((folder / "keys.json").read_text(encoding="utf-8"))
    private = _private(keys)
    return Identity(
        name=keys["name"],
        kem=MLKEM768X25519PrivateKey(private["mlkem768"], private["x25519"]),
        ed25519=private["ed25519"],
        mldsa65=private["mldsa65"],
        public=load_public(_public_document(keys)),
    )


@lru_cache(maxsize=16)
def load_coordinator(folder: Path) -> PublicIdentity:
    """The coordinator that the node in ``folder`` obeys."""
    return load_public(json.loads((folder / "coordinator.json").read_text(encoding="utf-8")))
