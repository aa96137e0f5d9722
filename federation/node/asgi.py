"""A node's entry. Start it behind mutual TLS (``uvicorn --ssl-cert-reqs 2 --ssl-ca-certs ca.pem ...``)."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fdrouter.settings")
django.setup(set_prefix=False)

from django.core.handlers.asgi import ASGIHandler  # noqa: E402  (settings first)

from federation.database import in_thread  # noqa: E402
from federation.node import calls  # noqa: E402

_django = ASGIHandler()


async def application(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """HTTP goes to Django; at start, what an earlier process left running is given up (its charge stands)."""
    if scope["type"] == "http":
        await _django(scope, receive, send)  # type: ignore[arg-type]
        return
    while scope["type"] == "lifespan":
        message = await receive()
        if message["type"] == "lifespan.startup":
            await in_thread(calls.give_up_interrupted)()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
