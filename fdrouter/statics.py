"""Static files under an ASGI server."""

from __future__ import annotations

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from whitenoise.middleware import WhiteNoiseMiddleware
from whitenoise.responders import StaticFile


class StaticFiles(WhiteNoiseMiddleware):  # type: ignore[misc]
    """WhiteNoise whose answers are whole: it streams with a synchronous iterator, and under ASGI Django would read
    that to its end in the event loop's stead and warn of it. The middleware runs in a worker thread; so does this.
    """

    @staticmethod
    def serve(static_file: StaticFile, request: HttpRequest) -> HttpResponseBase:
        """The file, with WhiteNoise's status and headers."""
        streamed: HttpResponseBase = WhiteNoiseMiddleware.serve(static_file, request)
        if not isinstance(request, ASGIRequest) or not isinstance(streamed, StreamingHttpResponse):
            return streamed
        try:
            whole = HttpResponse(streamed.getvalue(), status=streamed.status_code)
        finally:
            streamed.close()
        del whole["content-type"]
        for name, value in streamed.items():
            whole[name] = value
        return whole
