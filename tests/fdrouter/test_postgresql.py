"""The pool of connections outlives a restart of the server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection

from fdrouter.postgresql.base import DatabaseWrapper

SIZE = 6
PATIENCE = 2.0


class Pooled:
    """A pool of its own, whose callers are threads as in a web process."""

    def __init__(self) -> None:
        options = {**connection.settings_dict["OPTIONS"], "application_name": "pooled"}
        options["pool"] = {"min_size": 1, "max_size": SIZE, "timeout": PATIENCE, "reconnect_timeout": 1}
        self.wrapper = self._wrapper(options)
        self._options = options

    def _wrapper(self, options: dict[str, object]) -> DatabaseWrapper:
        return DatabaseWrapper({**connection.settings_dict, "OPTIONS": options}, alias=connection.alias)

    def query(self, together: threading.Barrier | None = None) -> int:
        """One statement over a connection of the pool; ``together`` holds it until the others have theirs."""
        mine = self._wrapper(self._options)
        with mine.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            (pid,) = cursor.fetchone() or (0,)
        if together:
            together.wait(10)
        mine.close()
        return int(pid)

    def fill(self) -> set[int]:
        barrier = threading.Barrier(SIZE)
        with ThreadPoolExecutor(SIZE) as threads:
            return {future.result() for future in [threads.submit(self.query, barrier) for _ in range(SIZE)]}


@pytest.fixture
def pooled(transactional_db: None) -> Iterator[Pooled]:
    pooled = Pooled()
    yield pooled
    pooled.wrapper.close_pool()


def end_sessions() -> set[int]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pid, pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'pooled'"
        )
        return {int(pid) for pid, _ in cursor.fetchall()}


def test_a_full_pool_whose_sessions_all_ended_serves_the_next_caller(pooled: Pooled) -> None:
    before = pooled.fill()
    assert len(before) == SIZE
    assert end_sessions() == before
    assert pooled.query() not in before  # one caller alone does not wait for one dead connection after the other
    assert not pooled.fill() & before


def test_a_caller_is_told_when_the_server_is_gone_and_served_when_it_is_back(
    pooled: Pooled, monkeypatch: pytest.MonkeyPatch
) -> None:
    pooled.fill()
    end_sessions()
    pool = pooled.wrapper.pool
    genuine = pool.kwargs["host"]
    pool.kwargs["host"] = "/nowhere"
    with pytest.raises(Exception, match="couldn't get a connection"):
        pooled.query()
    pool.kwargs["host"] = genuine
    started = time.monotonic()
    assert pooled.query()
    assert time.monotonic() - started < PATIENCE
