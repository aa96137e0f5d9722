"""Search parameters, pages and what the database does for them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from fhir.resources.R4B.bundle import Bundle

from compliance.fhir import search
from compliance.models import Event
from fdrouter.errors import InvalidParameter
from tests.compliance.fhir import balp, calls
from tests.compliance.network import Network

pytestmark = pytest.mark.django_db


@pytest.fixture
def token(network: Network) -> str:
    return calls.token(network.officer)


def walk(token: str, **parameters: Any) -> list[dict[str, Any]]:
    """All pages, by the address of the next one alone."""
    found: list[dict[str, Any]] = []
    body = calls.found("AuditEvent", token, **parameters)
    while True:
        Bundle.model_validate(body)
        found += [entry["resource"] for entry in body.get("entry", [])]
        links = {link["relation"]: link["url"] for link in body["link"]}
        if "next" not in links:
            return found
        body = calls.found("AuditEvent", token, **dict(parse_qsl(urlsplit(links["next"]).query)))


def test_pages_hold_every_event_once_in_order(network: Network, token: str) -> None:
    before = list(Event.objects.order_by("-at", "-seq").values_list("seq", flat=True))
    for order, expected in (("-date", before), ("date", before[::-1])):
        found = [int(event["id"]) for event in walk(token, _sort=order, _count=3, date=f"lt{_now()}")]
        assert found[: len(expected)] == expected or set(found) >= set(expected)
        assert len(found) == len(set(found))
        keys = [(event["recorded"], int(event["id"])) for event in walk(token, _sort=order, _count=3)]
        assert keys == sorted(keys, reverse=order == "-date")


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def test_rows_that_arrive_meanwhile_move_no_page(network: Network, token: str) -> None:
    """Each search is an event itself: newest first, pages by number would shift with every page."""
    seqs = [int(event["id"]) for event in walk(token, _count=2)]
    assert len(seqs) == len(set(seqs))
    assert set(seqs) >= set(Event.objects.exclude(kind="fhir.search").values_list("seq", flat=True))


def test_the_total_is_of_all_pages_and_can_be_left_out(network: Network, token: str) -> None:
    every = Event.objects.count()
    body = calls.found("AuditEvent", token, _count=2)
    assert (body["total"], len(body["entry"])) == (every, 2)
    assert "total" not in calls.found("AuditEvent", token, _total="none")
    counted = calls.found("AuditEvent", token, _count=0)
    assert counted["total"] == every + 2
    assert "entry" not in counted


def test_a_page_is_never_larger_than_the_limit(network: Network, token: str) -> None:
    assert len(calls.events(token, _count=10**6)) <= search.MAX_COUNT


def test_filters_find_what_they_say(network: Network, token: str) -> None:
    key = Event.objects.filter(kind="request.submit").earliest("seq").subject
    by_entity = calls.events(token, entity=f"urn:uuid:{key}")
    assert {event["entity"][-1]["what"]["identifier"]["value"] for event in by_entity} == {f"urn:uuid:{key}"}
    assert len(by_entity) == Event.objects.filter(subject=key).count() > 1
    assert len(calls.events(token, **{"entity:identifier": f"urn:ietf:rfc:3986|urn:uuid:{key}"})) == len(by_entity)
    for parameters in ({"agent": network.clinician.pk}, {"agent-name": "clinician"}):
        people = calls.events(token, _count=200, **parameters)
        assert len(people) == Event.objects.filter(actor_id=network.clinician.pk).count() > 1
        assert {balp.agents(event, balp.USER)[0]["name"] for event in people} == {"clinician"}
    alerts = calls.events(token, type="110113", _count=200)
    assert {balp.kind_of(event) for event in alerts} == {"policy.decision"}
    assert calls.events(token, type=f"{balp.DCM}|110113")
    assert not calls.events(token, type="http://loinc.org|110113")
    assert {balp.kind_of(e) for e in calls.events(token, subtype="110122,AuthZ-Role")} == {
        "session.sign_in",
        "policy.decision",
    }
    failed = calls.events(token, outcome="4", _count=200)
    assert failed
    assert {event["outcome"] for event in failed} == {"4"}
    assert {event["source"]["site"] for event in calls.events(token, site="lakeside")} == {"lakeside"}
    assert [event["id"] for event in calls.events(token, _id=by_entity[0]["id"])] == [by_entity[0]["id"]]


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2026", "2026-01-01T00:00:00", "2027-01-01T00:00:00"),
        ("2026-12", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
        ("2026-02", "2026-02-01T00:00:00", "2026-03-01T00:00:00"),
        ("2026-02-28", "2026-02-28T00:00:00", "2026-03-01T00:00:00"),
        ("2026-02-28T10:30Z", "2026-02-28T10:30:00", "2026-02-28T10:31:00"),
        ("2026-02-28T10:30:15+02:00", "2026-02-28T08:30:15", "2026-02-28T08:30:16"),
        ("2026-02-28T10:30:15.25Z", "2026-02-28T10:30:15.250000", "2026-02-28T10:30:15.260000"),
    ],
)
def test_a_date_is_as_wide_as_it_says(text: str, start: str, end: str) -> None:
    _, first, after = search.moments(text)
    assert (first, after) == tuple(datetime.fromisoformat(moment).replace(tzinfo=UTC) for moment in (start, end))


def test_date_prefixes(network: Network, token: str) -> None:
    event = Event.objects.earliest("seq")
    day = event.at.astimezone(UTC).date()
    every = Event.objects.count()
    counts = {
        prefix: calls.found("AuditEvent", token, _count=0, date=f"{prefix}{day}")["total"]
        for prefix in ("", "eq", "ge", "le", "gt", "lt")
    }
    assert counts[""] >= every
    assert min(counts["eq"], counts["ge"], counts["le"]) >= every
    assert counts["gt"] == counts["lt"] == 0
    tomorrow = day + timedelta(days=1)
    response = calls.get(f"AuditEvent?date=ge{day}&date=lt{tomorrow}&_count=0", token)
    assert response.json()["total"] >= every
    assert calls.get(f"AuditEvent?date=ge{day}&date=lt{day}&_count=0", token).json()["total"] == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("patient", "x"),
        ("date", "yesterday"),
        ("date", "2026-13"),
        ("date", "2026-02-30"),
        ("date", "9999"),
        ("date", "ge2026,lt2027"),
        ("agent", "ada"),
        ("agent", "9" * 19),
        ("entity", "nobody"),
        ("_id", "-1"),
        ("_sort", "type"),
        ("_count", "ten"),
        ("_total", "estimate"),
        ("_after", "1"),
        ("_after", "9" * 19 + "-1"),
        ("_format", "xml"),
        ("outcome", ""),
        ("type", "a,,b"),
        ("site", "a\0b"),
        ("date:missing", "true"),
    ],
)
def test_what_is_not_understood_is_refused(name: str, value: str, network: Network, token: str) -> None:
    response = calls.get("AuditEvent", token, **{name: value})
    assert response.status_code == 400, response.content
    issue = response.json()["issue"][0]
    assert (issue["code"], issue["diagnostics"]) == ("invalid", f"parameter: {name}")
    assert not Event.objects.filter(kind="fhir.search").exists()


def test_the_field_is_named_as_it_was_spelled() -> None:
    with pytest.raises(InvalidParameter) as refused:
        search.parse({"entity:identifier": ["x"]})
    assert refused.value.details["field"] == "entity:identifier"
