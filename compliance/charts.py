"""Charts: plain data for the pages' Chart.js, and SVG for the printed report. Same series for both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from compliance.blocks import Block
from compliance.budgets import DepartmentSpend, HospitalSpend
from compliance.selectors import KindCount
from compliance.series import PurposeCount
from privacy.quotas import MICRO

OUTCOMES = (("done", "Answered"), ("failed", "Failed"), ("cancelled", "Stopped"), ("open", "Under way"))
"""Fields of a KindCount in the words of the pages."""

COLOURS = ("#0b6a72", "#d08a1d", "#6b5ca5", "#8aa3ab", "#b4503f", "#3f7fbf")
WIDTH, LABEL, GAP, BAR = 640, 176, 9, 15
COLUMN_HEIGHT = 150


@dataclass(frozen=True, slots=True)
class Series:
    """One colour of a chart: a value for every label, in the chart's unit."""

    name: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """Bars over labels. ``stacked`` adds the series up, otherwise they stand side by side.

    ``top`` is where the axis ends; ``None``: where the values do.
    """

    title: str
    unit: str
    labels: tuple[str, ...]
    series: tuple[Series, ...]
    stacked: bool = True
    horizontal: bool = True
    top: float | None = None

    def data(self) -> dict[str, Any]:
        """What ``static/compliance/portal.js`` draws."""
        return {
            "title": self.title,
            "unit": self.unit,
            "labels": list(self.labels),
            "series": [{"name": s.name, "values": list(s.values)} for s in self.series],
            "stacked": self.stacked,
            "horizontal": self.horizontal,
            "top": self.top,
        }

    @property
    def is_empty(self) -> bool:
        return not any(value for s in self.series for value in s.values)


def _epsilon(micro: int) -> float:
    return micro / MICRO


def by_department(rows: Sequence[DepartmentSpend], *, one_hospital: bool) -> Chart:
    """Epsilon spent over the period by each department that spent any."""
    rows = [row for row in rows if row.spent > 0]
    labels = tuple(row.name if one_hospital else f"{row.name}, {row.hospital_name.split()[0]}" for row in rows)
    spent = Series("Spent", tuple(_epsilon(row.spent) for row in rows))
    return Chart("Spent by department", "epsilon", labels, (spent,))


def by_hospital(rows: Sequence[HospitalSpend]) -> Chart:
    """Both sides of the coin: what a hospital's people spent, and what its own patients' block was charged."""
    labels = tuple(row.name for row in rows)
    asked = Series("Spent by its departments", tuple(_epsilon(row.spent) for row in rows))
    charged = Series("Charged to its patients' block", tuple(_epsilon(row.receipts_epsilon) for row in rows))
    return Chart("Spent by hospital", "epsilon", labels, (asked, charged), stacked=False)


def of_blocks(rows: Sequence[Block]) -> Chart:
    """What is left of each block, in the units that add up."""
    labels = tuple(row.title for row in rows)
    left = Series("Left", tuple(100 * row.left_share for row in rows))
    return Chart("Left of the dataset blocks", "per cent", labels, (left,), top=100.0)


def of_days(days: Sequence[date], series: dict[str, list[int]]) -> Chart:
    """Epsilon spent each day, by hospital."""
    labels = tuple(f"{day.day} {day:%b}" for day in days)
    found = tuple(Series(name, tuple(_epsilon(v) for v in values)) for name, values in series.items())
    return Chart("Spent by day", "epsilon", labels, found, horizontal=False)


def of_requests(rows: Sequence[KindCount]) -> Chart:
    """Requests by kind, divided by outcome."""
    labels = tuple(row.label for row in rows)
    series = tuple(Series(word, tuple(float(getattr(row, field)) for row in rows)) for field, word in OUTCOMES)
    return Chart("Requests by kind and outcome", "requests", labels, series)


def of_purposes(rows: Sequence[PurposeCount]) -> Chart:
    """Requests by purpose of use."""
    rows = [row for row in rows if row.count]
    counts = Series("Requests", tuple(float(row.count) for row in rows))
    return Chart("Requests by purpose of use", "requests", tuple(row.label for row in rows), (counts,))


# --- SVG ----------------------------------------------------------------------------------------------------------
def figure(value: float) -> str:
    """At most two decimals, none where they are zero."""
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def text(x: float, y: float, said: str, *, anchor: str = "start", bold: bool = False, size: int = 11) -> str:
    """Words at a place, escaped."""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="#33474e"{weight}>'
        f"{escape(said)}</text>"
    )


