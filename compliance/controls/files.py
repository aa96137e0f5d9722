"""The matrix as a table in a file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from compliance import export

COLUMNS = (
    "regulation",
    "citation",
    "id",
    "title",
    "asks",
    "status",
    "evidence_status",
    "sentence",
    "counts",
    "first_event",
    "last_event",
    "checked_at",
    "mechanism",
    "tests",
    "owner",
    "review_months",
    "residual_risk",
    "exception",
)
"""The columns of the CSV; JSON has the query and its parameters besides."""


def as_csv(facts: Iterable[dict[str, Any]]) -> str:
    """Rows of :func:`compliance.controls.matrix.export`, a line each, safe to open in a spreadsheet."""
    lines = [export.line(COLUMNS)]
    lines += [export.line(_flat(row[column]) for column in COLUMNS) for row in facts]
    return "".join(lines)


def _flat(value: Any) -> Any:
    if isinstance(value, list):
        return " ".join(value)
    return json.dumps(value, ensure_ascii=False, sort_keys=True) if isinstance(value, dict) else value
