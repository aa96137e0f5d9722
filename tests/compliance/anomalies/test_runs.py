"""Runs over real rows: what is read, written once, in the log; from a cursor; twice, also at once; by command."""

from __future__ import annotations

import hashlib
import io
import threading
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from accounts import principals
from accounts.models import Hospital, User
from compliance import tasks
from compliance.anomalies import collect, services
from compliance.anomalies.models import AnomalyCursor, AnomalyFinding, WatchedPatient
from compliance.log.entries import private_part
from compliance.models import Event
from compliance.period import Period, today
from fdrouter import celery, evidence
from federation.models import Inference
from tests.accounts import people
from tests.compliance import network as networks
from tests.compliance.network import SECRET, Network


@pytest.fixture
def network(db: None, quick_passwords: None) -> Network:
    """Without requests."""
    return networks.build()


def asks(
    user: User, count: int, *, days_ago: int = 0, now: bool = False, patient: str = "", **fields: Any
) -> list[Inference]:
    """Ended requests from the beginning of a day, a second apart, or of now; each about a patient of its own."""
    who = principals.for_user(user.pk)
    start = timezone.now() if now else Period(day := timezone.localdate() - timedelta(days=days_ago), day).bounds[0]
    values: dict[str, Any] = {"kind": "general", "purpose": "TREAT", "state": "done", "epsilon_micro": 0, "delta": 0.0}
    rows = [
        Inference(
            **(values | fields),
            user=user,
            membership_id=who.membership_id,
            department_id=who.department_id,
            model="m",
            channel="web",
            stream=True,
            hospitals=[who.hospital],
            patient_reference=f"{patient}{n}" if patient else "",
            request_digest=hashlib.sha256(f"{patient}{n}".encode()).digest(),
            request=SECRET,
            lease=start,
            reply_to="here",
            created_at=start + timedelta(microseconds=n) if now else start + timedelta(seconds=n),
            finished_at=start + timedelta(seconds=n),
        )
        for n in range(count)
    ]
    return Inference.objects.bulk_create(rows)


def rules() -> list[str]:
    return list(AnomalyFinding.objects.order_by("rule").values_list("rule", flat=True).distinct())


def test_a_finding_rests_on_rows_and_is_in_the_log_without_contents(network: Network) -> None:
    rows = asks(network.clinician, 1, kind="chart", patient="north-000")
    done = services.run()
    assert (done.found, done.grown) == (1, 0)
    found = AnomalyFinding.objects.get()
    assert (found.rule, found.patient_reference, found.hospital) == ("care-relation", "north-0000", "northfield")
    assert found.requests == [rows[0].pk] and found.weight == 1
    event = Event.objects.get(kind="anomaly.finding")
    assert (event.outcome, event.subject, event.hospital) == ("found", found.pk, "northfield")
    assert set(event.details) == {"rule", "version", "score", "rows"}
    opened = private_part(event)
    assert opened is not None and b"north-0000" in opened[1]


def test_a_run_again_finds_nothing_new_and_growth_is_told(network: Network) -> None:
    asks(network.clinician, 5, purpose="HRESCH")
    assert services.run().found == 1
    assert services.run() == services.Run(days=services.run().days)
    asks(network.clinician, 2, purpose="HRESCH", now=True)
    done = services.run()
    assert (done.found, done.grown) == (0, 1)
    assert AnomalyFinding.objects.get().weight == 7
    told = Event.objects.filter(kind="anomaly.finding").order_by("seq")
    assert [(event.outcome, event.details["rows"]) for event in told] == [("found", 5), ("grown", 7)]


def test_a_run_starts_where_the_last_one_got_to(network: Network) -> None:
    services.run()
    first = AnomalyCursor.objects.get().upto
    asks(network.clinician, 9, purpose="HRESCH", days_ago=3)  # nobody could have seen them since
    assert services.run().found == 0
    assert AnomalyCursor.objects.get().upto > first
    back, _ = Period(day := timezone.localdate() - timedelta(days=3), day).bounds
    assert services.run(back).found == 1
    AnomalyCursor.objects.update(upto=back)
    asks(network.neighbour, 9, purpose="HRESCH", days_ago=3)
    assert services.run().found == 1


def test_a_later_start_does_not_move_the_cursor_over_unseen_rows(network: Network) -> None:
    seen = timezone.now() - timedelta(days=5)
    AnomalyCursor.objects.create(upto=seen)
    services.run(timezone.now())
    assert AnomalyCursor.objects.get().upto == seen
    AnomalyCursor.objects.all().delete()
    services.run(timezone.now())
    assert not AnomalyCursor.objects.exists()


def test_rows_that_became_visible_late_are_seen(network: Network) -> None:
    services.run()
    rows = asks(network.clinician, 5, purpose="HRESCH")
    Inference.objects.filter(pk__in=[row.pk for row in rows]).update(
        created_at=AnomalyCursor.objects.get().upto - timedelta(minutes=5)
    )
    assert services.run().found == 1


