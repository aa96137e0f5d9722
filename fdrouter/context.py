"""What every page's template knows."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from accounts import principals
from fdrouter.errors import Unauthenticated

THEMES = ("auto", "light", "dark")


def page(request: HttpRequest) -> dict[str, Any]:
    """The acting principal (``None`` when signed out or without a post) and the chosen theme."""
    theme = request.COOKIES.get("theme", "auto")
    found: dict[str, Any] = {"theme": theme if theme in THEMES else "auto", "principal": None}
    user = getattr(request, "user", None)
    if user is not None and user.is_authenticated:
        try:
            found["principal"] = principals.for_user(user.pk)
        except Unauthenticated:
            found["principal"] = None
    return found
