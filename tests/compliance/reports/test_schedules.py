"""Scheduled reports: due once, caught up once, sent once, and every way in which that can fail is shown."""

from __future__ import annotations

import re
import threading
import uuid
from datetime import date, timedelta
from smtplib import SMTPRecipientsRefused
from typing import Any

import pytest
from django.core import mail
from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from accounts import principals
from accounts.models import Membership
from compliance import period, reports, tasks
from compliance.models import Event, Report
from compliance.schedules import services
from compliance.schedules.models import ReportDelivery, ReportSchedule
from compliance.templatetags.portal import delivery_reason
from fdrouter.errors import InvalidParameter, NotFound, PolicyDenied
from tests.compliance import network as networks
from tests.compliance.network import Network, SignIn

pytestmark = pytest.mark.django_db
TO = ["audit@northfield.example", "privacy@northfield.example"]


@pytest.fixture(autouse=True)
def mail_server(settings: Any) -> None:
    """Django's test backend keeps the mails in a list."""
    settings.EMAIL_HOST = "mail.example"


def _scheduled(network: Network, *, kind: str = "monthly", attach: bool = False, missed: int = 1) -> ReportSchedule:
    """A schedule whose last ``missed`` periods nobody made a report of."""
    made = services.create(network.principal, kind=kind, hospital="lakeside", recipients=TO, attach=attach)
    last = period.latest_complete(kind)
    for _ in range(missed):
        last = period.whole(kind, last.start - timedelta(days=1))
    ReportSchedule.objects.filter(pk=made.pk).update(last_end=last.end)
    made.refresh_from_db()
    return made


def _finish(report: Report) -> None:
    claimed = reports.claim(report.pk)
    assert claimed is not None
    reports.render(claimed, lambda found, digest, files: b"%PDF-" + digest.encode())


def test_nothing_is_due_until_the_period_is_over(network: Network) -> None:
    made = services.create(network.principal, kind="daily", recipients=TO)
    assert made.last_end == timezone.localdate() - timedelta(days=1)
    assert services.make_due() == 0
    assert not Report.objects.exists()


@pytest.mark.parametrize("missed", [1, 5])
def test_a_due_report_is_made_once_and_only_the_latest_is_caught_up(missed: int, network: Network) -> None:
    made = _scheduled(network, missed=missed)
    assert [services.make_due() for _ in range(3)] == [1, 0, 0]
    report, latest = Report.objects.get(), period.latest_complete("monthly")
    assert (report.kind, report.start, report.end) == ("monthly", latest.start, latest.end)
    assert (report.hospital, report.requested_by) == ("lakeside", network.officer)
    made.refresh_from_db()
    assert made.last_end == latest.end