def test_habits_come_from_the_past_and_from_the_departments_people(network: Network) -> None:
    colleague = people.person("colleague")
    for days in range(1, 13):
        asks(network.clinician, 6, days_ago=days)
        asks(colleague, 4, days_ago=days)
    asks(network.clinician, 45)
    services.run()
    assert rules() == ["volume"]
    found = AnomalyFinding.objects.get()
    assert found.person == network.clinician and found.weight == 45 and "usually 6, and 5" in found.sentence


def test_hours_are_the_hospitals(network: Network) -> None:
    Hospital.objects.filter(pk="northfield").update(time_zone="Asia/Tokyo")
    asks(network.clinician, 1)
    asks(network.clinician, 2, days_ago=1)
    Hospital.objects.filter(pk="lakeside").update(time_zone="Nowhere/At-all")
    begin, end = today().bounds
    found = collect.rows({network.clinician.pk}, begin, end, past_days=30, zone="UTC")
    assert [row.hour for row in found.asked] == [9]
    assert found.hours[network.clinician.pk][9] == 2 and sum(found.hours[network.clinician.pk]) == 2
    assert [row.size for row in found.asked] == [len(SECRET)]


def test_refusals_and_sign_ins_come_from_the_log(network: Network) -> None:
    def record(count: int, **fields: Any) -> None:
        evidence.record(*[evidence.Event(actor_id=network.clinician.pk, **fields) for _ in range(count)])

    record(6, kind="ledger.reserve", outcome="quota_spent", details={"kind": "cohort.text"})
    record(5, kind="policy.decision", outcome="denied", details={"kind": "chart"})
    record(5, kind="session.sign_in", outcome="failed")
    record(1, kind="session.sign_in")
    services.run()
    assert rules() == ["budget-refusals", "refused-charts", "sign-ins"]
    assert len(AnomalyFinding.objects.get(rule="sign-ins").seqs) == 6


def test_flags_count_while_they_stand(network: Network) -> None:
    officer = principals.for_user(network.officer.pk)
    services.watch(officer, hospital="northfield", reference="north-0000", kind="vip")
    people.in_care("north-0000")
    asks(network.clinician, 1, kind="chart", patient="north-000")
    services.run()
    assert "vip" in rules()
    services.unwatch(officer, WatchedPatient.objects.get().pk)
    other = people.person("other")
    asks(other, 1, kind="chart", patient="north-000", now=True)
    assert services.run().days == 1
    assert AnomalyFinding.objects.filter(rule="vip").count() == 1


def test_the_database_keeps_findings(network: Network) -> None:
    asks(network.clinician, 5, purpose="HRESCH")
    services.run()
    row = AnomalyFinding.objects.all()
    for change in (lambda: row.delete(), lambda: row.update(weight=1), lambda: row.update(person=network.neighbour)):
        with pytest.raises(IntegrityError), transaction.atomic():
            change()


def test_the_command_and_the_task(network: Network) -> None:
    asks(network.clinician, 5, purpose="HRESCH", days_ago=20)
    assert tasks.find_anomalies() == 0
    said = io.StringIO()
    call_command("anomalies", "run", "--since", f"{timezone.localdate() - timedelta(days=30)}", stdout=said)
    assert said.getvalue().startswith("1 found, 0 grown, 1 days")
    call_command("anomalies", "rules", stdout=said)
    assert "serial-cases (version 1)" in said.getvalue()
    with pytest.raises(CommandError):
        call_command("anomalies", "run", "--since", "2999-01-01")


@pytest.mark.django_db(transaction=True)
def test_runs_at_once_write_each_finding_once(quick_passwords: None) -> None:
    network = networks.build()
    for user in (network.clinician, network.neighbour):
        asks(user, 5, purpose="HRESCH")
        asks(user, 1, kind="chart", patient=f"{uuid.uuid4()}")
    barrier, failed = threading.Barrier(4), list[BaseException]()

    def go() -> None:
        try:
            barrier.wait()
            services.run()
        except BaseException as error:  # noqa: BLE001  (a thread's failure is the test's)
            failed.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert AnomalyFinding.objects.count() == 4
    assert Event.objects.filter(kind="anomaly.finding").count() == 4
    assert AnomalyCursor.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_a_run_waits_for_one_that_is_writing(quick_passwords: None) -> None:
    network, came = networks.build(), list[object]()
    asks(network.clinician, 5, purpose="HRESCH")

    def go() -> None:
        try:
            came.append(services.run().found)
        except BaseException as error:  # noqa: BLE001  (a thread's failure is the test's)
            came.append(error)
        finally:
            connection.close()

    second = threading.Thread(target=go)
    with transaction.atomic():
        assert services.run().found == 1
        second.start()
        second.join(timeout=1)
        assert second.is_alive() and came == []
    second.join()
    assert came == [0]
    assert Event.objects.filter(kind="anomaly.finding").count() == 1


def test_beat_sends_it_to_the_default_queue_every_ten_minutes() -> None:
    entry = celery.app.conf.beat_schedule["find-anomalies"]
    assert (entry["task"], entry["schedule"]) == (tasks.find_anomalies.name, 600.0)
    assert celery.app.amqp.router.route({}, entry["task"])["queue"].name == "default"
