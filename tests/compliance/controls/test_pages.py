"""The controls' pages: who sees them, what they show, filters, files, exceptions by form."""

from __future__ import annotations

import csv
import io
import json
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from compliance.controls import exceptions
from compliance.controls.library import libraries
from compliance.controls.models import ControlException
from compliance.models import Event
from tests.compliance.network import SECRET, Network, SignIn

PAGES = ("/portal/controls", "/portal/controls.csv", "/portal/controls.json", "/portal/controls/onc-d2-events")
FORM = {"reason": "The provider is being chosen; decided in spring.", "owner": "Dana Kim"}


def form(days: int = 30) -> dict[str, str]:
    return {**FORM, "expires_on": f"{timezone.localdate() + timedelta(days=days)}"}


@pytest.mark.parametrize("path", PAGES)
def test_officers_and_auditors_read_and_everybody_else_finds_nothing(
    path: str, network: Network, as_user: SignIn
) -> None:
    for user in (network.officer, network.auditor, network.lakeside_officer):
        page = as_user(user).get(path)
        assert page.status_code == 200 and SECRET not in page.content
    for user in (network.clinician, network.operator, network.outsider):
        assert as_user(user).get(path).status_code == 404
    assert Client().get(path).status_code == 302


@pytest.mark.parametrize("control", [c.id for library in libraries() for c in library.controls])
def test_every_control_opens_to_its_rows(control: str, network: Network, as_user: SignIn) -> None:
    page = as_user(network.officer).get(f"/portal/controls/{control}")
    assert page.status_code == 200
    evidence, shown = page.context["evidence"], page.context["page"]
    assert evidence.sentence in page.content.decode().replace("&#x27;", "'").replace("&quot;", '"')
    assert (shown is None) == (evidence.table is None)


def test_an_unknown_control_is_not_there(network: Network, as_user: SignIn) -> None:
    client = as_user(network.officer)
    assert client.get("/portal/controls/no-such-control").status_code == 404
    assert client.post("/portal/controls/no-such-control/exception", form()).status_code == 404


def test_filters_narrow_and_counts_say_what_the_others_would_show(network: Network, as_user: SignIn) -> None:
    client = as_user(network.officer)
    everything = client.get("/portal/controls").context
    assert everything["total"] == sum(len(library.controls) for library in libraries())
    red = client.get("/portal/controls", {"status": "not_met", "regulation": "hipaa", "owner": "administrator"})
    rows = [row for _, found, _ in red.context["groups"] for row in found]
    assert rows
    assert {(r.status, r.library.regulation, r.control.owner) for r in rows} == {("not_met", "hipaa", "administrator")}
    assert sum(number for _, _, number in red.context["tally"]) == red.context["total"] > len(rows)
    wrong = client.get("/portal/controls", {"status": "splendid"})
    assert wrong.status_code == 422 and b"Nothing is shown" in wrong.content


def test_a_figure_leads_to_its_events(network: Network, as_user: SignIn) -> None:
    client = as_user(network.officer)
    page = client.get("/portal/controls/onc-d2-events")
    counts = [count for count in page.context["evidence"].counts if count.events]
    assert counts
    for count in counts:
        events = client.get("/portal/events", dict(count.events))
        assert events.status_code == 200
        assert events.context["page"].paginator.count == count.value


def test_the_files_hold_the_filtered_rows_and_are_events(network: Network, as_user: SignIn) -> None:
    client, asked = as_user(network.auditor), {"regulation": "gdpr"}
    lines = list(csv.DictReader(io.StringIO(client.get("/portal/controls.csv", asked).content.decode())))
    document = json.loads(client.get("/portal/controls.json", asked).content)
    gdpr = next(library for library in libraries() if library.regulation == "gdpr")
    assert [line["id"] for line in lines] == [row["id"] for row in document["controls"]]
    assert [line["id"] for line in lines] == [control.id for control in gdpr.controls]
    assert all(row["sentence"] and row["checked_at"] for row in document["controls"])
    made = Event.objects.filter(kind="controls.export").order_by("seq")
    assert [(event.actor_id, event.details["format"], event.details["rows"]) for event in made] == [
        (network.auditor.pk, "csv", len(lines)),
        (network.auditor.pk, "json", len(lines)),
    ]
    assert client.get("/portal/controls.csv", {"status": "splendid"}).status_code == 422


