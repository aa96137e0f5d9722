"""The processes that append."""

from __future__ import annotations

import json
import uuid
from typing import Any

import psycopg

BATCH = 16


def batch_of(count: int) -> str:
    """Events as a request's are: ids, a digest, a few figures."""
    details = {"kind": "general", "model": "smollm2-135m-instruct", "channel": "api", "bytes": 320, "digest": "ab" * 32}
    event = {"kind": "request.submit", "outcome": "ok", "actor_id": 7, "hospital": "northfield"}
    event |= {"department": "cardiology", "purpose": "TREAT", "details": details}
    return json.dumps([event | {"subject": str(uuid.uuid4())} for _ in range(count)])


def write(url: str, batches: int, start: Any) -> None:
    events = batch_of(BATCH)
    with psycopg.connect(url, autocommit=True) as connection:
        start.wait(timeout=60)
        for _ in range(batches):
            connection.execute("SELECT log_append(%s::jsonb)", [events])
