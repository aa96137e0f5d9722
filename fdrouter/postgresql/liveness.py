"""Whether an idle connection has ended, asked without a round trip."""

from __future__ import annotations

import select
from typing import Any

import psycopg


def is_lost(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """The server speaks to an idle client only to say goodbye, so something to read means the end; at worst a harmless
    notice costs a new connection. Asks the kernel alone.
    """
    if connection.closed:
        return True
    waiting = select.poll()
    waiting.register(connection.fileno(), select.POLLIN)
    return bool(waiting.poll(0))
