"""Connections for the request path: opened again after the server went away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import psycopg
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import close_old_connections

from fdrouter.postgresql.liveness import is_lost

P = ParamSpec("P")
T = TypeVar("T")


def in_thread(function: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """``function`` in a worker thread, which gives Django's connection back afterwards.

    Nothing else would: Django does so at the end of a request, and here none ends. A kept connection would be useless
    for ever once the server has closed it, and more threads than the pool has connections would wait for each other.
    """

    @wraps(function)
    def tidy(*args: P.args, **kwargs: P.kwargs) -> T:
        close_old_connections()
        try:
            return function(*args, **kwargs)
        finally:
            close_old_connections()

    return sync_to_async(tidy, thread_sensitive=False)


class Reconnecting:
    """Hands out one autocommit connection at a time; a broken one is thrown away and replaced before its next use."""

    def __init__(self) -> None:
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._lock = asyncio.Lock()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Raises :class:`psycopg.Error` when the server cannot be reached."""
        async with self._lock:
            if self._connection is not None and is_lost(self._connection):
                await self.close()
            if self._connection is None:
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
            cursor = await connection.execute(sql, parameters)
            return await cursor.fetchall() if cursor.description else []

    async def close(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            await connection.close()
