"""The coordinator's entry: ``/v1`` on a lean handler, WebSockets on Channels, everything else ordinary Django."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fdrouter.settings")
django.setup(set_prefix=False)

from channels.auth import AuthMiddlewareStack  # noqa: E402  (settings first)
from channels.routing import URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402
from django.core.handlers.asgi import ASGIHandler  # noqa: E402
from django.urls import path  # noqa: E402

from federation.api.lean import LeanHandler  # noqa: E402
from federation.consumers import AskConsumer  # noqa: E402

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]

_site = ASGIHandler()
_lean = LeanHandler()
_sockets = AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter([path("ws/ask", AskConsumer.as_asgi())])))


async def application(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Routes by scope type and path."""
    if scope["type"] == "http":
        handler = _lean if scope["path"].startswith("/v1/") else _site
        await handler(scope, receive, send)
    elif scope["type"] == "websocket":
        await _sockets(scope, receive, send)
    elif scope["type"] == "lifespan":
        await _lifespan(receive, send)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
