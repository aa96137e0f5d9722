"""Secrets of a stack on one machine: made once, readable by their owner only."""

from __future__ import annotations

import base64
import os
import secrets
from pathlib import Path


def ensure(path: Path, value: str) -> Path:
    """Writes ``value`` to ``path`` (mode 0600) unless the file is already there; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path
    with os.fdopen(handle, "w", encoding="ascii") as file:
        file.write(value)
    return path


def ensure_text_secret(path: Path) -> Path:
    """A random secret as text (Django's secret key, a password)."""
    return ensure(path, secrets.token_urlsafe(48))


def ensure_key(path: Path) -> Path:
    """Thirty-two random bytes in base64 (the key for encryption at rest)."""
    return ensure(path, base64.b64encode(secrets.token_bytes(32)).decode("ascii"))
