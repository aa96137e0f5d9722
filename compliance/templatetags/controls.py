"""Cells of evidence tables, whose values are of any type."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django import template

from compliance.charts import figure
from compliance.controls.evidence import STATUSES

register = template.Library()
LONG = 40


@register.filter
def is_moment(value: Any) -> bool:
    """Whether it is a point in time."""
    return isinstance(value, datetime)


@register.filter
def is_subject(value: Any) -> bool:
    """Whether it is the id that events are about."""
    return isinstance(value, UUID)


@register.filter
def is_long(value: Any) -> bool:
    """Whether a cell must break its lines."""
    return isinstance(value, str) and len(value) > LONG


@register.filter
def evidence_cell(value: Any) -> str:
    """A value as people read it; nothing is a dash."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) > 9999 else str(value)
    if isinstance(value, float):
        return figure(value)
    return f"{value:%-d %b %Y}" if isinstance(value, date) else str(value)


@register.filter
def evidence_word(status: str) -> str:
    """A status in the middle of a sentence."""
    return STATUSES[status].lower()


@register.filter
def as_query(parameters: Mapping[str, str]) -> str:
    """Parameters of an address."""
    return urlencode(dict(parameters))
