"""Domain errors on pages: the right status and a page that says what happened and what to do next."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from fdrouter.api import status_of
from fdrouter.errors import DomainError


class PageErrorMiddleware:
    """Turns a :class:`DomainError` that a page view let through into a page."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        if not isinstance(exception, DomainError):
            return None
        status = status_of(exception)
        return render(request, "errors/problem.html", {"error": exception, "status": status}, status=status)
