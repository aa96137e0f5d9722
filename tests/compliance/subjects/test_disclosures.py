"""Disclosures: each way out of the system is among them, with recipient and range; filters, file, reach."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest
from django.db import connection
from django.test import Client

from accounts import principals
from compliance import period
from compliance.models import Event
from compliance.subjects import disclosures
from compliance.subjects.disclosures import NAMES, DisclosureFilter
from fdrouter import evidence
from tests.compliance.fhir.test_indexes import FILL
from tests.compliance.network import Network, SignIn

pytestmark = pytest.mark.django_db
PATHS = ("/portal/disclosures", "/portal/disclosures.csv")


@pytest.fixture
def out(network: Network) -> Network:
    """Things that left, and one that did not."""
    made = [
        (
            "events.export",
            "ok",
            network.officer.pk,
            "northfield",
            {"rows": 3, "filter": {"kind": "request.submit", "start": "2026-03-01", "end": "2026-03-02"}},
        ),
        ("report.mail", "sent", None, "lakeside", {"recipients": 2, "period": "2026-03-01/2026-03-31"}),
        ("events.stream", "ok", None, None, {"format": "cef", "to": "tls", "from": 7}),
        ("fhir.search", "ok", network.lakeside_officer.pk, "lakeside", {"query": "GET /fhir/AuditEvent", "rows": 1}),
        ("novel.export", "ok", network.officer.pk, "northfield", {}),
        ("log.export", "denied", network.auditor.pk, None, {}),
    ]
    for kind, outcome, actor, hospital, details in made:
        evidence.record(
            evidence.Event(kind=kind, outcome=outcome, actor_id=actor, hospital=hospital, details=dict(details))
        )
    return network


@pytest.mark.parametrize("path", PATHS)
def test_officers_and_auditors_read_and_everybody_else_finds_nothing(path: str, out: Network, as_user: SignIn) -> None:
    for user in (out.officer, out.auditor, out.lakeside_officer):
        assert as_user(user).get(path).status_code == 200
    for user in (out.clinician, out.operator, out.outsider):
        assert as_user(user).get(path).status_code == 404
    assert Client().get(path).status_code == 302


def test_what_left_to_whom_and_which_range(out: Network, as_user: SignIn) -> None:
    rows = {row.event.kind: row for row in as_user(out.officer).get("/portal/disclosures").context["rows"]}
    assert set(rows) == {"events.export", "report.mail", "events.stream", "fhir.search", "novel.export"}
    assert (
        rows["events.export"].recipient == "officer"
        and rows["events.export"].covers == "2026-03-01 to 2026-03-02; kind request.submit; 3 rows"
    )
    assert rows["report.mail"].recipient == "2 mail addresses of the schedule"
    assert "2026-03-01/2026-03-31" in rows["report.mail"].covers
    assert rows["events.stream"].recipient == "a receiver by tls" and "from 7" in rows["events.stream"].covers
    assert rows["novel.export"].what == "novel.export"


def test_reach_filters_and_sorting(out: Network, as_user: SignIn) -> None:
    def shown(client: Client, **asked: str) -> list[str]:
        return [row.event.kind for row in client.get("/portal/disclosures", asked).context["rows"]]

    theirs = as_user(out.lakeside_officer)
    assert sorted(shown(theirs)) == ["fhir.search", "report.mail"]
    assert theirs.get("/portal/disclosures", {"hospital": "northfield"}).status_code == 422
    client = as_user(out.officer)
    assert shown(client, kind="report.mail") == ["report.mail"] and shown(client, actor="lakeside") == ["fhir.search"]
    assert shown(client, start="2021-01-01", end="2021-01-02") == []
    for column in disclosures.SORTS:
        assert sorted(shown(client, sort=column)) == sorted(shown(client, sort=f"-{column}"))
    for wrong in ({"kind": "session.sign_in"}, {"sort": "x"}, {"start": "x"}):
        assert client.get("/portal/disclosures", wrong).status_code == 422
        assert client.get("/portal/disclosures.csv", wrong).status_code == 422


def test_the_file_is_a_disclosure_from_then_on(out: Network, as_user: SignIn) -> None:
    client = as_user(out.auditor)
    lines = list(csv.DictReader(io.StringIO(client.get("/portal/disclosures.csv").content.decode())))
    assert len(lines) == 5 and "disclosures.export" not in {line["kind"] for line in lines}
    assert Event.objects.get(kind="disclosures.export").details["rows"] == 5
    assert client.get("/portal/disclosures").context["rows"][0].event.kind == "disclosures.export"


def test_every_kind_that_takes_something_out_is_found() -> None:
    sources = [path for app in ("compliance", "federation", "privacy") for path in Path(app).rglob("*.py")]
    pattern = re.compile(r'"([a-z_]+\.(?:export|download|mail|stream))"')
    found = {kind for path in sources for kind in pattern.findall(path.read_text("utf-8"))}
    assert found >= {"events.export", "patient.export", "report.download", "report.mail", "events.stream"}
    assert {kind for kind in found | set(NAMES) if not disclosures.leaves(kind)} == set()
    assert not disclosures.leaves("session.sign_in")


def test_kinds_and_rows_come_from_indexes_however_long_the_log_is(out: Network) -> None:
    with connection.cursor() as cursor:
        cursor.execute(FILL, [50_000])
        cursor.execute("ANALYZE compliance_event")
        cursor.execute(f"EXPLAIN {disclosures.KINDS}")
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert "event_kind" in plan and "Seq Scan" not in plan, plan
    chosen = DisclosureFilter(period=period.last_days(90))
    for user in (out.officer, out.lakeside_officer):
        rows = disclosures.disclosures(principals.for_user(user.pk), chosen)
        plan = rows[:50].explain()
        assert "Index" in plan and "Seq Scan on compliance_event" not in plan, plan
