"""Filters, sorting, paging and the export."""

from __future__ import annotations

import csv
import io
import uuid
from datetime import UTC
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient
from django.utils import timezone

from accounts import principals
from compliance import charges, export, selectors
from compliance.models import Event
from compliance.selectors import EVENT_SORTS, REQUEST_SORTS, EventFilter
from fdrouter import evidence
from federation.models import Inference
from federation.templatetags.ui import COST_MEANING
from privacy.quotas import MICRO
from tests.compliance.network import Network, SignIn, ask

BAD = [
    {"start": "2026-13-01"},
    {"start": "0001-01-01"},
    {"end": "9999-12-31"},
    {"start": "yesterday"},
    {"start": "2026-02-01", "end": "2026-01-01"},
    {"start": "2021-01-01", "end": "2026-01-01"},
    {"kind": "no-such-kind"},
    {"hospital": "nowhere"},
    {"department": "'; DROP TABLE compliance_event; --"},
    {"sort": "password"},
    {"sort": "--seq"},
]


@pytest.mark.parametrize("query", [*BAD, {"state": "unheard-of"}, {"id": "7"}, {"user": "a" * 200}, {"user": "a\x00"}])
def test_bad_values_are_named_on_the_requests_page(query: dict[str, str], network: Network, as_user: SignIn) -> None:
    page = as_user(network.officer).get("/portal/requests", query)
    assert page.status_code == 422
    assert set(page.context["form"].errors) <= set(query)
    assert page.context["page"].paginator.count == 0


@pytest.mark.parametrize("query", [*BAD, {"subject": "x"}, {"actor": "a" * 200}, {"purpose": "FUN"}])
def test_bad_values_are_named_on_the_events_page_and_its_export(
    query: dict[str, str], network: Network, as_user: SignIn
) -> None:
    client = as_user(network.officer)
    assert client.get("/portal/events", query).status_code == 422
    refused = client.get("/portal/events.csv", query)
    assert refused.status_code == 422
    assert next(iter(query)) in refused.content.decode() or "end" in refused.content.decode()
    assert not Event.objects.filter(kind="events.export").exists()


@pytest.mark.parametrize("page", ["0", "-1", "99", "x", ""])
def test_a_page_that_is_none_gives_the_nearest(page: str, network: Network, as_user: SignIn) -> None:
    assert as_user(network.officer).get("/portal/events", {"page": page}).status_code == 200


def test_requests_are_filtered(network: Network, as_user: SignIn) -> None:
    client = as_user(network.officer)

    def count(**query: str) -> int:
        return int(client.get("/portal/requests", query).context["page"].paginator.count)

    assert count() == 7
    assert count(kind="cohort.text") == 5
    assert count(state="open") == 1
    assert count(state="failed", reason="no_node") == 1
    assert count(hospital="lakeside") == 4
    assert count(department="cardiology") == 4
    assert count(node="lakeside", user="CLIN") == 1
    assert count(end="2025-01-01") == 0
    some = Inference.objects.first()
    assert some is not None
    assert count(id=str(some.pk)) == 1


def test_the_cost_of_a_row_is_what_the_ledger_kept(network: Network, as_user: SignIn) -> None:
    rows = as_user(network.officer).get("/portal/requests?sort=-cost").context["page"].object_list
    assert [row.charged for row in rows] == [3_250_000, 2_000_000, 1_500_000, 500_000, 0, 0, 0]
    refunded = next(row for row in rows if row.state == "failed")
    assert (refunded.epsilon_micro, refunded.charged) == (1_000_000, 0)
    assert rows[0].receipt_digest == (Inference.objects.get(pk=rows[0].pk).receipt or {})["digest"]


@pytest.mark.parametrize("sign", ["", "-"])
@pytest.mark.parametrize("column", EVENT_SORTS)
def test_events_sort_by_every_column(column: str, sign: str, network: Network, as_user: SignIn) -> None:
    rows = as_user(network.officer).get("/portal/events", {"sort": sign + column}).context["page"].object_list
    assert len(rows) == Event.objects.count()
    if column not in ("details", "time"):
        values = [getattr(row, column) for row in rows if getattr(row, column) is not None]
        assert values == sorted(values, reverse=sign == "-")


