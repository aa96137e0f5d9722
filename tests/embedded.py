"""The embedded PostgreSQL and Redis of one test run: where they are, and their life.

Each run has a folder of its own, ``.test/<process id>``, so runs beside each other do not meet. A folder whose run is
gone is cleared away by the next one, left-over servers included.
"""

from __future__ import annotations

import atexit
import base64
import os
import shutil
from functools import cached_property
from pathlib import Path

from fdrouter.demo import keys, ports
from fdrouter.demo.processes import Fleet, sweep
from fdrouter.demo.services import UNSAFE_FAST, Postgres, Redis

ROOT = Path(__file__).resolve().parents[1] / ".test"
LEDGER = "processes.json"
# Tables that were never analysed look large to the planner, which then compiles queries that take a millisecond.
OPTIONS = {**UNSAFE_FAST, "jit": "off"}


class Servers:
    """PostgreSQL and Redis of this run. Names and ports are fixed at once; nothing runs before :meth:`start`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fleet = Fleet(folder / LEDGER)

    @cached_property
    def postgres(self) -> Postgres:
        return Postgres(self.folder / "pg", self.folder / "postgres.log", OPTIONS)

    @cached_property
    def redis(self) -> Redis:
        secret = keys.ensure_text_secret(self.folder / "secrets" / "redis")
        return Redis(self.folder / "redis", self.folder / "redis.log", ports.free_port(), secret)

    def start(self, *, postgres: bool, redis: bool) -> None:
        for wanted, server in ((postgres, self.postgres), (redis, self.redis)):
            if wanted:
                server.initialise()
                self.fleet.wait_healthy(self.fleet.start(server.part()).part.name)

    def stop(self) -> None:
        self.fleet.stop_all()
        shutil.rmtree(self.folder, ignore_errors=True)


_servers: Servers | None = None
_embedded: set[str] = set()


def provide_environment() -> None:
    """Sets every variable that ``fdrouter.settings`` asks for and that is not set yet."""
    global _servers
    if "DATABASE_URL" not in os.environ or "REDIS_URL" not in os.environ:
        _servers = Servers(ROOT / str(os.getpid()))
        if "DATABASE_URL" not in os.environ:
            os.environ["DATABASE_URL"] = _servers.postgres.url("fdrouter")
            _embedded.add("DATABASE_URL")
        if "REDIS_URL" not in os.environ:
            os.environ["REDIS_URL"] = _servers.redis.url
            _embedded.add("REDIS_URL")
    os.environ.setdefault("FDROUTER_ROLE", "all")
    os.environ.setdefault("FDROUTER_SECRET_KEY", "only-for-tests")
    os.environ.setdefault("FDROUTER_DATA_KEY", base64.b64encode(b"only for tests, never elsewhere.").decode())


def start() -> None:
    """Starts what :func:`provide_environment` pointed at, after clearing away what dead runs left."""
    clear_dead_runs()
    if _servers is not None:
        atexit.register(stop)
        _servers.start(postgres="DATABASE_URL" in _embedded, redis="REDIS_URL" in _embedded)


def stop() -> None:
    if _servers is not None:
        _servers.stop()


def clear_dead_runs() -> None:
    for folder in ROOT.glob("[0-9]*"):
        if not Path(f"/proc/{folder.name}").exists():
            for ledger in folder.rglob(LEDGER):
                sweep(ledger)
            shutil.rmtree(folder, ignore_errors=True)
