"""Who sees the portal, and how much of it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client

from accounts import principals
from accounts.models import Membership
from compliance import access, period, reports, selectors
from compliance.models import Event, Report
from compliance.period import Period
from compliance.selectors import EventFilter, RequestFilter
from fdrouter.errors import NotFound, PolicyDenied
from tests.compliance.network import PORTAL, SECRET, Network, SignIn

MONTH_FORM = {"kind": "monthly", "start": "2026-01-01", "hospital": ""}


def _month() -> Period:
    return period.month_to_date()


@pytest.mark.parametrize("path", PORTAL)
def test_officer_and_auditor_read_every_page(path: str, network: Network, as_user: SignIn) -> None:
    for user in (network.officer, network.auditor, network.lakeside_officer):
        assert as_user(user).get(path).status_code == 200


def _without_token(page: Any, path: str) -> str:
    """The page without what differs between any two requests: the form's token and the address to come back to."""
    return re.sub(r'name="csrfmiddlewaretoken" value="\w+"', "", page.content.decode()).replace(f'value="{path}"', "")


@pytest.mark.parametrize("path", PORTAL)
def test_everybody_else_finds_nothing(path: str, network: Network, as_user: SignIn) -> None:
    for user in (network.clinician, network.operator, network.outsider):
        client = as_user(user)
        page, nothing = client.get(path), client.get("/portal/no-such-page")
        assert page.status_code == nothing.status_code == 404
        assert _without_token(page, path) == _without_token(nothing, "/portal/no-such-page")
    assert as_user(network.clinician).post("/portal/reports", MONTH_FORM).status_code == 404
    assert not Report.objects.exists()


@pytest.mark.parametrize("path", PORTAL)
def test_signed_out_goes_to_the_sign_in_page(path: str, network: Network) -> None:
    page = Client().get(path)
    assert page.status_code == 302
    assert page.headers["Location"].startswith("/sign-in?next=")


def test_a_post_that_ended_ends_the_view(network: Network, as_user: SignIn) -> None:
    client = as_user(network.officer)
    Membership.objects.filter(user=network.officer).update(active=False)
    assert client.get("/portal/").status_code == 404


def test_selectors_refuse_people_without_the_portal(network: Network) -> None:
    clinician = principals.for_user(network.clinician.pk)
    for call in (
        lambda: selectors.requests(clinician, RequestFilter()),
        lambda: selectors.events(clinician, EventFilter()),
        lambda: selectors.reports(clinician),
        lambda: access.hospitals(clinician),
    ):
        with pytest.raises(NotFound):
            call()


def test_a_hospitals_officer_sees_that_hospital_only(network: Network, as_user: SignIn) -> None:
    client = as_user(network.lakeside_officer)
    today = client.get("/portal/").context
    assert {row.hospital for row in today["departments"]} == {"lakeside"}
    assert {block.hospital for block in today["blocks"]} == {"lakeside"}
    rows = client.get("/portal/requests").context["page"].object_list
    assert {(row.department.hospital_id, row.node_id) for row in rows} == {
        ("lakeside", "lakeside"),
        ("northfield", "lakeside"),
    }
    events = client.get("/portal/events").context["page"].object_list
    theirs = {network.neighbour.pk, network.lakeside_officer.pk}
    assert events
    assert all(row.hospital == "lakeside" or row.actor_id in theirs for row in events)


def test_another_hospital_looks_like_none(network: Network, as_user: SignIn) -> None:
    client = as_user(network.lakeside_officer)
    for path in ("/portal/ledger", "/portal/requests", "/portal/events"):
        theirs, nobodys = (client.get(path, {"hospital": code}) for code in ("northfield", "nowhere"))
        assert theirs.status_code == nobodys.status_code == 422
        assert len(theirs.context["form"].errors) == 1
    with pytest.raises(NotFound):
        reports.request(principals.for_user(network.lakeside_officer.pk), _month(), hospital="northfield")


def test_contents_never_leave(network: Network, as_user: SignIn) -> None:
    client = as_user(network.officer)
    for path in PORTAL:
        page = client.get(path)
        body = b"".join(page) if page.streaming else page.content
        assert SECRET not in body
    row = selectors.requests(network.principal, RequestFilter()).first()
    assert row is not None
    assert {"request", "answer"} <= row.get_deferred_fields()


def test_an_auditor_cannot_request_a_report(network: Network, as_user: SignIn) -> None:
    client = as_user(network.auditor)
    assert client.post("/portal/reports", MONTH_FORM).status_code == 403
    assert not Report.objects.exists()
    assert Event.objects.get(kind="report.request").outcome == "denied"
    with pytest.raises(PolicyDenied):
        reports.request(principals.for_user(network.auditor.pk), _month())
    assert b"Request report" not in client.get("/portal/reports").content