def test_the_outcomes_to_choose_from_are_those_within_reach(network: Network, as_user: SignIn) -> None:
    evidence.record(evidence.Event(kind="policy.decision", outcome="elsewhere", hospital="northfield"))
    page = as_user(network.officer).get("/portal/events", {"outcome": "elsewhere"})
    assert page.context["outcomes"] == sorted(set(Event.objects.values_list("outcome", flat=True)))
    assert "<option selected>elsewhere</option>" in page.content.decode()
    assert "elsewhere" not in selectors.event_outcomes(principals.for_user(network.lakeside_officer.pk))


def test_the_time_of_an_event_has_seconds_and_a_zone(network: Network, as_user: SignIn) -> None:
    row = Event.objects.order_by("-seq").first()
    assert row is not None
    at = row.at.astimezone(UTC)
    html = as_user(network.officer).get("/portal/events").content.decode()
    assert f'<time datetime="{at:%Y-%m-%dT%H:%M:%S.%f}Z" data-style="exact"' in html
    assert f"{at.day} {at:%b %Y, %H:%M:%S} UTC</time>" in html


@pytest.mark.parametrize("column", REQUEST_SORTS)
def test_requests_sort_by_every_column(column: str, network: Network, as_user: SignIn) -> None:
    client = as_user(network.officer)
    both = [client.get("/portal/requests", {"sort": s + column}).context["page"].object_list for s in ("", "-")]
    assert {row.pk for row in both[0]} == {row.pk for row in both[1]}


def test_pages_do_not_overlap(network: Network, as_user: SignIn) -> None:
    for _ in range(20):
        ask(network.clinician, kind="general")
    client = as_user(network.officer)
    total = Event.objects.count()
    pages = [client.get("/portal/events", {"sort": "kind", "page": n}).context["page"].object_list for n in (1, 2)]
    seen = [row.seq for rows in pages for row in rows]
    assert len(seen) == len(set(seen)) == min(total, 100)


def test_the_export_holds_the_filtered_rows(network: Network, as_user: SignIn) -> None:
    expected = list(Event.objects.filter(kind="request.submit").order_by("seq").values_list("seq", flat=True))
    response = as_user(network.officer).get("/portal/events.csv", {"kind": "request.submit", "sort": "-actor"})
    rows = list(csv.DictReader(io.StringIO(b"".join(response).decode())))
    assert [int(row["seq"]) for row in rows] == expected
    assert {row["actor"] for row in rows} == {"clinician", "neighbour"}
    assert tuple(rows[0]) == export.COLUMNS
    recorded = Event.objects.get(kind="events.export")
    assert recorded.actor_id == network.officer.pk
    assert recorded.details == {"rows": len(expected), "upto": expected[-1], "filter": {"kind": "request.submit"}}


def test_the_export_of_a_hospital_holds_its_rows_only(network: Network, as_user: SignIn) -> None:
    response = as_user(network.lakeside_officer).get("/portal/events.csv")
    rows = list(csv.DictReader(io.StringIO(b"".join(response).decode())))
    assert rows
    assert all(row["hospital"] == "lakeside" or row["actor"] in ("neighbour", "lakeside.officer") for row in rows)


