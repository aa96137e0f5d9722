"""Reports: asked for, made, handed out; twice at once; killed half-way; and nothing fetched from anywhere."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from celery.exceptions import Retry
from django.conf import settings
from django.db import connection
from django.utils import timezone

from accounts import principals
from accounts.models import Membership, User
from compliance import charts, facts, findings, pdf, period, reports, tasks
from compliance.models import Event, Report
from compliance.period import Period
from compliance.templatetags.portal import report_reason
from fdrouter.errors import Conflict, InvalidParameter, NotFound
from tests.compliance import network as networks
from tests.compliance.network import Network, SignIn, ask

# WeasyPrint leaves its colour profile to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file .*sRGB2014.icc:ResourceWarning")


def _month() -> Period:
    return period.whole("monthly", timezone.localdate())


def _form(hospital: str = "") -> dict[str, str]:
    return {"kind": "monthly", "start": _month().start.isoformat(), "end": "", "hospital": hospital}


def _request(user: User, hospital: str = "") -> Report:
    return reports.request(principals.for_user(user.pk), _month(), kind="monthly", hospital=hospital)[0]


def _made(user: User, hospital: str = "") -> Report:
    report = _request(user, hospital)
    assert tasks.render_report.apply(args=(str(report.pk),)).get() == "done"
    report.refresh_from_db()
    return report


def _text(document: bytes) -> str:
    found = subprocess.run(["pdftotext", "-layout", "-", "-"], input=document, capture_output=True, check=True)
    return found.stdout.decode()


def test_from_request_to_download(network: Network, as_user: SignIn, django_capture_on_commit_callbacks: Any) -> None:
    client = as_user(network.officer)
    with redis.Redis.from_url(settings.REDIS_URL) as queue:
        queue.delete("reports")
        with django_capture_on_commit_callbacks(execute=True):
            page = client.post("/portal/reports", _form())
        message = json.loads(str(queue.lpop("reports").decode()))
    assert page.status_code == 302
    report = Report.objects.get()
    assert json.loads(base64.b64decode(message["body"]))[:2] == [[str(report.pk)], {}]  # ids only
    listed = client.get("/portal/reports").content.decode()
    assert 'hx-trigger="every 2s"' in listed
    assert client.get(f"/portal/reports/{report.pk}/download").status_code == 404
    tasks.render_report.apply(args=(str(report.pk),))
    report.refresh_from_db()
    assert (report.state, report.progress, report.attempt) == ("done", 100, 1)
    assert "hx-trigger" not in client.get("/portal/reports/list").content.decode()
    taken = client.get(f"/portal/reports/{report.pk}/download")
    assert taken.headers["Content-Type"] == "application/pdf"
    assert taken.content.startswith(b"%PDF-")
    assert hashlib.sha256(taken.content).hexdigest() == report.pdf_sha256
    kinds = Event.objects.filter(subject=report.pk).order_by("seq").values_list("kind", "outcome")
    assert list(kinds) == [("report.request", "ok"), ("report.finish", "ok"), ("report.download", "ok")]


def test_the_document_says_what_the_facts_say(network: Network) -> None:
    report = _made(network.officer)
    assert report.facts is not None
    assert facts.digest(report.facts) == report.facts_sha256
    assert (
        report.facts["departments"] == facts.collect(network.principal, _month(), kind="monthly").facts["departments"]
    )
    text = " ".join(_text(bytes(report.pdf or b"")).split())
    for needed in ("Privacy report", "Findings", "Method and limits", "Glossary", "Page 2 of", report.facts_sha256):
        assert needed in text
    assert "People made 7 requests; 5 were answered (71%)." in text
    assert "Cardiology Northfield General 3.5 0 4 3.5 10 6.5" in text
    assert "Emergency Lakeside Medical Center 3.75 0.5 3 3.75 20 16.25" in text
    assert "Ask our records 3 1 0 1 5" in text
    assert "No differential privacy is claimed." in text
    assert text.index("Findings") < text.index("Privacy spent and left") < text.index("Method and limits")


def test_the_same_facts_give_the_same_document(network: Network) -> None:
    found = facts.collect(network.principal, _month())
    digest = facts.digest(found.facts)
    first = pdf.render(found.facts, digest, found.files)
    ask(network.clinician, epsilon=0.25)
    assert pdf.render(found.facts, digest, found.files) == first
    assert facts.digest(facts.collect(network.principal, _month()).facts) != digest


def test_frozen_facts_survive_the_database(network: Network) -> None:
    report = _request(network.officer)
    reports.render(_claimed(report), lambda found, digest, files: b"%PDF-" + digest.encode())
    report.refresh_from_db()
    assert facts.digest(report.facts or {}) == report.facts_sha256


def _claimed(report: Report) -> Report:
    claimed = reports.claim(report.pk)
    assert claimed is not None
    return claimed


def test_a_month_without_anything_reads_well(db: None) -> None:
    network = networks.build()
    report = _made(network.officer)
    text = " ".join(_text(bytes(report.pdf or b"")).split())
    assert "Nobody asked anything in this period." in text
    assert "No department spent any of its daily privacy quota." in text


def test_a_hospitals_report_is_for_its_people(network: Network, as_user: SignIn) -> None:
    theirs, all_of_it = _made(network.lakeside_officer, ""), _made(network.officer)
    assert theirs.hospital == "lakeside"
    assert "Northfield" not in _text(bytes(theirs.pdf or b""))
    lakeside = as_user(network.lakeside_officer)
    assert lakeside.get(f"/portal/reports/{theirs.pk}/download").status_code == 200
    assert lakeside.get(f"/portal/reports/{all_of_it.pk}/download").status_code == 404
    assert as_user(network.auditor).get(f"/portal/reports/{theirs.pk}/download").status_code == 200
    for user in (network.clinician, network.operator):
        assert as_user(user).get(f"/portal/reports/{theirs.pk}/download").status_code == 404
    assert lakeside.get(f"/portal/reports/{uuid.uuid4()}/download").status_code == 404
    assert Event.objects.filter(kind="report.download").count() == 2


@pytest.mark.parametrize(
    "form",
    [
        {"kind": "monthly", "start": "2099-01-01"},
        {"kind": "monthly", "start": "1999-01-01"},
        {"kind": "yearly", "start": "2026-01-01"},
        {"kind": "monthly", "start": "x"},
        {"kind": "range", "start": "2026-01-02"},
        {"kind": "range", "start": "2026-01-02", "end": "2026-01-01"},
        {"kind": "range", "start": "2025-01-01", "end": "2026-02-05"},
        {},
    ],
)
def test_a_period_that_is_none_is_refused(form: dict[str, str], network: Network, as_user: SignIn) -> None:
    assert as_user(network.officer).post("/portal/reports", form).status_code == 422
    with pytest.raises(InvalidParameter):
        reports.request(network.principal, Period(date(2026, 1, 2), date(2026, 1, 31)), kind="monthly")
    with pytest.raises(InvalidParameter):
        reports.request(network.principal, Period(_month().end + timedelta(days=1), _month().end + timedelta(days=9)))
    with pytest.raises(InvalidParameter):
        reports.request(network.principal, _month(), hospital="nowhere")
    assert not Report.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_asked_for_twice_at_once_it_is_made_once() -> None:
    network = networks.busy()
    start, made = threading.Barrier(4), []

    def post() -> None:
        try:
            start.wait(timeout=10)
            made.append(reports.request(principals.for_user(network.officer.pk), _month()))
        finally:
            connection.close()

    threads = [threading.Thread(target=post) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert len(made) == 4
    assert len({report.pk for report, _ in made}) == Report.objects.count() == 1
    assert sorted(created for _, created in made) == [False, False, False, True]
    assert Event.objects.filter(kind="report.request").count() == 1


def test_delivered_twice_it_is_rendered_once(network: Network) -> None:
    report = _made(network.officer)
    assert tasks.render_report.apply(args=(str(report.pk),)).get() == "nothing to do"
    assert Event.objects.filter(kind="report.finish").count() == 1


WORKER = """
import sys, time, uuid, django
django.setup()
from compliance import reports
def hang(facts, digest, files):
    print("rendering", flush=True)
    time.sleep(60)
