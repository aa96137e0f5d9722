"""Frozen facts to PDF: one template, one style sheet, bundled fonts, and no way out to the network or the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from django.contrib.staticfiles import finders
from django.template.loader import render_to_string
from django.utils.safestring import SafeString, mark_safe
from weasyprint import HTML, Attachment
from weasyprint.text.fonts import FontConfiguration
from weasyprint.urls import FatalURLFetchingError, URLFetcher, URLFetcherResponse

from compliance import charts
from compliance import facts as frozen
from compliance.blocks import Block
from compliance.budgets import DepartmentSpend, HospitalSpend
from compliance.findings import findings, words
from compliance.selectors import KindCount

ASSETS = {
    "asset:report.css": ("compliance/report.css", "text/css"),
    "asset:inter-latin.woff2": ("vendor/fonts/inter-latin-wght-normal.woff2", "font/woff2"),
    "asset:inter-latin-ext.woff2": ("vendor/fonts/inter-latin-ext-wght-normal.woff2", "font/woff2"),
}
CLOCK = "SOURCE_DATE_EPOCH"
OPTIONAL = ("font/woff2",)
"""Without its bundled font the report is set in a system font."""


class AddressRefused(Exception):
    """The document asked for something that is not bundled; nothing was rendered."""


class BundledOnly(URLFetcher):  # type: ignore[misc]
    """Serves the listed assets and ``data:`` URIs. Anything else ends the render."""

    def fetch(self, url: str, headers: dict[str, str] | None = None) -> URLFetcherResponse:
        """The asset.

        Raises:
            FatalURLFetchingError: the address is not on the list.
            ValueError: a bundled font is not there, and the next one in the style sheet is used.
        """
        if url.startswith("data:"):
            return super().fetch(url, headers)
        if url not in ASSETS:
            raise FatalURLFetchingError(f"refused: {url[:200]}")
        name, kind = ASSETS[url]
        path = finders.find(name)
        if not isinstance(path, str):
            raise (ValueError if kind in OPTIONAL else FatalURLFetchingError)(f"not bundled: {name}")
        return URLFetcherResponse(url, Path(path).read_bytes(), {"Content-Type": kind})


def render(facts: dict[str, Any], digest: str) -> bytes:
    """The report as PDF/A-3 with the facts attached as JSON.

    Raises:
        AddressRefused: the document refers to something that is not bundled.
    """
    return convert(render_to_string("compliance/report.html", context(facts, digest)), facts=facts, digest=digest)


def convert(html: str, *, facts: dict[str, Any], digest: str) -> bytes:
    """HTML to PDF under the fetcher that refuses; the same input gives the same bytes."""
    moment = datetime.fromisoformat(facts["generated_at"])
    attachment = Attachment(
        string=frozen.canonical(facts),
        name="facts.json",
        description="The figures of this report",
        relationship="Data",
        created=moment,
        modified=moment,
    )
    try:
        with _stopped_clock(moment):
            document = HTML(string=html, base_url="asset:", url_fetcher=BundledOnly())
            pdf: bytes = document.write_pdf(
                font_config=FontConfiguration(),
                attachments=[attachment],
                pdf_variant="pdf/a-3a",
                pdf_identifier=bytes.fromhex(digest)[:16],
            )
    except FatalURLFetchingError as error:
        raise AddressRefused(str(error)) from None
    return pdf


@contextmanager
def _stopped_clock(moment: datetime) -> Iterator[None]:
    """Lets font subsetting stamp ``moment`` instead of now, so that the same facts give the same bytes.

    The variable is the one of reproducible-builds.org, and the only way in that the library offers.
    """
    before = os.environ.get(CLOCK)
    os.environ[CLOCK] = str(int(moment.timestamp()))
    try:
        yield
    finally:
        if before is None:
            del os.environ[CLOCK]
        else:
            os.environ[CLOCK] = before


def _svg(chart: charts.Chart) -> SafeString | None:
    # Every text in it is escaped by compliance.charts.
    return None if chart.is_empty else mark_safe(charts.svg(chart))  # noqa: S308


def context(facts: dict[str, Any], digest: str) -> dict[str, Any]:
    """What the template says. Rows are rebuilt from the frozen facts alone."""
    departments = [DepartmentSpend(**row) for row in facts["departments"]]
    hospitals = [HospitalSpend(**row) for row in facts["hospitals"]]
    blocks = [Block(**row) for row in facts["blocks"]]
    kinds = [KindCount(**row) for row in facts["requests"]["kinds"]]
    zone = ZoneInfo(facts["period"]["time_zone"])
    generated = datetime.fromisoformat(facts["generated_at"]).astimezone(zone)
    found = findings(facts)
    return {
        "facts": facts,
        "digest": digest,
        "title": f"Privacy report, {datetime.fromisoformat(facts['period']['start']):%B %Y}",
        "start": words(facts["period"]["start"]),
        "end": words(facts["period"]["end"]),
        "generated": f"{generated.day} {generated:%B %Y, %H:%M} {facts['period']['time_zone']}",
        "attention": [finding for finding in found if finding.attention],
        "findings": [finding for finding in found if not finding.attention],
        "departments": departments,
        "departments_sum": sum(row.spent for row in departments),
        "hospitals": hospitals,
        "blocks": blocks,
        "kinds": kinds,
        "total": KindCount(**facts["requests"]["total"]),
        "reasons": facts["requests"]["reasons"],
        "evidence": facts["evidence"],
        "chart_departments": _svg(charts.by_department(departments, one_hospital=len(hospitals) == 1)),
        "chart_hospitals": _svg(charts.by_hospital(hospitals)),
        "chart_blocks": _svg(charts.of_blocks(blocks)),
        "chart_days": _svg(charts.of_days(frozen.days(facts), facts["daily"])),
        "chart_requests": _svg(charts.of_requests(kinds)),
    }
