"""Leaf data: every column of an event, in the one spelling that verifiers know."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone

from compliance.log.entries import COLUMNS, leaf_data
from compliance.models import Event
from federation.sealing import canonical

SUBJECT = uuid.UUID("12345678-1234-5678-1234-567812345678")


def test_it_is_this_string() -> None:
    at = datetime(2026, 3, 1, 1, 2, 3, 45, tzinfo=timezone(timedelta(hours=2)))
    details = '{"b": [1, 0.5, 1e-05], "a": "Zürich"}'
    row = (7, at, "request.submit", "ok", 3, SUBJECT, "northfield", "cardiology", "TREAT", details, b"\x01" * 32)
    found = leaf_data(*row).decode()
    assert found == (
        '{"actor":3,"at":"2026-02-28T23:02:03.000045Z","commitment":"' + "01" * 32 + '","department":"cardiology",'
        '"details":{"a":"Zürich","b":[1,0.5,1e-05]},"hospital":"northfield","kind":"request.submit","outcome":"ok",'
        '"purpose":"TREAT","seq":7,"subject":"12345678-1234-5678-1234-567812345678","v":1}'
    )
    assert found.encode() == canonical(
        {"v": 1, "seq": 7, "at": "2026-02-28T23:02:03.000045Z", "kind": "request.submit", "outcome": "ok", "actor": 3}
        | {"subject": str(SUBJECT), "hospital": "northfield", "department": "cardiology", "purpose": "TREAT"}
        | {"details": {"a": "Zürich", "b": [1, 0.5, 1e-05]}, "commitment": "01" * 32}
    )


def test_no_column_is_left_out() -> None:
    """A new column of the event is either in the leaf, under a new version, or derived from what is."""
    columns = {field.column for field in Event._meta.concrete_fields}
    assert columns - set(COLUMNS.split(", ")) <= {"sealed"}, "the commitment stands for what is sealed"
