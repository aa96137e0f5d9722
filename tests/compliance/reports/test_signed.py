"""Signed reports with their proofs inside: what holds, and what a changed file is told for."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import uuid
import zipfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from pyhanko.pdf_utils.reader import PdfFileReader

from accounts import principals
from compliance import checking, enclosures, facts, pdf, period, reports, signing
from compliance.models import Event, Report
from federation import document_key
from privacy import ledger, quotas
from privacy.models import Entry, EntryKind, Scope, ScopeKind
from tests.compliance import network as networks
from tests.compliance.network import Network, SignIn

# WeasyPrint leaves its colour profile to the garbage collector.
pytestmark = [
    pytest.mark.django_db,
    pytest.mark.filterwarnings("ignore:unclosed file .*sRGB2014.icc:ResourceWarning"),
]


@pytest.fixture
def made(network: Network, folder: Path) -> Report:
    """A signed report of this month."""
    return _made(network, "")


def _made(network: Network, hospital: str) -> Report:
    month = period.whole("monthly", timezone.localdate())
    report, _ = reports.request(network.principal, month, kind="monthly", hospital=hospital)
    claimed = reports.claim(report.pk)
    assert claimed is not None
    reports.render(claimed, pdf.render, signing.sign)
    return Report.objects.get(pk=report.pk)


def _verify(file: Path, *arguments: str) -> str:
    out = io.StringIO()
    call_command("report_verify", str(file), *arguments, stdout=out)
    return out.getvalue()


def test_a_signed_report_is_good(made: Report, tmp_path: Path) -> None:
    (tmp_path / "r.pdf").write_bytes(bytes(made.pdf or b""))
    said = _verify(tmp_path / "r.pdf")
    assert "RESULT: GOOD. The signature holds" in said
    assert made.pdf_sha256 in said and made.document_sha256 in said and made.facts_sha256 in said
    assert f"Report {made.pk} of the database here has the same file." in said
    assert made.signed_by == "the privacy office"
    finished = Event.objects.get(kind="report.finish").details
    assert (finished["signed"], finished["document_sha256"]) == (True, made.document_sha256)


def test_the_document_is_the_same_again_and_the_signed_file_begins_with_it(made: Report) -> None:
    again = pdf.render(made.facts or {}, made.facts_sha256, enclosures.decoded(made.attached))
    assert hashlib.sha256(again).hexdigest() == made.document_sha256
    assert bytes(made.pdf or b"").startswith(again)
    twice = signing.sign(again)
    assert twice is not None and twice.pdf.startswith(again)


def test_the_signed_file_is_still_an_archive_document(made: Report) -> None:
    """PDF/A-3 is PDF 1.7: no newer version, no extension of one, and a signature field without a box."""
    data = bytes(made.pdf or b"")
    said = subprocess.run(["pdfinfo", "-"], input=data, capture_output=True, text=False, check=True).stdout.decode()
    assert "PDF version:     1.7" in said and "Tagged:          yes" in said
    assert b"/Version /2.0" not in data and b"ISO_" not in data
    assert "Producer:        WeasyPrint" in said and "pyHanko" not in said
    metadata = PdfFileReader(io.BytesIO(data)).root["/Metadata"].data.decode()
    assert 'pdfaid:part="3"' in metadata or "<pdfaid:part>3<" in metadata
    assert "pyHanko" not in metadata
    assert b"/Rect [ 0 0 0 0 ]" in data


def test_without_a_key_it_says_that_it_is_not_signed(
    network: Network, folder: Path, as_user: SignIn, tmp_path: Path
) -> None:
    (folder / document_key.KEY).unlink()
    report = _made(network, "")
    assert (report.signed_by, report.pdf_sha256) == ("", report.document_sha256)
    assert "Done, not signed" in as_user(network.officer).get("/portal/reports").content.decode()
    (tmp_path / "r.pdf").write_bytes(bytes(report.pdf or b""))
    with pytest.raises(CommandError, match="not signed") as error:
        _verify(tmp_path / "r.pdf")
    assert error.value.returncode == 2
    assert "RESULT: GOOD, as far as" in _verify(tmp_path / "r.pdf", "--unsigned")


def test_the_page_shows_signer_and_digests(made: Report, network: Network, as_user: SignIn) -> None:
    page = as_user(network.auditor).get("/portal/reports").content.decode()
    assert ">Signed<" in page
    for shown in (made.pdf_sha256, made.document_sha256, made.facts_sha256, "the privacy office"):
        assert shown in page


def test_a_byte_of_the_document_is_noticed(made: Report, folder: Path) -> None:
    data = bytearray(made.pdf or b"")
    data[data.index(b"stream") + 20] ^= 1
    assert checking.check(bytes(data), folder / document_key.ISSUER).wrong


def test_something_added_behind_is_noticed(made: Report, folder: Path) -> None:
    wrong = checking.check(bytes(made.pdf or b"") + b"\n% more", folder / document_key.ISSUER).wrong
    assert any("added behind" in text for text in wrong)


def test_another_authority_is_not_trusted(made: Report, folder: Path, tmp_path: Path) -> None:
    document_key.issue(folder, "somebody else")
    wrong = checking.check(bytes(made.pdf or b""), folder / document_key.ISSUER).wrong
    assert any("UNTRUSTED" in text for text in wrong)


def test_a_certificate_of_its_own_is_good_where_it_is_trusted(network: Network, folder: Path) -> None:
    call_command("report_key", "--replace", "--name", "on its own", stdout=io.StringIO())
    report = _made(network, "")
    assert report.signed_by == "on its own"
    assert not checking.check(bytes(report.pdf or b""), folder / document_key.ISSUER).wrong
    with pytest.raises(CommandError, match="There is a key already"):
        call_command("report_key")


@pytest.mark.parametrize("change", ["figure", "file", "missing", "extra"])
def test_facts_and_attachments_belong_to_the_document(change: str, made: Report, folder: Path) -> None:
    """Whoever has the key could sign a document with other files: the digests inside would still say so."""
    known, files = json.loads(json.dumps(made.facts)), enclosures.decoded(made.attached)
    if change == "figure":
        known["requests"]["total"]["total"] += 1
    elif change == "file":
        files["verify_audit.py"] = b"print('RESULT: GOOD')"
    elif change == "missing":
        del files["evidence.zip"]
    else:
        files["more.txt"] = b"more"
    signed = signing.sign(pdf.render(known, made.facts_sha256, files))
    assert signed is not None
    wrong = " ".join(checking.check(signed.pdf, folder / document_key.ISSUER).wrong)
    told = {"figure": "not those that", "file": "is not the file", "missing": "is missing", "extra": "do not name it"}
    assert told[change] in wrong


@pytest.mark.parametrize("data", [b"", b"%PDF-1.7\n", b"nonsense" * 100])
def test_what_is_no_report_is_not_checked(data: bytes, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "r.pdf").write_bytes(data)
    with pytest.raises(CommandError, match="NOT CHECKED") as error:
        _verify(tmp_path / "r.pdf")
    assert error.value.returncode == 2


# --- proofs ---------------------------------------------------------------------------------------------------------
def test_the_proofs_hold_offline_and_add_up_to_the_table(made: Report, tmp_path: Path) -> None:
    (tmp_path / "r.pdf").write_bytes(bytes(made.pdf or b""))
    subprocess.run(["pdfdetach", "-saveall", "-o", str(tmp_path), str(tmp_path / "r.pdf")], check=True)
    command = [sys.executable, "-I", "verify_audit.py", "evidence.zip"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
    assert "RESULT: GOOD" in checked.stdout
    known = json.loads((tmp_path / "facts.json").read_bytes())
    proved = known["log"]["proved"]
    assert proved["entries"] == proved["of"] > 0
    assert proved["epsilon"] == sum(row["spent"] for row in known["departments"]) > 0
    with zipfile.ZipFile(tmp_path / "evidence.zip") as archive:
        assert archive.read("checkpoint.txt") == (tmp_path / "checkpoint.txt").read_bytes()


def test_a_changed_proof_is_noticed(made: Report, folder: Path) -> None:
    files = enclosures.decoded(made.attached)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(files["evidence.zip"])) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name).replace(b'\\"amount\\":1500000', b'\\"amount\\":1400000'))
    files["evidence.zip"] = out.getvalue()
    signed = signing.sign(pdf.render(made.facts or {}, made.facts_sha256, files))
    assert signed is not None
    assert "The proofs do not hold." in checking.check(signed.pdf, folder / document_key.ISSUER).wrong


def test_a_hospitals_report_proves_nothing_of_others(network: Network, folder: Path) -> None:
    report = _made(network, "lakeside")
    with zipfile.ZipFile(io.BytesIO(enclosures.decoded(report.attached)["evidence.zip"])) as archive:
        scopes = {row["key"] for row in json.loads(archive.read("ledger.json"))["scopes"]}
        leaves = [json.loads(json.loads(line)["leaf"]) for line in archive.read("log.jsonl").splitlines()]
    moved = {move["key"] for leaf in leaves for move in leaf["details"]["ledger"]}
    northfield = {f"department:{principals.for_user(network.clinician.pk).department_id}", "hospital:northfield"}
    assert moved == scopes
    assert moved and not moved & northfield
    assert (report.facts or {})["log"]["proved"]["epsilon"] == 3_750_000


def test_entries_of_several_hospitals_are_left_out_and_counted(network: Network, folder: Path) -> None:
    both = [principals.for_user(user.pk) for user in (network.clinician, network.neighbour)]
    wanted = [ledger.Request(id=uuid.uuid4(), charges=quotas.scopes_for(who).charges(500_000)) for who in both]
    ledger.reserve_many(wanted)
    known = _made(network, "lakeside").facts or {}
    assert known["log"]["proved"]["mixed"] == 1
    assert known["log"]["proved"]["of"] == known["log"]["proved"]["entries"] + 1


def test_a_new_days_refill_takes_nothing_off_what_is_proved(network: Network, folder: Path) -> None:
    yesterday = timezone.localdate() - timedelta(days=1)
    Scope.objects.filter(kind=ScopeKind.DEPARTMENT).update(period=yesterday)
    networks.ask(network.clinician, epsilon=0.25)
    assert Entry.objects.filter(kind=EntryKind.RESET, scope__kind=ScopeKind.DEPARTMENT).exists()
    known = _made(network, "").facts or {}
    assert known["log"]["proved"]["epsilon"] == sum(row["spent"] for row in known["departments"])


def test_without_an_identity_there_is_no_checkpoint_and_the_report_says_so(
    network: Network, settings: Any, tmp_path: Path
) -> None:
    settings.IDENTITY_DIR = tmp_path / "none"
    found = facts.collect(network.principal, period.last_days(3))
    assert found.facts["log"] == {"checkpoint": None}
    assert (found.files, found.facts["attachments"]) == ({}, [])
