"""Messages of the coordinator to a node, as the gateway makes them."""

from __future__ import annotations

import time
import uuid
from typing import Any

from federation.node import calls
from federation.node.calls import Message
from privacy.dp.text_plan import plan_text

PLAN = plan_text(epsilon=3.0, contexts=128, max_tokens=8)


def payload(kind: str = "cohort.text", **changes: Any) -> dict[str, Any]:
    """What the coordinator puts into a message."""
    now = int(time.time())
    return {
        "kind": kind,
        "model": "smollm2-135m-instruct",
        "messages": [{"role": "user", "content": "Does amiodarone cause tremor?"}],
        "max_tokens": 64,
        "temperature": 0.0,
        "request_digest": "ab" * 32,
        "purpose": "TREAT",
        "patient": "nf-1" if kind == "chart" else "",
        "actor": {"id": 7, "role": "attending", "hospital": "northfield", "department": "cardiology"},
        "parameters": PLAN.to_event() if kind == "cohort.text" else {},
        "issued_at": now,
        "expires_at": now + 300,
        **changes,
    }


def message(kind: str = "cohort.text", message_id: uuid.UUID | None = None, **changes: Any) -> Message:
    return calls.parse(str(message_id or uuid.uuid4()), payload(kind, **changes))


def actor(**changes: Any) -> dict[str, Any]:
    return {**payload()["actor"], **changes}
