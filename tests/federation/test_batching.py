"""Group commit: one flush at a time, nothing lost, order kept, batches bounded."""

from __future__ import annotations

import asyncio
import time

from federation.batching import Batcher, resolve


class Sink:
    """Remembers batches; a flush lasts until it is let go."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.batches: list[list[int]] = []
        self.seconds = seconds
        self.running = 0

    async def flush(self, items: list[int]) -> None:
        self.running += 1
        assert self.running == 1, "two flushes at once"
        self.batches.append(items)
        await asyncio.sleep(self.seconds)
        self.running -= 1


async def settle(sink: Sink, count: int) -> None:
    for _ in range(400):
        if sum(map(len, sink.batches)) == count and not sink.running:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{sink.batches} after two seconds")


async def test_what_comes_during_a_flush_is_the_next_batch() -> None:
    sink = Sink(0.02)
    batcher = Batcher(sink.flush)
    batcher.add(0)
    await asyncio.sleep(0.005)
    for n in range(1, 6):
        batcher.add(n)
    await settle(sink, 6)
    assert sink.batches == [[0], [1, 2, 3, 4, 5]]


async def test_a_convoy_is_cut_at_the_limit_in_its_order() -> None:
    sink = Sink()
    batcher = Batcher(sink.flush, limit=4)
    for n in range(10):
        batcher.add(n)
    await settle(sink, 10)
    assert sink.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


async def test_a_lone_item_waits_no_longer_than_it_must() -> None:
    sink = Sink()
    batcher = Batcher(sink.flush, linger=0.02, enough=4)
    start = time.monotonic()
    batcher.add(1)
    await settle(sink, 1)
    assert 0.015 < time.monotonic() - start < 1


async def test_enough_items_do_not_wait_at_all() -> None:
    sink = Sink()
    batcher = Batcher(sink.flush, linger=30, enough=3)
    batcher.add(1)
    await asyncio.sleep(0.01)
    batcher.add(2)
    await asyncio.sleep(0.01)
    assert not sink.batches
    batcher.add(3)
    await settle(sink, 3)
    assert sink.batches == [[1, 2, 3]]


async def test_it_starts_again_after_a_pause() -> None:
    sink = Sink()
    batcher = Batcher(sink.flush, linger=0.001, enough=2)
    for n in range(5):
        batcher.add(n)
        await settle(sink, n + 1)
    assert sum(sink.batches, []) == [0, 1, 2, 3, 4]


async def test_nothing_is_lost_or_doubled_under_many_producers() -> None:
    sink = Sink(0.0005)
    batcher = Batcher(sink.flush, limit=7, linger=0.001, enough=3)

    async def produce(first: int) -> None:
        for n in range(first, first + 40):
            batcher.add(n)
            if n % 3 == 0:
                await asyncio.sleep(0)
            if n % 17 == 0:
                await asyncio.sleep(0.004)

    await asyncio.gather(*(produce(40 * p) for p in range(5)))
    await settle(sink, 200)
    assert sorted(sum(sink.batches, [])) == list(range(200))
    assert max(map(len, sink.batches)) <= 7


async def test_a_result_for_someone_who_left_is_dropped() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    future.cancel()
    resolve(future, 1)
    other: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    resolve(other, 1)
    resolve(other, 2)
    assert await other == 1