def box(x: float, y: float, width: float, height: float, colour: str) -> str:
    """A filled rectangle."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{height:.1f}" fill="{colour}" rx="1.5"/>'


def scale(top: float) -> tuple[float, float]:
    """A round step and the first multiple of it that covers ``top``."""
    if top <= 0:
        return 1.0, 1.0
    size = 10.0 ** math.floor(math.log10(top / 4))
    step = next(size * n for n in (1, 2, 5, 10) if size * n >= top / 4)
    return step, step * math.ceil(top / step - 1e-9)


def _legend(chart: Chart) -> tuple[str, float]:
    if len(chart.series) < 2:
        return "", 0.0
    parts, x = [], 0.0
    for nth, series in enumerate(chart.series):
        parts += [box(x, 2, 10, 10, COLOURS[nth % len(COLOURS)]), text(x + 15, 11, series.name)]
        x += 15 + 6.2 * len(series.name) + 22
    return "".join(parts), 26.0


def svg(chart: Chart) -> str:
    """The chart as a self-contained SVG of fixed width, readable without colour through its figures."""
    legend, top = _legend(chart)
    body, height = (_rows if chart.horizontal else _columns)(chart, top)
    return framed(chart.title, legend + body, height)


def framed(title: str, body: str, height: float) -> str:
    """A whole SVG of the report's width around what is drawn."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}"'
        f' height="{height:.0f}" role="img" aria-label={quoteattr(title)} font-family="Inter Variable, Inter,'
        f' DejaVu Sans, sans-serif"><title>{escape(title)}</title>{body}</svg>'
    )


def _rows(chart: Chart, top: float) -> tuple[str, float]:
    lanes = 1 if chart.stacked else len(chart.series)
    totals = [
        sum(values) if chart.stacked else max(values, default=0.0)
        for values in zip(*(s.values for s in chart.series), strict=True)
    ]
    limit = chart.top or scale(max(totals, default=0.0))[1]
    room = WIDTH - LABEL - 64
    parts, y = [], top
    for nth, label in enumerate(chart.labels):
        middle = y + lanes * BAR / 2 + 4
        parts.append(text(LABEL - 10, middle, label, anchor="end"))
        x = float(LABEL)
        for lane, series in enumerate(chart.series):
            width = series.values[nth] / limit * room
            at = y if chart.stacked else y + lane * BAR
            parts.append(box(x, at, width, BAR - 2, COLOURS[lane % len(COLOURS)]))
            if chart.stacked:
                x += width
            else:
                parts.append(text(LABEL + width + 6, at + BAR - 4, figure(series.values[nth])))
        if chart.stacked:
            parts.append(text(x + 6, middle, figure(totals[nth]), bold=True))
        y += lanes * BAR + GAP
    parts.append(f'<line x1="{LABEL}" y1="{top - 3:.1f}" x2="{LABEL}" y2="{y - GAP + 2:.1f}" stroke="#b9c6ca"/>')
    return "".join(parts), y


def _columns(chart: Chart, top: float) -> tuple[str, float]:
    totals = [sum(values) for values in zip(*(s.values for s in chart.series), strict=True)]
    step, limit = scale(max(totals, default=0.0))
    left, floor = 44.0, top + 8 + COLUMN_HEIGHT
    pitch = (WIDTH - left) / max(len(chart.labels), 1)
    parts = []
    for nth in range(round(limit / step) + 1):
        y = floor - nth * step / limit * COLUMN_HEIGHT
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{WIDTH}" y2="{y:.1f}" stroke="#dbe4e6"/>')
        parts.append(text(left - 7, y + 4, figure(nth * step), anchor="end", size=10))
    every = max(1, math.ceil(len(chart.labels) / 10))
    for nth, label in enumerate(chart.labels):
        x, y = left + nth * pitch, floor
        for lane, series in enumerate(chart.series):
            height = series.values[nth] / limit * COLUMN_HEIGHT
            y -= height
            if height:
                parts.append(box(x + pitch * 0.14, y, pitch * 0.72, height, COLOURS[lane % len(COLOURS)]))
        if nth % every == 0:
            parts.append(text(x + pitch / 2, floor + 15, label, anchor="middle", size=10))
    return "".join(parts), floor + 22
