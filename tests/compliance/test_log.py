"""The database keeps evidence and ledger entries, whoever asks it not to."""

from __future__ import annotations

import threading
import uuid

import pytest
from django.db import DatabaseError, connection, transaction

from compliance.models import Event, Report
from fdrouter import evidence
from privacy.models import Entry
from tests.compliance.network import Network

TABLES = {"compliance_event": "outcome = 'ok'", "privacy_entry": "amount = 0"}


def _refused(statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # or TRUNCATE would stumble over the test's own pending checks
        with pytest.raises(DatabaseError, match="append-only|are kept"), transaction.atomic():
            cursor.execute(statement)


@pytest.mark.parametrize("table", TABLES)
def test_update_delete_and_truncate_are_refused_to_the_owner(table: str, network: Network) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableowner = current_user FROM pg_tables WHERE tablename = %s", [table])
        assert cursor.fetchone() == (True,)
    _refused(f"UPDATE {table} SET {TABLES[table]}")
    _refused(f"DELETE FROM {table}")
    _refused(f"TRUNCATE {table} CASCADE")


@pytest.mark.parametrize("table", TABLES)
def test_a_replication_session_is_refused_too(table: str, network: Network) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
    try:
        _refused(f"DELETE FROM {table}")
    finally:
        with connection.cursor() as cursor:
            cursor.execute("SET session_replication_role = origin")


def test_the_orm_is_refused(network: Network) -> None:
    event, entry = Event.objects.latest("seq"), Entry.objects.latest("seq")
    event.outcome = "changed"
    for change in (
        event.save,
        event.delete,
        entry.delete,
        Event.objects.all().delete,
        lambda: Event.objects.update(outcome="changed"),
        lambda: Entry.objects.filter(pk=entry.pk).update(amount=0),
    ):
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            change()
    assert Event.objects.get(pk=event.pk).outcome != "changed"


def test_evidence_of_an_action_that_was_rolled_back_is_gone(network: Network) -> None:
    subject = uuid.uuid4()
    with pytest.raises(RuntimeError), transaction.atomic():
        evidence.record(evidence.Event(kind="request.submit", subject=subject))
        assert Event.objects.filter(subject=subject).exists()
        raise RuntimeError
    assert not Event.objects.filter(subject=subject).exists()


@pytest.mark.django_db(transaction=True)
def test_connections_append_at_once_without_loss() -> None:
    subjects = [uuid.uuid4() for _ in range(4)]
    start = threading.Barrier(len(subjects))

    def append(subject: uuid.UUID) -> None:
        try:
            start.wait(timeout=10)
            for nth in range(25):
                with transaction.atomic():
                    evidence.record(evidence.Event(kind="request.submit", subject=subject, details={"nth": nth}))
        finally:
            connection.close()

    threads = [threading.Thread(target=append, args=(subject,)) for subject in subjects]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    for subject in subjects:
        found = Event.objects.filter(subject=subject).order_by("seq")
        assert [row.details["nth"] for row in found] == list(range(25))
    assert Event.objects.values("seq").distinct().count() == 100


def test_reports_are_kept(network: Network) -> None:
    report = Report.objects.create(kind="monthly", start="2026-01-01", end="2026-01-31", requested_by=network.officer)
    _refused("DELETE FROM compliance_report")
    _refused("TRUNCATE compliance_report CASCADE")
    _refused("TRUNCATE compliance_reportdelivery")
    with pytest.raises(DatabaseError, match="cannot go from"), transaction.atomic():
        Report.objects.filter(pk=report.pk).update(state="done", pdf=b"x", facts={})
    Report.objects.filter(pk=report.pk).update(state="rendering", facts={"a": 1}, facts_sha256="0" * 64)
    with pytest.raises(DatabaseError, match="frozen"), transaction.atomic():
        Report.objects.filter(pk=report.pk).update(facts={"a": 2})
    Report.objects.filter(pk=report.pk).update(state="done", pdf=b"x")
    with pytest.raises(DatabaseError, match="does not change"), transaction.atomic():
        Report.objects.filter(pk=report.pk).update(pdf=b"y")
