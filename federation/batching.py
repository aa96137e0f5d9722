"""Group commit: while one flush is under way the next batch collects, so batches grow with load."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypedDict, TypeVar

T = TypeVar("T")


class Limits(TypedDict):
    """How a batch is cut; see :class:`Batcher`."""

    limit: int
    linger: float
    enough: int


# 1 ms or 4 items, 16 at most: unlimited batches move in convoys and lose latency (measured).
BATCH: Limits = {"limit": 16, "linger": 0.001, "enough": 4}


def resolve(future: asyncio.Future[T], value: T) -> None:
    """Sets a result unless the waiting side has gone."""
    if not future.done():
        future.set_result(value)


class Batcher(Generic[T]):
    """Calls ``flush(items)`` with what was added since the last call, one call at a time.

    Waits at most ``linger`` seconds for ``enough`` items; ``limit`` bounds a batch, so that a convoy of requests is
    cut and the stages behind it start early. ``flush`` must not raise.
    """

    def __init__(
        self, flush: Callable[[list[T]], Awaitable[None]], limit: int = 256, linger: float = 0.0, enough: int = 1
    ) -> None:
        self._flush, self._limit, self._linger, self._enough = flush, limit, linger, enough
        self._items: list[T] = []
        self._task: asyncio.Task[None] | None = None
        self._full: asyncio.Future[None] | None = None

    def add(self, item: T) -> None:
        """Puts one item into the next batch. Only from the event loop's thread."""
        self._items.append(item)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())
        elif self._full is not None and len(self._items) >= self._enough:
            resolve(self._full, None)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._items:
                if self._linger and len(self._items) < self._enough:
                    self._full = loop.create_future()
                    timer = loop.call_later(self._linger, resolve, self._full, None)
                    await self._full
                    timer.cancel()
                    self._full = None
                items, self._items = self._items[: self._limit], self._items[self._limit :]
                await self._flush(items)
        finally:
            self._task = None
