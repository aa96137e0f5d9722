"""``make bench-log``: events a second from append to their place in the tree, and proofs as the tree grows.

Two connections append batches of 16 in transactions of their own while one process sequences; PostgreSQL commits
durably. The larger trees are of synthetic leaf hashes. The last line is the events a second.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import statistics
import time
from typing import Any

import psycopg

from benchmarks.log import server
from benchmarks.log.writers import BATCH, batch_of, write

WRITERS = 2
AIM = 5000
SIZES = (10**3, 10**4, 10**5, 10**6, 10**7)
CHUNK = 2**16
PROOFS = 200


def appends(url: str, events: int) -> float:
    """Events a second, from the first append until the last one has its place."""
    from compliance import log
    from compliance.log import sequencing

    context = multiprocessing.get_context("spawn")
    start = context.Barrier(WRITERS + 1)
    each = events // BATCH // WRITERS
    total, before = each * BATCH * WRITERS, sequencing.size()
    writers = [context.Process(target=write, args=(url, each, start)) for _ in range(WRITERS)]
    for writer in writers:
        writer.start()
    start.wait(timeout=60)
    begun = time.perf_counter()
    while (done := sequencing.size() - before) < total:
        if not log.sequence():
            time.sleep(0.005)
    took = time.perf_counter() - begun
    for writer in writers:
        writer.join()
    assert done == total
    return total / took


def trigger_cost(url: str) -> tuple[float, float]:
    """Milliseconds of one statement that writes 48 events, without and with the trigger that lets them wait."""
    events, found = batch_of(48), {}
    with psycopg.connect(url, autocommit=True) as connection:
        for state in ("DISABLE", "ENABLE ALWAYS") * 3:
            connection.execute(f"ALTER TABLE compliance_event {state} TRIGGER compliance_event_awaits")
            times = []
            for _ in range(100):
                with connection.transaction(force_rollback=True):
                    begun = time.perf_counter()
                    connection.execute("SELECT log_append(%s::jsonb)", [events])
                    times.append(1000 * (time.perf_counter() - begun))
            found.setdefault(state, []).append(statistics.median(times))
    return min(found["DISABLE"]), min(found["ENABLE ALWAYS"])


def grow_to(connection: psycopg.Connection[Any], size: int, target: int) -> int:
    """Synthetic hashes into the tiles, as sequencing would write them."""
    from compliance.log.sequencing import read_tile
    from compliance.merkle import tiles

    while size < target:
        count = min(CHUNK, target - size)
        hashes = [hashlib.sha256(nth.to_bytes(8, "big")).digest() for nth in range(size, size + count)]
        grown = tiles.grow(size, hashes, read_tile)
        with connection.cursor() as cursor:
            cursor.executemany(
                "INSERT INTO compliance_tile (level, index, hashes) VALUES (%s, %s, %s)"
                " ON CONFLICT (level, index) DO UPDATE SET hashes = excluded.hashes",
                [(level, index, held) for (level, index), held in grown.items()],
            )
        size += count
    return size


def proof_times(size: int) -> tuple[float, float, float]:
    """Median milliseconds of an inclusion proof, of a consistency proof, and tiles that an inclusion proof reads."""
    from compliance.log.sequencing import read_tile
    from compliance.merkle import tiles

    reads = 0

    def read(level: int, index: int) -> bytes:
        nonlocal reads
        reads += 1
        return read_tile(level, index)

    included, consistent = [], []
    for nth in range(PROOFS):
        place = (nth * 7919 * 104729) % size
        begun = time.perf_counter()
        tiles.inclusion(place, size, read)
        included.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        tiles.consistency(place + 1, size, read_tile)
        consistent.append(time.perf_counter() - begun)
    return 1000 * statistics.median(included), 1000 * statistics.median(consistent), reads / PROOFS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--largest", type=int, default=SIZES[-1])
    asked = parser.parse_args()
    with server.database("fdrouter") as postgres:
        url = postgres.url("fdrouter")
        appends(url, 4096)  # warm
        rates = [appends(url, asked.events) for _ in range(3)]
        plain, waiting = trigger_cost(url)
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        print(f"one statement of 48 events: {plain:.2f} ms, with the waiting list {waiting:.2f} ms")
        for rate in rates:
            print(f"{asked.events} events, {WRITERS} connections, batches of {BATCH}: {rate:.0f}/s sequenced")
        with psycopg.connect(url, autocommit=True) as connection:
            with connection.transaction():  # the trees of synthetic hashes begin at nothing
                connection.execute("ALTER TABLE compliance_tile DISABLE TRIGGER compliance_tile_kept")
                connection.execute("DELETE FROM compliance_tile")
                connection.execute("ALTER TABLE compliance_tile ENABLE ALWAYS TRIGGER compliance_tile_kept")
            size, first = 0, 0.0
            for target in (size for size in SIZES if size <= asked.largest):
                size = grow_to(connection, size, target)
                included, consistent, reads = proof_times(size)
                first = first or included
                print(
                    f"{size:>10} entries: inclusion {included:.2f} ms (x{included / first:.1f}), {reads:.1f} tiles;"
                    f" consistency {consistent:.2f} ms",
                    flush=True,
                )
        rate = statistics.median(rates)
        print(f"aim {AIM}/s: {'met' if rate >= AIM else 'not met'}")
        print(f"appends/s {rate:.0f}")


if __name__ == "__main__":
    main()
