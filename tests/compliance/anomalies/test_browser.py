"""The pages of findings and cases in Chromium: from findings to a decision by keyboard, narrow, in dark mode."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connections
from django.test import Client
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect, sync_playwright

from accounts import principals
from compliance.anomalies import cases, services
from compliance.anomalies.models import AnomalyCase
from tests.compliance import network as networks
from tests.compliance.anomalies.made import finding
from tests.compliance.network import Network

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
PHONE = {"viewport": {"width": 360, "height": 800}}
PATHS = ("/portal/anomalies", "/portal/anomalies/rules", "/portal/anomalies/watch", "/portal/cases", "/portal/")


@pytest.fixture
def browser() -> Iterator[Browser]:
    if (chromium := shutil.which("chromium")) is None:
        pytest.skip("there is no Chromium")
    with sync_playwright() as started:
        found = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    """With findings of several rules, a flagged patient, and a case that is overdue."""
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # playwright runs an event loop in this thread
    made = networks.build()
    services.watch(principals.for_user(made.officer.pk), hospital="lakeside", reference="lake-0012", kind="vip")
    finding(made.clinician, score=78)
    finding(made.clinician, rule="purpose", score=52, sentence="5 requests for unusual purposes (HRESCH).", days_ago=1)
    finding(made.neighbour, rule="vip", score=80, patient="lake-0012", sentence="Asked once about a flagged patient.")
    late = cases.open_by_hand(made.principal, note="A letter of the ombudsman.\n\nSee the file.", username="neighbour")
    AnomalyCase.objects.filter(pk=late.pk).update(
        state="assigned", assignee=made.officer, version=2, due_at=timezone.now() - timedelta(days=2)
    )
    return made


@pytest.fixture
def page(request: pytest.FixtureRequest, browser: Browser, network: Network, live_server: Any) -> Iterator[Page]:
    """The officer's page; the fixture's parameter holds settings of the browser's context."""
    client = Client()
    client.force_login(network.officer)
    cookie = client.cookies[settings.SESSION_COOKIE_NAME].value
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 1000}, **getattr(request, "param", {})})
    context.add_cookies([{"name": settings.SESSION_COOKIE_NAME, "value": cookie, "url": live_server.url}])
    opened = context.new_page()
    opened.set_default_timeout(10_000)
    faults: list[str] = []
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda said: faults.append(said.text) if "Content Security" in said.text else None)
    opened.goto(f"{live_server.url}/portal/anomalies")
    yield opened
    context.close()
    connections.close_all()  # beside playwright's event loop this thread has a connection of its own
    assert faults == []


def picture(page: Page, name: str) -> None:
    """Kept for people to look at, where a folder is named."""
    if folder := os.environ.get("FDROUTER_PICTURES"):
        page.screenshot(path=str(Path(folder) / f"anomalies-{name}.png"), full_page=True)


def test_from_findings_to_a_decision(page: Page) -> None:
    page.get_by_role("checkbox", name="serial-cases of clinician").focus()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Open a case").press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Case ")
    picture(page, "case-open")
    page.get_by_role("button", name="Assign").press("Enter")
    page.get_by_label("Decision").select_option("policy_reminder")
    page.get_by_label("Reasons").fill("She covered another ward that day; talked about it.")
    picture(page, "case-assigned")
    page.get_by_role("button", name="Decide").press("Enter")
    expect(page.get_by_text("Policy reminder, decided")).to_be_visible()
    page.get_by_role("button", name="Close the case").press("Enter")
    expect(page.get_by_role("button", name="Open it again")).to_be_visible()
    expect(page.locator(".case-steps li")).to_have_count(5)
    picture(page, "case-closed")


@pytest.mark.parametrize(
    ("page", "look"),
    [({}, "light"), ({"color_scheme": "dark"}, "dark"), (PHONE, "phone"), ({**PHONE, "color_scheme": "dark"}, "both")],
    indirect=["page"],
)
def test_no_page_is_wider_than_its_window(page: Page, look: str, live_server: Any) -> None:
    case = AnomalyCase.objects.get()
    for path in (*PATHS, f"/portal/cases/{case.pk}"):
        page.goto(f"{live_server.url}{path}")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        picture(page, f"{look}-{path.strip('/').replace('/', '-')[:24]}")
        assert wide <= 0, path
