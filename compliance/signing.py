"""Signatures in reports: PAdES (ETSI EN 319 142-1, baseline B-B) by the platform's document key, and their check.

The signature is added behind the document, whose bytes stay as they were: the signed file begins with them. Its field
"reason" names their digest, so that the file alone tells what was rendered. The time in it is the signer's own clock;
no time-stamping authority is asked.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from pyhanko.keys import load_cert_from_pemder
from pyhanko.pdf_utils.extensions import DeveloperExtension
from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
from pyhanko.pdf_utils.reader import PdfFileReader
from pyhanko.sign import fields, signers, validation
from pyhanko.sign.fields import MDPPerm, SigSeedSubFilter
from pyhanko_certvalidator import ValidationContext

from compliance.reports import Signed
from federation import document_key

FIELD = "Signature"
_REASON = "Privacy report. SHA-256 of the document before this signature: {}"
_SAID = re.compile(r"SHA-256 of the document before this signature: ([0-9a-f]{64})$")


class _ArchiveWriter(IncrementalPdfFileWriter):  # type: ignore[misc]
    """Stays at PDF 1.7, which PDF/A-3 asks for, with the metadata that the document has.

    The library marks files with ECDSA signatures as PDF 2.0 with ISO/TS 32002, where PAdES itself allows them in 1.7.
    """

    def ensure_output_version(self, version: tuple[int, int]) -> None:
        super().ensure_output_version(min(version, (1, 7)))

    def register_extension(self, ext: DeveloperExtension) -> None:
        if ext.base_version == "/1.7":
            super().register_extension(ext)

    def _update_meta(self) -> None:
        """Would write another producer and date into one of the two places that must agree."""


def sign(document: bytes) -> Signed | None:
    """The document with a certifying signature: no later change is allowed. ``None``: there is no key to sign with."""
    folder = settings.IDENTITY_DIR
    if not (folder / document_key.KEY).exists():
        return None
    signer = signers.SimpleSigner.load(
        str(folder / document_key.KEY),
        str(folder / document_key.CERTIFICATE),
        ca_chain_files=(str(folder / document_key.ISSUER),),
    )
    if signer is None:
        raise ValueError("the document key cannot be read")
    name = signer.signing_cert.subject.native["common_name"]
    about = signers.PdfSignatureMetadata(
        field_name=FIELD,
        md_algorithm="sha256",
        name=name,
        reason=_REASON.format(hashlib.sha256(document).hexdigest()),
        subfilter=SigSeedSubFilter.PADES,
        certify=True,
        docmdp_permissions=MDPPerm.NO_CHANGES,
    )
    field = fields.SigFieldSpec(FIELD)  # without a box: nothing is drawn on a page
    out = io.BytesIO()
    signers.PdfSigner(about, signer, new_field_spec=field).sign_pdf(_ArchiveWriter(io.BytesIO(document)), output=out)
    return Signed(out.getvalue(), name)


@dataclass(frozen=True, slots=True)
class Checked:
    """What a signature proves. ``problem`` is a sentence, empty where everything is in order.

    ``document`` are the bytes before the signature.
    """

    by: str
    at: str
    fingerprint: str
    document: bytes
    problem: str = ""


def check(pdf: bytes, trusted: Path) -> Checked:
    """Checks the one signature of a report against the certificates (PEM) that are trusted.

    Raises:
        ValueError: the file is not a PDF with one signature of this make.
    """
    try:
        embedded = PdfFileReader(io.BytesIO(pdf)).embedded_signatures
    except Exception as error:  # noqa: BLE001  (a parser of hostile files)
        raise ValueError(f"not a PDF that can be read ({type(error).__name__})") from None
    if len(embedded) != 1:
        raise ValueError("not signed" if not embedded else "more than one signature")
    try:
        return _checked(pdf, embedded[0], trusted)
    except Exception as error:  # noqa: BLE001
        raise ValueError(f"the signature cannot be read ({type(error).__name__})") from None


def _checked(pdf: bytes, signature: validation.EmbeddedPdfSignature, trusted: Path) -> Checked:
    context = ValidationContext(trust_roots=[load_cert_from_pemder(str(trusted))], allow_fetching=False)
    status = validation.validate_pdf_signature(signature, context)
    said = _SAID.search(str(signature.sig_object.get("/Reason", "")))
    document = _before(pdf, said[1]) if said else None
    problem = ""
    if not status.bottom_line:  # "valid" alone says nothing of trust or of what was added later
        problem = f"The signature does not hold: {status.summary()}."
    elif status.coverage != validation.SignatureCoverageLevel.ENTIRE_FILE:
        problem = "Something was added behind the signature."
    elif document is None:
        problem = "The signed file does not begin with the document that its signature names."
    return Checked(
        by=str(status.signing_cert.subject.native.get("common_name", "")),
        at=status.signer_reported_dt.isoformat() if status.signer_reported_dt else "unknown",
        fingerprint=status.signing_cert.sha256.hex(),
        document=document or b"",
        problem=problem,
    )


def _before(pdf: bytes, digest: str) -> bytes | None:
    """The beginning of the file with this digest: up to the end of an earlier revision."""
    for mark in re.finditer(rb"%%EOF[\r\n]*", pdf):
        for end in {mark.start() + 5, mark.start() + 6, mark.end()}:
            if hashlib.sha256(pdf[:end]).hexdigest() == digest:
                return pdf[:end]
    return None