reports.render(reports.claim(uuid.UUID(sys.argv[1])), hang)
"""


@pytest.mark.django_db(transaction=True)
def test_a_killed_render_is_run_again_with_the_same_facts() -> None:
    network = networks.busy()
    report = _request(network.officer)
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"}
    command = [sys.executable, "-c", WORKER, str(report.pk)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "rendering\n"
        worker.send_signal(signal.SIGKILL)
    report.refresh_from_db()
    assert (report.state, report.attempt) == ("rendering", 1)
    frozen = report.facts
    assert reports.claim(report.pk) is None  # its lease is not over
    assert (reports.held_for(report.pk) or 0) > 0
    ask(network.clinician, epsilon=0.25)
    Report.objects.filter(pk=report.pk).update(lease=timezone.now() - timedelta(seconds=1))
    assert reports.resume() == 1
    assert tasks.render_report.apply(args=(str(report.pk),)).get() == "done"
    report.refresh_from_db()
    assert (report.state, report.attempt) == ("done", 2)
    assert report.facts == frozen


def test_a_late_workers_result_is_refused(network: Network) -> None:
    report = _request(network.officer)
    late = _claimed(report)
    Report.objects.filter(pk=report.pk).update(lease=timezone.now() - timedelta(seconds=1))
    reports.render(_claimed(report), lambda found, digest, files: b"%PDF-second")
    with pytest.raises(reports.Superseded):
        reports.finish(late, b"%PDF-first")
    with pytest.raises(reports.Superseded):
        reports.fail(late, "timed_out")
    report.refresh_from_db()
    assert bytes(report.pdf or b"") == b"%PDF-second"
    assert Event.objects.filter(kind="report.finish").count() == 1


def test_a_held_report_is_tried_again_later(network: Network) -> None:
    report = _request(network.officer)
    _claimed(report)
    with pytest.raises(Retry):
        tasks.render_report(str(report.pk))
    report.refresh_from_db()
    assert (report.state, report.attempt) == ("rendering", 1)


def test_a_render_that_breaks_has_a_reason(network: Network, as_user: SignIn, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(found: dict[str, Any], digest: str, files: dict[str, bytes]) -> bytes:
        raise pdf.AddressRefused("x")

    monkeypatch.setattr(pdf, "render", broken)
    report = _request(network.officer)
    assert tasks.render_report.apply(args=(str(report.pk),)).get() == "failed"
    report.refresh_from_db()
    assert (report.state, report.reason) == ("failed", "render_failed")
    finished = Event.objects.get(kind="report.finish")
    assert (finished.outcome, finished.details["reason"]) == ("failed", "render_failed")
    monkeypatch.undo()
    assert _made(network.officer).pk != report.pk
    html = as_user(network.officer).get("/portal/reports").content.decode()
    assert "Failed" in html and "The document could not be made." in html


def test_a_failed_report_can_be_asked_for_again_by_those_who_may(
    network: Network, as_user: SignIn, django_capture_on_commit_callbacks: Any
) -> None:
    report = _request(network.officer, "northfield")
    reports.fail(_claimed(report), "timed_out")
    client = as_user(network.officer)
    html = client.get("/portal/reports/list").content.decode()
    assert "Making the document took too long." in html
    fields = dict(re.findall(r'type="hidden" name="(kind|start|end|hospital)" value="([^"]*)"', html))
    assert fields == {**_form("northfield"), "end": _month().end.isoformat()}
    with django_capture_on_commit_callbacks():
        assert client.post("/portal/reports", fields).status_code == 302
    again = Report.objects.exclude(pk=report.pk).get()
    assert (again.start, again.end, again.hospital, again.state) == (report.start, report.end, "northfield", "queued")
    auditor = as_user(network.auditor).get("/portal/reports/list").content.decode()
    assert "took too long" in auditor and "Retry" not in auditor


@pytest.mark.parametrize("code", ["timed_out", "render_failed", "unauthenticated", "not_found", "of_tomorrow"])
def test_every_reason_of_a_failed_report_is_a_sentence(code: str) -> None:
    assert report_reason(code).endswith(".")


def test_who_lost_the_post_gets_no_report(network: Network) -> None:
    report = _request(network.officer)
    Membership.objects.filter(user=network.officer).update(active=False)
    assert tasks.render_report.apply(args=(str(report.pk),)).get() == "failed"
    report.refresh_from_db()
    assert (report.reason, report.facts) == ("unauthenticated", None)


@pytest.mark.parametrize(
    "address",
    [
        "https://example.org/x.png",
        "http://127.0.0.1:8080/",
        "file:///etc/passwd",
        "ftp://example.org/x",
        "asset:../../manage.py",
        "asset:other.css",
    ],
)
@pytest.mark.parametrize(
    "markup", ['<img src="{}">', '<link rel="stylesheet" href="{}">', '<p style="background:url({})">x']
)
def test_the_renderer_fetches_nothing_that_is_not_bundled(address: str, markup: str, network: Network) -> None:
    frozen = facts.collect(network.principal, _month()).facts
    with pytest.raises(pdf.AddressRefused):
        pdf.convert(f"<html><body>{markup.format(address)}</body></html>", facts=frozen, digest=facts.digest(frozen))


def test_a_data_address_is_fine(network: Network) -> None:
    frozen = facts.collect(network.principal, _month()).facts
    page = '<p>ok<img alt="" src="data:image/svg+xml,%3Csvg xmlns=%22http://www.w3.org/2000/svg%22/%3E">'
    assert pdf.convert(page, facts=frozen, digest=facts.digest(frozen)).startswith(b"%PDF-")


def test_the_facts_are_attached(network: Network, tmp_path: Path) -> None:
    report = _made(network.officer)
    (tmp_path / "report.pdf").write_bytes(bytes(report.pdf or b""))
    subprocess.run(["pdfdetach", "-saveall", "-o", str(tmp_path), str(tmp_path / "report.pdf")], check=True)
    assert hashlib.sha256((tmp_path / "facts.json").read_bytes()).hexdigest() == report.facts_sha256


def test_damaged_bytes_are_not_handed_out(network: Network) -> None:
    report = _request(network.officer)
    Report.objects.filter(pk=report.pk).update(state="rendering", facts={}, facts_sha256="0" * 64)
    Report.objects.filter(pk=report.pk).update(state="done", pdf=b"%PDF-x", pdf_sha256="1" * 64)
    with pytest.raises(Conflict):
        reports.download(network.principal, report.pk)
    with pytest.raises(NotFound):
        reports.download(network.principal, uuid.uuid4())
    assert not Event.objects.filter(kind="report.download").exists()


def test_charts_escape_their_words() -> None:
    series = (charts.Series('<script>"&', (1.0,)), charts.Series("b", (2.5,)))
    for horizontal in (True, False):
        drawn = charts.svg(charts.Chart('"<x>', "epsilon", ("<b>&",), series, horizontal=horizontal))
        assert "<script>" not in drawn
        assert "<b>" not in drawn
        assert "&lt;b&gt;&amp;" in drawn


def test_what_asks_for_a_decision_comes_first(network: Network) -> None:
    frozen = facts.collect(network.principal, _month()).facts
    frozen["blocks"][1]["left_share"] = 0.1
    found = findings.findings(frozen)
    attention = [finding.attention for finding in found]
    assert attention == sorted(attention, reverse=True)
    named = [finding.subject for finding in found if finding.attention]
    assert f"Block of {frozen['blocks'][1]['hospital_name']}" in named
    assert f"Block of {frozen['blocks'][0]['hospital_name']}" not in named