def test_pages_keep_the_strict_content_policy(network: Network, as_user: SignIn) -> None:
    for path in ("/portal/controls", "/portal/controls/onc-d13"):
        text = as_user(network.officer).get(path).content.decode()
        assert " style=" not in text and "<style" not in text and " onclick=" not in text


# --- exceptions ---------------------------------------------------------------------------------------------------
def row(client: Client, control: str = "onc-d13") -> Any:
    return client.get(f"/portal/controls/{control}").context["row"]


def test_an_exception_excuses_until_its_day_and_then_it_is_red_again(network: Network, as_user: SignIn) -> None:
    client = as_user(network.officer)
    assert row(client).status == "not_met"
    assert client.post("/portal/controls/onc-d13/exception", form()).status_code == 302
    assert (row(client).status, row(client).evidence.status) == ("excepted", "not_met")
    # its day passes; nobody marks anything
    ControlException.objects.update(expires_on=timezone.localdate() - timedelta(days=1))
    assert row(client).status == "not_met"
    assert exceptions.end_expired() == 1 and exceptions.end_expired() == 0
    assert ControlException.objects.get().state == "expired"
    kinds = Event.objects.filter(kind="control.exception").order_by("seq")
    assert [event.outcome for event in kinds] == ["made", "expired"]
    assert client.post("/portal/controls/onc-d13/exception", form()).status_code == 302
    assert row(client).status == "excepted"


def test_an_exception_makes_nothing_met(network: Network, as_user: SignIn) -> None:
    client = as_user(network.officer)
    assert row(client, "onc-d3").status == "met"
    client.post("/portal/controls/onc-d3/exception", form())
    assert row(client, "onc-d3").status == "met"


def test_an_exception_is_withdrawn_once(network: Network, as_user: SignIn) -> None:
    client = as_user(network.officer)
    client.post("/portal/controls/onc-d13/exception", form())
    made = ControlException.objects.get()
    for _ in range(2):
        assert client.post("/portal/controls/onc-d13/exception/end", {"exception": made.pk}).status_code == 302
    assert row(client).status == "not_met"
    assert Event.objects.filter(kind="control.exception", outcome="withdrawn").count() == 1
    assert client.post("/portal/controls/onc-d13/exception/end", {"exception": "x"}).status_code == 404


def test_there_is_one_at_a_time(network: Network, as_user: SignIn) -> None:
    client = as_user(network.officer)
    for _ in range(2):
        client.post("/portal/controls/onc-d13/exception", form())
    assert ControlException.objects.count() == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reason", "short"),
        ("owner", ""),
        ("expires_on", "2020-01-01"),
        ("expires_on", "2999-01-01"),
        ("expires_on", ""),
    ],
)
def test_a_bad_value_is_told_and_nothing_is_excused(field: str, value: str, network: Network, as_user: SignIn) -> None:
    page = as_user(network.officer).post("/portal/controls/onc-d13/exception", {**form(), field: value})
    assert page.status_code == 422 and page.context["form"].errors[field]
    assert not ControlException.objects.exists()


def test_only_officers_make_exceptions(network: Network, as_user: SignIn) -> None:
    assert as_user(network.auditor).post("/portal/controls/onc-d13/exception", form()).status_code == 403
    assert Event.objects.get(kind="control.exception").outcome == "denied"
    assert as_user(network.clinician).post("/portal/controls/onc-d13/exception", form()).status_code == 404
    assert not ControlException.objects.exists()
    assert b"Make the exception" not in as_user(network.auditor).get("/portal/controls/onc-d13").content


def test_a_hospitals_exception_is_its_own(network: Network, as_user: SignIn) -> None:
    theirs, ours = as_user(network.lakeside_officer), as_user(network.officer)
    theirs.post("/portal/controls/onc-d13/exception", form())
    made = ControlException.objects.get()
    assert made.hospital == "lakeside"
    assert (row(theirs).status, row(ours).status) == ("excepted", "not_met")
    ours.post("/portal/controls/onc-d9/exception", form())
    assert row(theirs, "onc-d9").status == "excepted"
    network_wide = ControlException.objects.get(hospital="")
    refused = theirs.post("/portal/controls/onc-d9/exception/end", {"exception": network_wide.pk})
    assert refused.status_code == 404
    assert b"Withdraw</button>" not in theirs.get("/portal/controls/onc-d9").content
