"""The key by which the platform signs its documents: ECDSA P-256, beside the identity, apart from its TLS key.

Files in the identity's folder: ``documents.pem`` (certificate), ``documents-key.pem``, and the certificate of who
issued it, ``documents-ca.pem``: the network's CA, or the certificate itself where nobody else vouches for it.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from federation import identity

CERTIFICATE, KEY, ISSUER = "documents.pem", "documents-key.pem", "documents-ca.pem"
DOCUMENT_SIGNING = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")
"""id-kp-documentSigning (RFC 9336)."""
_USES = {"digital_signature": True, "content_commitment": True}
_OTHERS = "key_cert_sign crl_sign key_encipherment data_encipherment key_agreement encipher_only decipher_only"


def issue(folder: Path, name: str, *, ca: Path | None = None) -> str:
    """Makes the key and its certificate in ``folder``; without a CA's folder the certificate vouches for itself.

    Returns the certificate's SHA-256. An earlier key is replaced: what it signed stays valid.

    Raises:
        OSError: a folder or the CA's files are not there.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, signer = (None, key) if ca is None else _authority(ca)
    authority = issuer.public_key() if issuer else key.public_key()
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=identity.CERTIFICATE_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**_USES, **dict.fromkeys(_OTHERS.split(), False)), critical=True)
        .add_extension(x509.ExtendedKeyUsage([DOCUMENT_SIGNING]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority),  # type: ignore[arg-type]
            critical=False,
        )
        .sign(signer, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    identity.write_secret(folder / KEY, identity.key_pem(key))
    (folder / CERTIFICATE).write_bytes(certificate.public_bytes(pem))
    (folder / ISSUER).write_bytes((issuer or certificate).public_bytes(pem))
    return certificate.fingerprint(hashes.SHA256()).hex()


def _authority(ca: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = x509.load_pem_x509_certificate((ca / "ca.pem").read_bytes())
    key = serialization.load_pem_private_key((ca / "ca-key.pem").read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("the CA key must be an elliptic-curve key")
    return certificate, key
