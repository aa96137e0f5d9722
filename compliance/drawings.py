"""Pictures of the printed report that are more than bars: blocks over their life, a heat map, the controls' strip.

All are plain SVG of the page's width; each stands beside a table that says the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from itertools import groupby
from typing import Any

from compliance.charts import WIDTH, box, figure, framed, text
from privacy.quotas import MICRO

LINE, SHADE, RULE, WARN = "#0b6a72", "#e4efef", "#dbe4e6", "#c07a12"
STEPS = ("#f1f5f5", "#cfe3e4", "#9cc7ca", "#5ea4a9", "#23777e", "#0a4a50")
"""Colours of the heat map: nothing, then five equal steps up to the largest value."""
LOW = 20.0
"""Per cent left at which a block needs a decision; the findings use the same line."""
STATUS_COLOURS = {
    "met": "#2f8f5b",
    "partial": "#d9a441",
    "not_met": "#b4503f",
    "excepted": "#6b5ca5",
    "not_applicable": "#c3ced1",
}
STATUS_MARKS = {"met": "", "partial": "/", "not_met": "x", "excepted": "e", "not_applicable": "-"}
"""So that the strip can be read without colours."""


# --- burn-down ------------------------------------------------------------------------------------------------------
_LEFT, _RIGHT, _HEIGHT, _FOOT = 40.0, WIDTH - 92.0, 96.0, 46.0


def burn_down(lines: Sequence[dict[str, Any]], start: date, end: date, taken: date) -> str:
    """Per cent left of each block from its first charge on; the report's period shaded, the forecast dashed."""
    parts, y = [], 0.0
    for line in lines:
        parts.append(_block(line, start, end, taken, y))
        y += _HEIGHT + _FOOT + 22
    return framed("Left of each dataset block over its life", "".join(parts), y)


