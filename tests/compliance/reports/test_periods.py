"""Days, weeks, months, quarters and free ranges: what they cover, what they are called, and one report of each."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from compliance import facts, period, reports, series
from compliance.models import Report
from compliance.period import Period
from tests.compliance.network import Network, SignIn

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("kind", "start", "end", "called"),
    [
        ("daily", date(2024, 2, 29), date(2024, 2, 29), "29 February 2024"),
        ("weekly", date(2024, 2, 26), date(2024, 3, 3), "26 February to 3 March 2024"),
        ("monthly", date(2024, 2, 1), date(2024, 2, 29), "February 2024"),
        ("quarterly", date(2024, 1, 1), date(2024, 3, 31), "1st quarter 2024"),
    ],
)
def test_whole_periods(kind: str, start: date, end: date, called: str) -> None:
    found = period.whole(kind, date(2024, 2, 29))
    assert (found.start, found.end) == (start, end)
    assert period.name(start, end, kind) == called
    assert period.whole(kind, end + timedelta(days=1)).start == end + timedelta(days=1)


def test_the_last_quarter_ends_with_the_year() -> None:
    assert period.whole("quarterly", date(2025, 12, 31)) == Period(date(2025, 10, 1), date(2025, 12, 31))
    assert period.name(date(2025, 12, 30), date(2026, 1, 4)) == "30 December 2025 to 4 January 2026"
    assert period.latest_complete("daily").end == timezone.localdate() - timedelta(days=1)


@pytest.mark.parametrize("kind", ["daily", "weekly", "monthly", "quarterly", "range"])
def test_every_kind_is_requested_on_the_page(kind: str, network: Network, as_user: SignIn) -> None:
    form = {"kind": kind, "start": "2026-02-10", "end": "2026-02-12", "hospital": "lakeside"}
    client = as_user(network.officer)
    assert client.post("/portal/reports", form).status_code == 302
    found = Report.objects.get()
    whole = Period(date(2026, 2, 10), date(2026, 2, 12)) if kind == "range" else period.whole(kind, date(2026, 2, 10))
    assert (found.kind, found.start, found.end, found.hospital) == (kind, whole.start, whole.end, "lakeside")
    assert period.name(found.start, found.end, kind) in client.get("/portal/reports/list").content.decode()


def test_one_report_is_open_for_hospital_and_days(network: Network) -> None:
    days = Period(date(2026, 2, 1), date(2026, 2, 28))
    first, made = reports.request(network.principal, days, kind="monthly")
    again, twice = reports.request(network.principal, days)
    assert (again.pk, made, twice) == (first.pk, True, False)
    assert reports.request(network.principal, days, hospital="lakeside")[1]
    assert reports.request(network.principal, Period(date(2026, 2, 1), date(2026, 2, 27)))[1]


def test_days_to_come_are_cut_off(network: Network) -> None:
    month = period.whole("monthly", timezone.localdate())
    frozen = facts.collect(network.principal, month, kind="monthly").facts
    assert frozen["period"]["end"] == timezone.localdate().isoformat()
    assert frozen["period"]["complete"] is False
    assert frozen["period"]["name"] == f"{timezone.localdate():%B %Y}"


def test_the_heat_map_adds_up_to_the_departments(network: Network) -> None:
    for days in (1, 14, 15, 60):
        covered = period.last_days(days)
        frozen = facts.collect(network.principal, covered).facts
        assert sum(sum(row["values"]) for row in frozen["heat"]["rows"]) == sum(
            r["spent"] for r in frozen["departments"]
        )
        columns = [Period(date.fromisoformat(a), date.fromisoformat(b)) for a, b in frozen["heat"]["columns"]]
        assert [day for column in columns for day in column.days] == covered.days
        assert len(columns) == days if days <= series.DAYS_ALONE else all(c.start.weekday() == 0 for c in columns[1:])


def test_the_burn_down_ends_at_what_is_left(network: Network) -> None:
    frozen = facts.collect(network.principal, period.last_days(7)).facts
    lines = {line["hospital"]: line for line in frozen["burn_down"]}
    blocks = {block["hospital"]: block for block in frozen["blocks"]}
    for hospital, charged in (("northfield", 1), ("lakeside", 2)):
        points, left = lines[hospital]["points"], blocks[hospital]["left_share"]
        assert points[-1] == [timezone.localdate().isoformat(), pytest.approx(left, abs=1e-6)]
        assert points[0][1] == pytest.approx(left + charged * 340_000_000 / 6_060_000_000, abs=1e-6)


def test_purposes_are_all_requests(network: Network) -> None:
    frozen = facts.collect(network.principal, period.last_days(7)).facts
    assert {row["purpose"]: row["count"] for row in frozen["requests"]["purposes"]}["TREAT"] == 7
    assert sum(row["count"] for row in frozen["requests"]["purposes"]) == frozen["requests"]["total"]["total"]


@pytest.mark.django_db(transaction=True)
def test_reports_of_a_month_stay_readable_after_the_migration() -> None:
    executor = MigrationExecutor(connection)
    leaves = executor.loader.graph.leaf_nodes()
    try:
        old = executor.migrate([("compliance", "0007_ledger_in_log")])
        user = old.apps.get_model("accounts", "User").objects.create(username="officer")
        rows = old.apps.get_model("compliance", "Report").objects
        made = rows.create(month=date(2026, 2, 1), requested_by=user, state="done", facts={"a": 1}, pdf=b"%PDF-x")
    finally:
        executor = MigrationExecutor(connection)
        executor.migrate(leaves)
    found = Report.objects.get(pk=made.pk)
    assert (found.kind, found.start, found.end) == ("monthly", date(2026, 2, 1), date(2026, 2, 28))
    assert (found.state, bytes(found.pdf or b""), found.signed_by) == ("done", b"%PDF-x", "")
    with connection.cursor() as cursor:
        cursor.execute("SELECT tgenabled FROM pg_trigger WHERE tgname = 'compliance_report_guard'")
        assert cursor.fetchone() == ("A",)