def test_no_cell_is_a_formula(network: Network, as_user: SignIn) -> None:
    for text in ("=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"):
        evidence.record(evidence.Event(kind="request.fail", outcome=text, details={"why": '=HYPERLINK("x")'}))
    response = as_user(network.officer).get("/portal/events.csv", {"kind": "request.fail"})
    cells = [cell for row in csv.reader(io.StringIO(b"".join(response).decode(), newline="")) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert "'=1+1" in cells


def _charges(client: Any, **query: str) -> list[dict[str, str]]:
    response = client.get("/portal/charges.csv", query)
    assert response.status_code == 200
    return list(csv.DictReader(io.StringIO(b"".join(response).decode())))


def test_the_export_of_charges_names_each_request_and_what_the_figure_bounds(network: Network, as_user: SignIn) -> None:
    paid = ask(network.clinician, epsilon=0.25)
    rows = [row for row in _charges(as_user(network.officer)) if row["request"] == str(paid.pk)]
    assert {(row["quota"], row["movement"], row["epsilon"]) for row in rows} == {
        ("user", "charged", "0.250000"),
        ("department", "charged", "0.250000"),
        ("hospital", "charged", "0.250000"),
    }
    assert {row["kind"] for row in rows} == {paid.kind}
    assert {(row["unit"], row["bounds"]) for row in rows} == {(charges.UNIT, charges.BOUNDS)}
    recorded = Event.objects.get(kind="charges.export")
    assert recorded.actor_id == network.officer.pk and recorded.details["rows"] >= len(rows)


def test_what_was_given_back_is_named_so_and_no_formula(network: Network, as_user: SignIn) -> None:
    free = ask(network.clinician, epsilon=0.5, state="failed", reason="no_node")
    rows = [row for row in _charges(as_user(network.officer)) if row["request"] == str(free.pk)]
    given = [row for row in rows if row["movement"] == "given back"]
    assert len(given) == 3 and {row["epsilon"] for row in given} == {"0.500000"}


def test_the_export_of_charges_adds_up_to_the_ledger_page(network: Network, as_user: SignIn) -> None:
    client = as_user(network.officer)
    sums: dict[str, float] = {}
    for row in _charges(client):
        if row["quota"] == "department":
            sign = 1 if row["movement"] == "charged" else -1
            sums[row["hospital"]] = sums.get(row["hospital"], 0.0) + sign * float(row["epsilon"])
    shown = client.get("/portal/ledger").context["hospitals"]
    assert sums and {row.code: row.spent / MICRO for row in shown if row.spent} == pytest.approx(
        {code: total for code, total in sums.items() if total}
    )


def test_the_export_of_charges_stays_within_hospital_and_range(network: Network, as_user: SignIn) -> None:
    assert {row["hospital"] for row in _charges(as_user(network.lakeside_officer))} <= {"lakeside"}
    past = {"start": "2025-01-01", "end": "2025-01-31"}
    assert _charges(as_user(network.officer), **past) == []
    wrong = as_user(network.officer).get("/portal/charges.csv", {"start": "x"})
    assert wrong.status_code == 422
    theirs = as_user(network.lakeside_officer).get("/portal/charges.csv", {"hospital": "northfield"})
    assert theirs.status_code == 422


@pytest.mark.parametrize("path", ["/portal/", "/portal/ledger", "/portal/requests", "/portal/grants", "/portal/blocks"])
def test_where_epsilon_stands_its_unit_and_bound_are_said(network: Network, as_user: SignIn, path: str) -> None:
    html = as_user(network.officer).get(path).content.decode()
    assert COST_MEANING in html and "The unit is a patient" in html


def test_a_long_export_comes_in_batches(network: Network) -> None:
    total = Event.objects.count()
    batches = list(selectors.events_after(network.principal, EventFilter(), upto=2**40, batch=4))
    assert len(batches) == -(-total // 4)
    assert [row.seq for batch in batches for row in batch] == sorted(Event.objects.values_list("seq", flat=True))


def test_the_export_streams_under_asgi(network: Network) -> None:
    client = AsyncClient()
    client.force_login(network.officer)

    async def read() -> list[bytes]:
        response: Any = await client.get("/portal/events.csv")
        assert response.is_async
        return [chunk async for chunk in response]

    chunks = async_to_sync(read)()
    assert len(chunks) == 2
    assert chunks[0].decode().strip() == ",".join(export.COLUMNS)


def test_a_subject_leads_to_its_course(network: Network, as_user: SignIn) -> None:
    row = Inference.objects.filter(state="done").first()
    assert row is not None
    found = as_user(network.auditor).get("/portal/events", {"subject": str(row.pk), "sort": "seq"}).context["page"]
    assert [event.kind for event in found] == ["policy.decision", "request.submit", "request.finish"]
    nobody = as_user(network.auditor).get("/portal/events", {"subject": str(uuid.uuid4())})
    assert "No event fits" in nobody.content.decode()


def test_pages_keep_the_strict_content_policy(network: Network, as_user: SignIn) -> None:
    client = as_user(network.officer)
    for path in ("/portal/", "/portal/ledger", "/portal/requests", "/portal/events", "/portal/reports"):
        page = client.get(path)
        text = page.content.decode()
        assert "unsafe-inline" not in page.headers["Content-Security-Policy"]
        assert " style=" not in text
        assert "<style" not in text
        assert " onclick=" not in text
        assert text.count("<script") == text.count("<script src=") + text.count('type="application/json"')
    assert timezone.localdate().isoformat() in client.get("/portal/ledger").content.decode()
