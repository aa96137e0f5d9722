"""``fdrouter.settings`` for tests and for the type checker: fills in the variables that have no default.

Importing it starts nothing; ``tests/conftest.py`` starts the embedded servers that these values point at.
A ``DATABASE_URL`` or ``REDIS_URL`` from outside is honoured, and the database's name gets the prefix ``test_``: it is
made and dropped, so it is never the one that was named. Processes that a test starts inherit the same values.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit, urlunsplit

from tests import embedded

embedded.provide_environment()

_url = urlsplit(os.environ["DATABASE_URL"])
_name = _url.path.lstrip("/")
if not _name.startswith("test_"):
    os.environ["DATABASE_URL"] = urlunsplit(_url._replace(path=f"/test_{_name}"))

from fdrouter.settings import *  # noqa: E402, F403
from fdrouter.settings import DATABASES  # noqa: E402

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # nothing to protect, and much faster
DATABASES["default"]["TEST"] = {"NAME": DATABASES["default"]["NAME"]}
