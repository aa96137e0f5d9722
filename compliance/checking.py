"""Checks a report's file by itself: signature, digests, attachments, and the proofs with the verifier of exports."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.db import DatabaseError
from pyhanko.pdf_utils import generic
from pyhanko.pdf_utils.reader import PdfFileReader

from compliance import facts, signing, verify_audit
from compliance.models import Report

FACTS = "facts.json"


@dataclass(slots=True)
class Result:
    """What was checked, in sentences, and what is wrong."""

    said: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def check(pdf: bytes, trusted: Path, *, unsigned: bool = False) -> Result:
    """Checks a report. ``trusted``: a certificate (PEM). ``unsigned``: it need not be signed.

    Raises:
        ValueError: it is no report, or not signed.
    """
    result, document = Result(), pdf
    if not unsigned:
        signature = signing.check(pdf, trusted)
        document = signature.document
        if signature.problem:
            result.wrong.append(signature.problem)
        result.said.append(f"Signed by {signature.by} at {signature.at}, certificate {signature.fingerprint}.")
    digest = hashlib.sha256(document).hexdigest() if document else ""
    result.said.append(f"SHA-256 of the file: {hashlib.sha256(pdf).hexdigest()}")
    if digest:
        result.said.append(f"SHA-256 of the document before its signature: {digest}")
    files, identifier = _contents(pdf)
    if FACTS not in files:
        raise ValueError("no facts.json is attached: this is no report")
    _facts(files, identifier, result)
    _proofs(files, result)
    _known(pdf, digest, files, result)
    return result


def _contents(pdf: bytes) -> tuple[dict[str, bytes], bytes]:
    """The attached files by name, and the identifier that the document was made with."""
    try:
        reader = PdfFileReader(io.BytesIO(pdf))
        tree = reader.root["/Names"]["/EmbeddedFiles"]
        found = dict(_attached(tree))
        return found, bytes(reader.trailer["/ID"][0].original_bytes)
    except Exception as error:  # noqa: BLE001  (a parser of hostile files)
        raise ValueError(f"the attachments cannot be read ({type(error).__name__})") from None


def _attached(tree: Any) -> Iterator[tuple[str, bytes]]:
    for kid in tree.get("/Kids", ()):
        yield from _attached(kid.get_object())
    for entry in list(tree.get("/Names", ()))[1::2]:
        described = entry.get_object() if isinstance(entry, generic.IndirectObject) else entry
        yield str(described["/UF"]), bytes(described["/EF"]["/F"].data)


def _facts(files: dict[str, bytes], identifier: bytes, result: Result) -> None:
    stated = hashlib.sha256(files[FACTS]).hexdigest()
    result.said.append(f"SHA-256 of the facts: {stated}")
    if bytes.fromhex(stated)[:16] != identifier:
        result.wrong.append("The attached facts are not those that the document was made from.")
    try:
        known = json.loads(files[FACTS])
        listed = {row["name"]: row["sha256"] for row in known.get("attachments", ())}
        if facts.canonical(known) != files[FACTS]:
            result.wrong.append("The attached facts are not in their one spelling.")
    except (ValueError, TypeError, KeyError, AttributeError):
        result.wrong.append("The attached facts cannot be read.")
        return
    for name, digest in sorted(listed.items()):
        if name not in files:
            result.wrong.append(f"{name} is missing, which the facts name.")
        elif hashlib.sha256(files[name]).hexdigest() != digest:
            result.wrong.append(f"{name} is not the file that the facts name.")
    for name in sorted(set(files) - set(listed) - {FACTS}):
        result.wrong.append(f"{name} is attached, and the facts do not name it.")
    result.said.append(f"Attached: {', '.join(sorted(files))}.")


def _proofs(files: dict[str, bytes], result: Result) -> None:
    """Runs the verifier of this installation, not the attached one: code from a file is not run here."""
    if "evidence.zip" not in files:
        result.said.append("No proofs are attached.")
        return
    out = io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "evidence.zip"
        file.write_bytes(files["evidence.zip"])
        with contextlib.redirect_stdout(out):
            code = verify_audit.main([str(file)])
    result.said += [f"  {line}" for line in out.getvalue().splitlines()]
    if code:
        result.wrong.append("The proofs do not hold.")
    try:
        same = _member(files["evidence.zip"], "checkpoint.txt") == files.get("checkpoint.txt")
    except (KeyError, ValueError, OSError):
        same = False
    if not same:
        result.wrong.append("checkpoint.txt is not the checkpoint of the proofs.")


def _member(archive: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as found:
        return found.read(name)


def _known(pdf: bytes, digest: str, files: dict[str, bytes], result: Result) -> None:
    """Compares with what the platform stored, where its database is at hand and has such a report."""
    stated = hashlib.sha256(files[FACTS]).hexdigest()
    try:
        rows = list(Report.objects.filter(facts_sha256=stated).only("pdf_sha256", "document_sha256", "id"))
    except DatabaseError:
        result.said.append("No database at hand: not compared with what the platform stored.")
        return
    if not rows:
        result.said.append("The database here has no report with these facts.")
    elif hashlib.sha256(pdf).hexdigest() in {row.pdf_sha256 for row in rows}:
        result.said.append(f"Report {rows[0].pk} of the database here has the same file.")
    elif digest in {row.document_sha256 for row in rows}:
        result.said.append(f"Report {rows[0].pk} of the database here has the same document, signed at another time.")
    else:
        result.wrong.append("The database here has a report of these facts with another document.")
