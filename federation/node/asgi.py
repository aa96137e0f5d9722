"""A node's entry. Start it behind mutual TLS (``uvicorn --ssl-cert-reqs 2 --ssl-ca-certs ca.pem ...``).

Its one loop tends the node's own evidence log.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fdrouter.settings")
django.setup(set_prefix=False)

from django.core.handlers.asgi import ASGIHandler  # noqa: E402  (settings first)

from fdrouter import evidence  # noqa: E402
from federation.database import in_thread  # noqa: E402
from federation.node import calls  # noqa: E402

log = logging.getLogger(__name__)

_django = ASGIHandler()
TEND_SECONDS = 1.0


async def _tend() -> None:
    """Tends the log for as long as the process lives, whatever goes wrong meanwhile."""
    while True:
        await asyncio.sleep(TEND_SECONDS)
        try:
            await in_thread(evidence.tend)()
        except Exception as error:  # noqa: BLE001  (a lost database, a damaged log: the next second tries again)
            log.warning("log not tended", extra={"error": type(error).__name__})


async def application(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """HTTP goes to Django; at start, what an earlier process left running is given up (its charge stands)."""
    if scope["type"] == "http":
        await _django(scope, receive, send)  # type: ignore[arg-type]
        return
    tending: asyncio.Task[None] | None = None
    while scope["type"] == "lifespan":
        message = await receive()
        if message["type"] == "lifespan.startup":
            await in_thread(calls.give_up_interrupted)()
            tending = asyncio.create_task(_tend())
        elif tending is not None:
            tending.cancel()
            with suppress(asyncio.CancelledError):
                await tending
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
