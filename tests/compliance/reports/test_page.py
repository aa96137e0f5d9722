"""The page of reports in Chromium: which fields a kind needs, by keyboard, at a phone's width, in dark mode."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connection, connections
from django.test import Client
from playwright.sync_api import Browser, Page, expect, sync_playwright

from compliance import period, reports
from compliance.models import Report
from compliance.schedules import services
from tests.compliance import network as networks
from tests.compliance.network import Network

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


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
    """With a finished, a failed and a waiting report, and a schedule."""
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")  # playwright runs an event loop in this thread
    made = networks.build()
    for nth, kind in enumerate(("monthly", "quarterly", "weekly")):
        report, _ = reports.request(made.principal, period.latest_complete(kind), kind=kind)
        if nth < 2:
            claimed = reports.claim(report.pk)
            assert claimed is not None
            if nth:
                reports.fail(claimed, "timed_out")
            else:
                reports.render(
                    claimed, lambda found, digest, files: b"%PDF-x", lambda pdf: reports.Signed(pdf, "office")
                )
    services.create(made.principal, kind="monthly", recipients=["audit@northfield.example"], hospital="lakeside")
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
    opened.goto(f"{live_server.url}/portal/reports")
    if folder := os.environ.get("FDROUTER_PICTURES"):
        opened.screenshot(path=str(Path(folder) / f"{request.node.name}.png"), full_page=True)
    yield opened
    context.close()
    _wait_for_the_server()
    connections.close_all()  # beside playwright's event loop this thread has a connection of its own
    assert faults == []


def _wait_for_the_server() -> None:
    """The page asks for its list every two seconds: an answer under way holds a session of the database."""
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    for _ in range(50):
        with connection.cursor() as cursor:
            cursor.execute(others)
            if cursor.fetchone()[0] == 0:
                return
        time.sleep(0.1)


def test_the_last_day_is_asked_for_a_free_range_only(page: Page) -> None:
    last = page.locator("#id_end")
    expect(last).to_be_hidden()
    page.locator("#id_kind").select_option("range")
    expect(last).to_be_visible()
    page.fill("#id_start", "2026-02-03")
    page.fill("#id_end", "2026-02-09")
    page.locator("#id_end").press("Enter")
    expect(page.locator("#reports")).to_contain_text("3 to 9 February 2026")
    assert Report.objects.filter(kind="range").count() == 1


def test_digests_open_by_keyboard(page: Page) -> None:
    summary = page.locator("#reports summary").first
    summary.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#reports")).to_contain_text("Document before its signature")
    expect(page.locator("#reports")).to_contain_text("Signed by")


@pytest.mark.parametrize(
    "page",
    [
        {"viewport": {"width": 360, "height": 740}},
        {"color_scheme": "dark"},
        {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"},
    ],
    indirect=True,
    ids=["phone", "dark", "dark-phone"],
)
def test_nothing_runs_out_of_the_page(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    for name in ("Request report", "Schedule", "Stop"):
        expect(page.get_by_role("button", name=name).first).to_be_visible()