def _block(line: dict[str, Any], start: date, end: date, taken: date, top: float) -> str:
    points = [(date.fromisoformat(day), 100 * share) for day, share in line["points"]]
    first, roof = points[0][0], top + 20
    forecast = date.fromisoformat(line["forecast"]) if line["forecast"] else None
    ahead = max(timedelta(days=7), (taken - first) // 2)
    edge = min(forecast, taken + 2 * ahead) if forecast else taken + ahead
    span = max((edge - first).days, 1)

    def x(day: date) -> float:
        return _LEFT + min(max((day - first).days / span, 0.0), 1.0) * (_RIGHT - _LEFT)

    def y(percent: float) -> float:
        return roof + (1 - percent / 100) * _HEIGHT

    parts = [text(0, top + 11, line["title"], bold=True)]
    parts.append(box(x(start), roof, max(x(end + timedelta(days=1)) - x(start), 2), _HEIGHT, SHADE))
    for percent in (0, 50, 100):
        parts.append(_stroke((_LEFT, y(percent)), (_RIGHT, y(percent)), RULE))
        parts.append(text(_LEFT - 7, y(percent) + 3.5, f"{percent}%", anchor="end", size=9))
    parts.append(_stroke((_LEFT, y(LOW)), (_RIGHT, y(LOW)), WARN, dashes="2 3"))
    path = " ".join(f"{x(day):.1f},{y(left):.1f}" for day, left in points)
    parts.append(f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="2" stroke-linejoin="round"/>')
    day, left = points[-1]
    parts.append(f'<circle cx="{x(day):.1f}" cy="{y(left):.1f}" r="3" fill="{LINE}"/>')
    if forecast:
        fallen = left * (1 - min(1.0, (edge - day).days / max((forecast - day).days, 1)))
        parts.append(_stroke((x(day), y(left)), (x(edge), y(fallen)), LINE, width=1.4, dashes="5 4"))
    parts.append(text(_RIGHT + 8, y(left) + 3.5, f"{figure(round(left, 1))}% left", bold=True))
    parts.append(text(_RIGHT + 8, y(LOW) + 3.5 + _aside(left), "decide", size=9))
    floor = roof + _HEIGHT + 14
    parts.append(text(_LEFT, floor, _day(first), size=9))
    parts.append(text(_RIGHT, floor, _day(edge), anchor="end", size=9))
    if x(taken) - _LEFT > 80 and _RIGHT - x(taken) > 80:
        parts.append(text(x(taken), floor, f"taken {_day(taken)}", anchor="middle", size=9))
    told = f"Lifetime: epsilon {figure(line['composed'])} of {figure(line['epsilon'])} composed so far."
    told += f" Used up about {_day(forecast)} at the present pace." if forecast else " No forecast."
    parts.append(text(_LEFT, floor + 14, told, size=10))
    return "".join(parts)


def _aside(left: float) -> float:
    """How far the line's label moves off the label of what is left."""
    return 0.0 if abs(left - LOW) > 14 else 12.0 if left > LOW else -12.0


def _day(day: date) -> str:
    return f"{day.day} {day:%b %Y}"


def _stroke(
    start: tuple[float, float], end: tuple[float, float], colour: str, *, width: float = 1.0, dashes: str = ""
) -> str:
    dash = f' stroke-dasharray="{dashes}"' if dashes else ""
    return (
        f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"'
        f' stroke="{colour}" stroke-width="{width}"{dash}/>'
    )


# --- heat map -------------------------------------------------------------------------------------------------------
_NAMES, _CELL = 210.0, 19.0
MOST_FIGURES = 10
"""With more columns the cells are too narrow for figures."""


def heat(columns: Sequence[Sequence[str]], rows: Sequence[dict[str, Any]], *, one_hospital: bool) -> str:
    """Epsilon of each department in each day or week, darker for more."""
    most = max((value for row in rows for value in row["values"]), default=0)
    pitch = min((WIDTH - _NAMES) / max(len(columns), 1), 64.0)
    every = max(1, round(46 / pitch))
    parts = []
    for nth, (first, _) in enumerate(columns):
        if nth % every == 0:
            day = date.fromisoformat(first)
            parts.append(text(_NAMES + nth * pitch, 10, f"{day.day} {day:%b}", size=9))
    y = 17.0
    for row in rows:
        name = row["department"] if one_hospital else f"{row['department']}, {row['hospital'].split()[0]}"
        parts.append(text(_NAMES - 10, y + 13, name, anchor="end", size=10))
        for nth, value in enumerate(row["values"]):
            step = _step(value, most)
            parts.append(box(_NAMES + nth * pitch, y, pitch - 2, _CELL - 2, STEPS[step]))
            if value > 0 and len(columns) <= MOST_FIGURES:
                parts.append(_inked(_NAMES + nth * pitch + pitch / 2 - 1, y + 12.5, figure(value / MICRO), step))
        y += _CELL
    parts.append(_scale_of(most, y + 8))
    return framed("Epsilon by department and time", "".join(parts), y + 26)


def _step(value: int, most: int) -> int:
    return 0 if value <= 0 or most <= 0 else min(5, 1 + value * 5 // (most + 1))


def _inked(x: float, y: float, said: str, step: int) -> str:
    drawn = text(x, y, said, anchor="middle", size=9)
    return drawn.replace("#33474e", "#ffffff") if step >= 4 else drawn


def _scale_of(most: int, y: float) -> str:
    parts = [text(_NAMES - 10, y + 10, "epsilon", anchor="end", size=9)]
    for step, colour in enumerate(STEPS):
        parts.append(box(_NAMES + step * 58, y + 1, 12, 12, colour))
        said = "none" if step == 0 else f"to {figure(most * step / 5 / MICRO)}"
        parts.append(text(_NAMES + step * 58 + 16, y + 10, said, size=9))
    return "".join(parts)


# --- controls -------------------------------------------------------------------------------------------------------
def strip(controls: Sequence[dict[str, Any]], names: dict[str, str]) -> str:
    """One square a control, by regulation, in the libraries' order."""
    parts, y = [], 0.0
    x = 0.0
    for status, name in names.items():
        parts += [_square(x, y, status), text(x + 20, y + 11.5, name, size=10)]
        x += 34 + 6.0 * len(name)
    y += 28
    across = int((WIDTH - _NAMES) // 18)
    for regulation, rows in groupby(controls, key=lambda row: row["regulation"]):
        statuses = [row["status"] for row in rows]
        parts.append(text(_NAMES - 10, y + 11.5, _short(regulation), anchor="end", size=10))
        for nth, status in enumerate(statuses):
            parts.append(_square(_NAMES + nth % across * 18, y + nth // across * 18, status))
        y += 18 * -(-len(statuses) // across) + 6
    return framed("Controls by regulation and status", "".join(parts), y)


def _short(name: str) -> str:
    return name if len(name) <= 34 else f"{name[:33]}…"


def _square(x: float, y: float, status: str) -> str:
    drawn = box(x, y, 15, 15, STATUS_COLOURS.get(status, "#8aa3ab"))
    mark = STATUS_MARKS.get(status, "?")
    return drawn + (
        text(x + 7.5, y + 11.5, mark, anchor="middle", bold=True).replace("#33474e", "#fff") if mark else ""
    )