@pytest.mark.django_db(transaction=True)
def test_two_beats_at_once_make_one_report() -> None:
    network = networks.build()
    _scheduled(network)
    start, made = threading.Barrier(4), []

    def beat() -> None:
        try:
            start.wait(timeout=10)
            made.append(services.make_due())
        finally:
            connection.close()

    threads = [threading.Thread(target=beat) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert sorted(made) == [0, 0, 0, 1]
    assert Report.objects.count() == ReportDelivery.objects.count() == 1


def test_the_mail_has_a_link_and_not_the_document(network: Network, settings: Any) -> None:
    _scheduled(network)
    services.make_due()
    assert services.send_due() == 0  # the report is not made yet
    report = Report.objects.get()
    _finish(report)
    report.refresh_from_db()
    assert [tasks.scheduled_reports(), tasks.scheduled_reports()] == [1, 0]
    (sent,) = mail.outbox
    assert (sent.to, sent.attachments) == (TO, [])
    assert f"{settings.BASE_URL}/portal/reports/{report.pk}/download" in sent.body
    assert report.pdf_sha256 in sent.body
    assert "Lakeside Medical Center" in sent.subject
    delivery = ReportDelivery.objects.get()
    assert (delivery.state, delivery.attempts) == ("sent", 1)
    event = Event.objects.get(kind="report.mail")
    assert (event.outcome, event.subject, event.details["recipients"]) == ("sent", report.pk, 2)
    assert "example" not in str(event.details)  # addresses are no business of a log that nobody can erase


def test_the_document_goes_along_where_that_is_chosen(network: Network) -> None:
    _scheduled(network, attach=True)
    services.make_due()
    report = Report.objects.get()
    _finish(report)
    services.send_due()
    report.refresh_from_db()
    ((name, content, kind),) = mail.outbox[0].attachments
    assert (content, kind) == (bytes(report.pdf or b""), "application/pdf")
    assert name == f"privacy-report-{report.start}-{report.end}-lakeside.pdf"


def test_a_server_that_refuses_is_tried_five_times(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, messages: Any) -> int:
        raise SMTPRecipientsRefused({})

    monkeypatch.setattr("django.core.mail.backends.locmem.EmailBackend.send_messages", refuse)
    _scheduled(network)
    services.make_due()
    _finish(Report.objects.get())
    for attempt in range(1, services.MOST_ATTEMPTS + 1):
        assert services.send_due() == 0
        found = ReportDelivery.objects.get()
        assert found.attempts == attempt
        assert services.send_due() == 0  # not again at once
        assert ReportDelivery.objects.get().attempts == attempt
        if attempt < services.MOST_ATTEMPTS:
            assert found.state == "waiting"
            ReportDelivery.objects.update(next_at=timezone.now())
    assert (found.state, found.reason) == ("failed", "mail_refused")
    assert Event.objects.get(kind="report.mail").outcome == "failed"


def test_a_worker_that_died_while_it_sent_leaves_it_to_the_next(network: Network) -> None:
    _scheduled(network)
    services.make_due()
    _finish(Report.objects.get())
    ReportDelivery.objects.update(state="sending", attempts=1, next_at=timezone.now() + timedelta(minutes=5))
    assert services.send_due() == 0
    ReportDelivery.objects.update(next_at=timezone.now())
    assert services.send_due() == 1
    assert ReportDelivery.objects.get().attempts == 2


def test_failures_are_shown(network: Network, settings: Any, as_user: SignIn) -> None:
    settings.EMAIL_HOST = ""
    _scheduled(network)
    _scheduled(network, kind="daily")
    services.make_due()
    _finish(Report.objects.get(kind="monthly"))
    broken = reports.claim(Report.objects.get(kind="daily").pk)
    assert broken is not None
    reports.fail(broken, "timed_out")
    services.send_due()
    page = as_user(network.lakeside_officer).get("/portal/reports").content.decode()
    assert "No mail server is configured" in page
    assert "The report was not made. Making the document took too long." in page
    assert not mail.outbox


@pytest.mark.parametrize("reason", ["no_mail_server", "mail_refused", "report_timed_out", "of_tomorrow"])
def test_every_reason_is_a_sentence(reason: str) -> None:
    assert delivery_reason(reason).endswith(".") or "above" in delivery_reason(reason)


def test_a_schedule_ends_with_its_owners_post(network: Network) -> None:
    made = _scheduled(network)
    Membership.objects.filter(user=network.officer).update(active=False)
    assert services.make_due() == 0
    made.refresh_from_db()
    assert made.active is False
    assert not Report.objects.exists()
    assert Event.objects.filter(kind="report.schedule", outcome="ended_unauthenticated").count() == 1


def test_a_stopped_schedule_makes_nothing_and_nothing_up(network: Network) -> None:
    made = _scheduled(network, missed=3)
    services.set_active(network.principal, made.pk, active=False)
    assert services.make_due() == 0
    services.set_active(network.principal, made.pk, active=True)
    assert services.make_due() == 0
    kinds = Event.objects.filter(kind="report.schedule").order_by("seq").values_list("outcome", flat=True)
    assert list(kinds) == ["created", "stopped", "started"]


def test_the_page_makes_and_stops_schedules(network: Network, as_user: SignIn) -> None:
    client = as_user(network.officer)
    form = {
        "schedule-every": "weekly",
        "schedule-hospital": "lakeside",
        "schedule-recipients": "a@b.example, c@d.example",
    }
    assert client.post("/portal/reports/schedules", form).status_code == 302
    made = ReportSchedule.objects.get()
    assert (made.kind, made.recipients, made.attach) == ("weekly", ["a@b.example", "c@d.example"], False)
    page = client.get("/portal/reports").content.decode()
    assert "Every week" in page and "a@b.example, c@d.example" in page
    assert client.post(f"/portal/reports/schedules/{made.pk}", {"active": "false"}).status_code == 302
    made.refresh_from_db()
    assert made.active is False
    for recipients in ("", "nobody", "a@b.example, c", ", ".join(f"a{n}@b.example" for n in range(11))):
        wrong = client.post("/portal/reports/schedules", form | {"schedule-recipients": recipients})
        assert wrong.status_code == 422
        assert re.search('class="field-error"', wrong.content.decode())
    assert ReportSchedule.objects.count() == 1


def test_owner_member_and_outsider(network: Network, as_user: SignIn) -> None:
    made = services.create(network.principal, kind="monthly", recipients=TO)
    address, form = f"/portal/reports/schedules/{made.pk}", {"active": "false"}
    for user in (network.clinician, network.operator, network.outsider, network.lakeside_officer):
        assert as_user(user).post(address, form).status_code == 404
    assert as_user(network.auditor).post(address, form).status_code == 403
    assert TO[0] not in as_user(network.lakeside_officer).get("/portal/reports").content.decode()
    assert TO[0] in as_user(network.auditor).get("/portal/reports").content.decode()
    lakeside = principals.for_user(network.lakeside_officer.pk)
    assert services.create(lakeside, kind="daily", recipients=TO).hospital == "lakeside"
    with pytest.raises(NotFound):
        services.create(lakeside, kind="daily", hospital="northfield", recipients=TO)
    with pytest.raises(PolicyDenied):
        services.create(principals.for_user(network.auditor.pk), kind="daily", recipients=TO)
    with pytest.raises(NotFound):
        services.set_active(network.principal, uuid.uuid4(), active=True)
    wrong: list[dict[str, Any]] = [{"kind": "range"}, {"recipients": []}, {"hospital": "nowhere"}]
    for one in wrong:
        with pytest.raises(InvalidParameter):
            services.create(network.principal, **{"kind": "daily", "recipients": TO, **one})


def test_a_delivery_is_kept_as_it_ended(network: Network) -> None:
    _scheduled(network)
    services.make_due()
    found = ReportDelivery.objects.all()
    with pytest.raises(DatabaseError, match="cannot go from"), transaction.atomic():
        found.update(state="sent", ended_at=timezone.now())
    with pytest.raises(DatabaseError, match="of one report"), transaction.atomic():
        found.update(start=date(2020, 1, 1))
    _finish(Report.objects.get())
    services.send_due()
    with pytest.raises(DatabaseError, match="does not change"), transaction.atomic():
        found.update(state="waiting", ended_at=None)
    with pytest.raises(DatabaseError, match="are kept"), transaction.atomic():
        found._raw_delete("default")
