"""``fdrouter.settings`` for the type checker: stand-ins for the variables that have no default.

mypy's Django plug-in imports the settings to learn the models. It opens no connection, so nothing behind these
values has to exist.
"""

from __future__ import annotations

import base64
import os

os.environ.setdefault("FDROUTER_ROLE", "all")
os.environ.setdefault("FDROUTER_SECRET_KEY", "type-checking")
os.environ.setdefault("FDROUTER_DATA_KEY", base64.b64encode(bytes(32)).decode())
os.environ.setdefault("DATABASE_URL", "postgresql://localhost/typing")
os.environ.setdefault("REDIS_URL", "redis://localhost:6379/0")

from fdrouter.settings import *  # noqa: E402, F403
