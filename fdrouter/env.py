"""Strict readers of environment variables, used by ``fdrouter.settings`` alone.

A missing or malformed value stops the start with a sentence that names the variable. Secrets may come from a file:
``NAME_FILE`` holds its path and wins over ``NAME``.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import overload
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured


def text(name: str, default: str | None = None, *, choices: tuple[str, ...] = ()) -> str:
    """The variable as text. Without a default it must be set."""
    value = os.environ.get(name, default)
    if value is None:
        raise ImproperlyConfigured(f"{name} must be set.")
    if choices and value not in choices:
        raise ImproperlyConfigured(f"{name} must be one of {', '.join(choices)}.")
    return value


def boolean(name: str, default: bool) -> bool:
    """``True`` or ``False``, spelled exactly so."""
    value = os.environ.get(name)
    if value is None:
        return default
    if value not in ("True", "False"):
        raise ImproperlyConfigured(f"{name} must be True or False.")
    return value == "True"


def integer(name: str, default: int, *, minimum: int = 0) -> int:
    """A whole number of at least ``minimum``."""
    value = os.environ.get(name, str(default))
    try:
        number = int(value)
    except ValueError:
        raise ImproperlyConfigured(f"{name} must be a whole number.") from None
    if number < minimum:
        raise ImproperlyConfigured(f"{name} must be at least {minimum}.")
    return number


def number(name: str, default: float, *, minimum: float = 0.0) -> float:
    """A finite number of at least ``minimum``."""
    value = os.environ.get(name, str(default))
    try:
        result = float(value)
    except ValueError:
        raise ImproperlyConfigured(f"{name} must be a number.") from None
    if not minimum <= result < float("inf"):
        raise ImproperlyConfigured(f"{name} must be finite and at least {minimum}.")
    return result


def words(name: str, default: str = "") -> list[str]:
    """A comma-separated list without empty entries."""
    return [word.strip() for word in os.environ.get(name, default).split(",") if word.strip()]


@overload
def path(name: str, default: Path) -> Path: ...


@overload
def path(name: str, default: None = None) -> Path | None: ...


def path(name: str, default: Path | None = None) -> Path | None:
    """A file-system path, or the default."""
    value = os.environ.get(name)
    return Path(value) if value else default


def secret(name: str) -> str:
    """A secret from ``NAME_FILE`` (a path) or ``NAME``; there is no default."""
    file = os.environ.get(f"{name}_FILE")
    if file:
        try:
            value = Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ImproperlyConfigured(f"{name}_FILE cannot be read: {error.strerror}.") from None
        except UnicodeDecodeError:
            raise ImproperlyConfigured(f"{name}_FILE must hold text.") from None
        if not value:
            raise ImproperlyConfigured(f"{name}_FILE is empty.")
        return value
    value = os.environ.get(name, "")
    if not value:
        raise ImproperlyConfigured(f"{name} or {name}_FILE must be set.")
    return value


def key(name: str, *, length: int = 32) -> bytes:
    """A secret of ``length`` bytes in base64."""
    try:
        value = base64.b64decode(secret(name), validate=True)
    except ValueError:  # not base64, or not even ASCII
        raise ImproperlyConfigured(f"{name} must be base64.") from None
    if len(value) != length:
        raise ImproperlyConfigured(f"{name} must hold {length} bytes.")
    return value


def postgres(name: str) -> dict[str, object]:
    """Django's database settings from a libpq URL, Unix sockets (``?host=/dir``) included."""
    url = urlsplit(secret(name))
    if url.scheme not in ("postgres", "postgresql"):
        raise ImproperlyConfigured(f"{name} must be a postgresql:// URL.")
    try:
        port = url.port
    except ValueError:
        raise ImproperlyConfigured(f"{name} must name a port by its number.") from None
    query = dict(parse_qsl(url.query))
    host = query.pop("host", "") or unquote(url.hostname or "")
    return {
        "ENGINE": "fdrouter.postgresql",
        "NAME": url.path.lstrip("/") or "postgres",
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
        "HOST": host,
        "PORT": str(query.pop("port", "") or port or ""),
        "OPTIONS": query,
    }
