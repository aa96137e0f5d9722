"""Frozen facts to PDF: one template, one style sheet, bundled fonts, and no way out to the network or the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime
from itertools import groupby
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from django.contrib.staticfiles import finders
from django.template.loader import render_to_string
from django.utils.safestring import SafeString, mark_safe
from weasyprint import HTML, Attachment
from weasyprint.text.fonts import FontConfiguration
from weasyprint.urls import FatalURLFetchingError, URLFetcher, URLFetcherResponse

from compliance import charts, drawings, period
from compliance import facts as frozen
from compliance.blocks import Block
from compliance.budgets import DepartmentSpend, HospitalSpend
from compliance.findings import findings, glance, words
from compliance.selectors import KindCount
from compliance.series import PurposeCount

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


def render(facts: dict[str, Any], digest: str, files: dict[str, bytes]) -> bytes:
    """The report as PDF/A-3a with the facts attached as JSON, and the files that the facts name.

    Raises:
        AddressRefused: the document refers to something that is not bundled.
    """
    facts = json.loads(frozen.canonical(facts))  # one order of keys: a JSON column has one of its own
    html = render_to_string("compliance/report.html", context(facts, digest))
    return convert(html, facts=facts, digest=digest, files=files)


def convert(html: str, *, facts: dict[str, Any], digest: str, files: dict[str, bytes] | None = None) -> bytes:
    """HTML to PDF under the fetcher that refuses; the same input gives the same bytes."""
    moment = datetime.fromisoformat(facts["generated_at"])
    told = {row["name"]: row["description"] for row in facts.get("attachments", ())}
    attached = [_attachment("facts.json", frozen.canonical(facts), "The figures of this report", "Data", moment)]
    for name, data in sorted((files or {}).items()):
        attached.append(_attachment(name, data, told.get(name, name), "Supplement", moment))
    try:
        with _stopped_clock(moment):
            document = HTML(string=html, base_url="asset:", url_fetcher=BundledOnly())
            pdf: bytes = document.write_pdf(
                font_config=FontConfiguration(),
                attachments=attached,
                pdf_variant="pdf/a-3a",
                pdf_identifier=bytes.fromhex(digest)[:16],
            )
    except FatalURLFetchingError as error:
        raise AddressRefused(str(error)) from None
    return pdf


def _attachment(name: str, data: bytes, description: str, relationship: str, moment: datetime) -> Attachment:
    return Attachment(
        string=data, name=name, description=description, relationship=relationship, created=moment, modified=moment
    )


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


def _drawn(svg: str, there: Any) -> SafeString | None:
    # Every text in it is escaped by compliance.charts.
    return mark_safe(svg) if there else None  # noqa: S308


def context(facts: dict[str, Any], digest: str) -> dict[str, Any]:
    """What the template says. Rows are rebuilt from the frozen facts alone, also from those of earlier versions."""
    start, end = (date.fromisoformat(facts["period"][key]) for key in ("start", "end"))
    zone = ZoneInfo(facts["period"]["time_zone"])
    generated = datetime.fromisoformat(facts["generated_at"]).astimezone(zone)
    found = findings(facts)
    return {
        "facts": facts,
        "digest": digest,
        "title": f"Privacy report, {facts['period'].get('name') or period.name(start, end, 'monthly')}",
        "start": words(facts["period"]["start"]),
        "end": words(facts["period"]["end"]),
        "generated": f"{generated.day} {generated:%B %Y, %H:%M} {facts['period']['time_zone']}",
        "glance": glance(facts),
        "attention": [finding for finding in found if finding.attention],
        "findings": [finding for finding in found if not finding.attention],
        "evidence": facts["evidence"],
        "log": facts.get("log", {}),
        "attachments": facts.get("attachments", []),
        **_privacy(facts, start, end, generated.date()),
        **_requests(facts),
        **_controls(facts.get("controls", [])),
    }


def _privacy(facts: dict[str, Any], start: date, end: date, taken: date) -> dict[str, Any]:
    departments = [DepartmentSpend(**row) for row in facts["departments"]]
    hospitals = [HospitalSpend(**row) for row in facts["hospitals"]]
    blocks = [Block(**row) for row in facts["blocks"]]
    lines, heat = facts.get("burn_down", []), facts.get("heat", {"columns": [], "rows": []})
    charged = {row.code: row.receipts_epsilon for row in hospitals}
    one = len(hospitals) == 1
    return {
        "departments": departments,
        "departments_sum": sum(row.spent for row in departments),
        "hospitals": hospitals,
        "blocks": blocks,
        "lifetimes": [(block, charged.get(block.hospital, 0)) for block in blocks],
        "chart_departments": _svg(charts.by_department(departments, one_hospital=one)),
        "chart_hospitals": _svg(charts.by_hospital(hospitals)),
        "chart_days": _svg(charts.of_days(frozen.days(facts), facts["daily"])),
        "chart_burn_down": _drawn(drawings.burn_down(lines, start, end, taken), lines),
        "chart_heat": _drawn(drawings.heat(heat["columns"], heat["rows"], one_hospital=one), heat["rows"]),
        "heat": heat if len(heat["columns"]) <= drawings.MOST_FIGURES else None,
    }


def _requests(facts: dict[str, Any]) -> dict[str, Any]:
    kinds = [KindCount(**row) for row in facts["requests"]["kinds"]]
    purposes = [PurposeCount(**row) for row in facts["requests"].get("purposes", ())]
    return {
        "kinds": kinds,
        "total": KindCount(**facts["requests"]["total"]),
        "purposes": purposes,
        "reasons": facts["requests"]["reasons"],
        "chart_requests": _svg(charts.of_requests(kinds)),
        "chart_purposes": _svg(charts.of_purposes(purposes)),
    }


def _controls(rows: list[dict[str, Any]]) -> dict[str, Any]:
    names = {row["status"]: row["status_name"] for row in rows}
    ordered = {status: names[status] for status in drawings.STATUS_COLOURS if status in names}
    regulations = [(name, list(group)) for name, group in groupby(rows, key=lambda row: row["regulation"])]
    return {"regulations": regulations, "chart_controls": _drawn(drawings.strip(rows, ordered), rows)}
