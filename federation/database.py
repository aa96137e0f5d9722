"""Connections for the request path: one psycopg connection, opened again after the server went away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import psycopg
from django.conf import settings


class Reconnecting:
    """Hands out one autocommit connection at a time; a broken one is thrown away and replaced on next use."""

    def __init__(self) -> None:
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Raises :class:`psycopg.Error` when the server cannot be reached."""
        async with self._lock:
            if self._connection is None or self._connection.closed:
                self._connection = await psycopg.AsyncConnection.connect(
                    settings.DATABASE_URL, autocommit=True, prepare_threshold=0, connect_timeout=5
                )
            try:
                yield self._connection
            except psycopg.OperationalError:
                await self.close()
                raise

    async def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of one statement in its own transaction."""
        async with self.connection() as connection:
            cursor = await connection.execute(sql, parameters)  # type: ignore[arg-type]
            return await cursor.fetchall() if cursor.description else []

    async def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()
