"""People, access reviews, the patient report and disclosures in Chromium: a phone's width, dark mode, by keyboard."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connection, connections
from django.test import Client
from django.utils import timezone
from playwright.sync_api import Page, expect, sync_playwright

from accounts import principals
from accounts.models import Membership, User
from compliance.people import reviews
from compliance.people.models import AccessReview
from federation.models import Inference
from tests.accounts import people
from tests.compliance import network as networks
from tests.compliance.network import Network

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def review(monkeypatch: pytest.MonkeyPatch, quick_passwords: None) -> AccessReview:
    """With people of all standings, a patient who was asked about, and a review half done."""
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # playwright runs an event loop in this thread
    made: Network = networks.busy()
    old = timezone.now() - timedelta(days=200)
    User.objects.filter(pk=made.operator.pk).update(date_joined=old)
    Membership.objects.filter(user=made.operator).update(since=old)
    principals.issue_token(Membership.objects.get(user=made.clinician), "ward list")
    people.in_care("north-0001")
    for purpose in ("TREAT", "HQUALIMP", "HRESCH"):
        row = networks.ask(made.clinician, kind="chart")
        Inference.objects.filter(pk=row.pk).update(patient_reference="north-0001", purpose=purpose)
    due = timezone.localdate() + timedelta(days=7)
    found = reviews.start(made.principal, hospital="", due=due)
    line = found.lines.get(person=made.neighbour)
    reviews.decide(made.principal, found.pk, line.pk, "revoked", "Left the emergency department in March.")
    return found


@pytest.fixture
def page(request: pytest.FixtureRequest, review: AccessReview, live_server: Any) -> Iterator[Page]:
    """The network officer's page; the fixture's parameter holds settings of the browser's context."""
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("there is no Chromium")
    client = Client()
    client.force_login(review.started_by)
    cookie = client.cookies[settings.SESSION_COOKIE_NAME].value
    faults: list[str] = []
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        context = browser.new_context(
            **{
                "viewport": {"width": 1280, "height": 1000},
                "base_url": live_server.url,
                **getattr(request, "param", {}),
            }
        )
        context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": cookie, "url": live_server.url}])
        opened = context.new_page()
        opened.set_default_timeout(10_000)
        opened.on("pageerror", lambda error: faults.append(str(error)))
        opened.on("console", lambda said: faults.append(said.text) if "Content Security" in said.text else None)
        yield opened
        context.close()
        _wait_for_the_server()
        connections.close_all()  # beside playwright's event loop this thread has a connection of its own
        browser.close()
    assert faults == []


def _wait_for_the_server() -> None:
    """An answer under way holds a session of the database."""
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    for _ in range(50):
        with connection.cursor() as cursor:
            cursor.execute(others)
            if cursor.fetchone()[0] == 0:
                return
        time.sleep(0.1)


def _seen(page: Page, request: pytest.FixtureRequest, name: str) -> None:
    if folder := os.environ.get("FDROUTER_PICTURES"):
        page.screenshot(path=str(Path(folder) / f"{name}-{request.node.callspec.id}.png"), full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0, name


@pytest.mark.parametrize(
    "page",
    [{}, {"viewport": {"width": 360, "height": 740}}, {"color_scheme": "dark"}],
    indirect=True,
    ids=["wide", "phone", "dark"],
)
def test_nothing_runs_out_of_the_pages(page: Page, review: AccessReview, request: pytest.FixtureRequest) -> None:
    clinician = User.objects.get(username="clinician")
    paths = {
        "people": "/portal/people",
        "person": f"/portal/people/{clinician.pk}",
        "reviews": "/portal/access-reviews",
        "review": f"/portal/access-reviews/{review.pk}",
        "disclosures": "/portal/disclosures?sort=kind",
    }
    page.request.get("/portal/people.csv")
    for name, path in paths.items():
        page.goto(path)
        _seen(page, request, name)
    page.goto("/portal/patient")
    page.locator("#id_hospital").select_option("northfield")
    page.fill("#id_reference", "north-0001")
    page.locator("#id_reference").press("Enter")
    expect(page.get_by_role("heading", name="Accesses to north-0001")).to_be_visible()
    assert "north-0001" not in page.url
    page.locator("details.more summary").first.press("Enter")
    expect(page.get_by_text("request.submit").first).to_be_visible()
    _seen(page, request, "patient")


def test_a_post_is_revoked_by_keyboard(page: Page, review: AccessReview) -> None:
    page.goto(f"/portal/access-reviews/{review.pk}")
    reason = page.get_by_label("Reason about operator")
    reason.fill("Nobody knows this account.")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_text("operator: revoked.")).to_be_visible()
    assert not Membership.objects.get(user__username="operator").active
