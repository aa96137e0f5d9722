"""A small hospital with a block, and the way from a plan to what is published."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import Any

import aiohttp
from asgiref.sync import async_to_sync

from federation.node import blocks, calls, service
from federation.node.demo_records import build
from federation.node.engine import EngineClient
from federation.node.ingest import ingest
from federation.node.released import cards, publish
from federation.node.released.models import Release
from privacy.models import Scope
from tests.federation.messages import payload

NODE = "northfield"
NOBODY_LISTENS = "http://127.0.0.1:1"
PLANNER, APPROVER = "Pia Planner", "Otto Officer"
TOPICS = ("velorapine", "tamurexin", "metformin")


def hospital(folder: Path, *, epsilon: float = 10.0) -> Scope:
    """Takes in the small hospital's records and opens its block."""
    build.build_small(folder, NODE)
    ingest(folder)
    return blocks.create(NODE, NODE, epsilon=epsilon, delta=1e-5)


def approved_cards(**changes: Any) -> Release:
    wanted: dict[str, Any] = {"epsilon": 8.0, "topics": TOPICS} | changes
    release = publish.propose_cards(1, PLANNER, **wanted)
    publish.approve(release, APPROVER)
    release.refresh_from_db()
    return release


def published_cards(**changes: Any) -> Release:
    release = approved_cards(**changes)
    publish.begin(release)
    cards.make(release)
    release.refresh_from_db()
    return release


def ask(question: str, engine: str = NOBODY_LISTENS, **changes: Any) -> list[dict[str, Any]]:
    """All events of a question to what is published."""
    body = payload("cohort.released", messages=[{"role": "user", "content": question}], **changes)
    digest = hashlib.sha256(f"{question} {changes}".encode()).hexdigest()
    wish = calls.parse(str(uuid.uuid4()), body | {"request_digest": digest})

    async def run() -> list[dict[str, Any]]:
        async with aiohttp.ClientSession() as session:
            return [event async for event in service.answer(wish, EngineClient(engine, "m", session))]

    return async_to_sync(run)()
