"""The module that Django loads for ``ENGINE = "fdrouter.postgresql"``."""

from __future__ import annotations

from typing import Any

import psycopg
from django.db.backends.postgresql import base

from fdrouter.postgresql.liveness import is_lost


class DatabaseWrapper(base.DatabaseWrapper):
    """Replaces all dead connections of the pool as soon as one is found dead.

    psycopg's own check takes them one by one and waits 1, 2, 4, ... seconds between two, so that after a restart of
    the server a pool of five outlasts every caller's patience.
    """

    def get_new_connection(self, conn_params: dict[str, Any]) -> psycopg.Connection[Any]:
        """Raises :class:`psycopg.OperationalError` when the server cannot be reached within the pool's timeout."""
        while True:
            connection: psycopg.Connection[Any] = super().get_new_connection(conn_params)
            pool = self.pool
            if pool is None or not is_lost(connection):
                return connection
            connection.close()  # or the pool, which has not heard, would take it for a good one
            pool.putconn(connection)
            pool.check()
