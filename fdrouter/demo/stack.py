"""The parts of the network as data: what each process is called, how it is started, and when it is healthy.

``make demo`` starts all of them, the flow tests start some. An environment variable ``DATABASE_URL``, ``REDIS_URL``
or ``FDROUTER_ENGINE_URL`` takes the place of the embedded part of that kind.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from fdrouter.demo import keys, ports, probes
from fdrouter.demo.layout import COORDINATOR, PROJECT, Layout, Node
from fdrouter.demo.processes import Part
from fdrouter.demo.services import Postgres, Redis

MODEL_NAME = "smollm2-135m-instruct"
ENGINE_START_SECONDS = 240.0
START_SECONDS = 90.0
OURS = ("FDROUTER_", "DATABASE_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE", "PYTEST_")


class Stack:
    """Everything about one network on one machine that follows from its layout.

    ``postgres_options`` are settings of the embedded server; ``overrides`` are variables that every coordinator and
    node process gets on top of its own, for tests (a shorter lease, say).
    """

    def __init__(
        self,
        layout: Layout,
        *,
        postgres_options: Mapping[str, str] | None = None,
        overrides: Mapping[str, str] | None = None,
        outside: Mapping[str, str] | None = None,
    ) -> None:
        self.layout = layout
        self._overrides = dict(overrides or {})
        outside = os.environ if outside is None else outside
        self._outside_database = outside.get("DATABASE_URL")
        self._outside_redis = outside.get("REDIS_URL")
        self._outside_engine = outside.get("FDROUTER_ENGINE_URL")
        self._postgres_options = dict(postgres_options or {})

    # --- embedded servers or their replacements ----------------------------------------------------------------

    @cached_property
    def postgres(self) -> Postgres | None:
        if self._outside_database:
            return None
        return Postgres(self.layout.postgres, self.layout.log("postgres"), self._postgres_options)

    @cached_property
    def redis(self) -> Redis | None:
        if self._outside_redis:
            return None
        layout = self.layout
        secret = layout.secret("redis", "password")
        return Redis(layout.redis, layout.log("redis"), layout.redis_port or ports.free_port(), secret)

    @property
    def embeds_engine(self) -> bool:
        return not self._outside_engine

    @property
    def engine_url(self) -> str:
        return self._outside_engine or self.layout.engine_url

    def database_url(self, database: str) -> str:
        if self.postgres is not None:
            return self.postgres.url(database)
        url = urlsplit(str(self._outside_database))
        return urlunsplit(url._replace(path=f"/{database}"))

    @property
    def redis_url(self) -> str:
        return self.redis.url if self.redis is not None else str(self._outside_redis)

    @property
    def databases(self) -> list[str]:
        return ["fdrouter", *(node_database(node) for node in self.layout.nodes)]

    @property
    def administration_url(self) -> str:
        """Where databases are made: the embedded server's own, or the database that was named from outside."""
        return self.postgres.url("postgres") if self.postgres is not None else str(self._outside_database)

    # --- environments ------------------------------------------------------------------------------------------

    def make_secrets(self) -> None:
        for owner in (COORDINATOR, *(node.id for node in self.layout.nodes)):
            keys.ensure_text_secret(self.layout.secret(owner, "secret_key"))
            keys.ensure_key(self.layout.secret(owner, "data_key"))

    def coordinator_environment(self) -> dict[str, str]:
        layout = self.layout
        return self._common(COORDINATOR) | {
            "FDROUTER_ROLE": "coordinator",
            "DATABASE_URL": self.database_url("fdrouter"),
            "REDIS_URL": self.redis_url,
            "FDROUTER_BASE_URL": layout.base_url,
            "FDROUTER_STATIC_ROOT": str(layout.static),
            "FDROUTER_MEDIA_ROOT": str(layout.media),
            **self._overrides,
        }

    def node_environment(self, node: Node) -> dict[str, str]:
        return self._common(node.id) | {
            "FDROUTER_ROLE": "node",
            "DATABASE_URL": self.database_url(node_database(node)),
            "FDROUTER_BASE_URL": f"https://localhost:{node.port}",
            "FDROUTER_NODE_ID": node.id,
            "FDROUTER_HOSPITAL_ID": node.id,
            "FDROUTER_WRITE_TOGETHER": "True",
            "FDROUTER_ENGINE_URL": self.engine_url,
            "FDROUTER_MODEL_DIR": str(self.layout.model),
            "FDROUTER_DATA_PATH": str(self.layout.records(node)),
            # The engine has the cores; a node only tokenises.
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            **self._overrides,
        }

    def _common(self, owner: str) -> dict[str, str]:
        layout = self.layout
        return plain_environment() | {
            "DJANGO_SETTINGS_MODULE": "fdrouter.settings",
            "FDROUTER_SECRET_KEY_FILE": str(layout.secret(owner, "secret_key")),
            "FDROUTER_DATA_KEY_FILE": str(layout.secret(owner, "data_key")),
            "FDROUTER_IDENTITY_DIR": str(layout.identity(owner)),
            "FDROUTER_ENGINE_MODEL": MODEL_NAME,
        }

    # --- parts -------------------------------------------------------------------------------------------------

    def engine(self) -> Part:
        from federation.engine import serve

        layout = self.layout
        return Part(
            name="engine",
            title="model engine (vLLM)",
            command=tuple(serve.command(layout.model, MODEL_NAME, "127.0.0.1", layout.engine_port)),
            env=serve.environment(plain_environment()),
            log=layout.log("engine"),
            probe=probes.http_ok(layout.engine_port),
            cwd=PROJECT,
            timeout=ENGINE_START_SECONDS,
            grace=5.0,
        )

    def coordinator(self) -> Part:
        port = self.layout.coordinator_port
        command = [sys.executable, "-m", "uvicorn", "fdrouter.asgi:application", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
        command += ["--timeout-graceful-shutdown", "3"]
        return self._part(
            "coordinator", "coordinator", command, self.coordinator_environment(), probe=probes.http_ok(port)
        )

    def node(self, node: Node) -> Part:
        identity = self.layout.identity(node.id)
        command = [sys.executable, "-m", "uvicorn", "federation.node.asgi:application", "--host", "127.0.0.1"]
        command += ["--port", str(node.port), "--loop", "uvloop", "--http", "httptools", "--no-access-log"]
        command += ["--ssl-keyfile", str(identity / "key.pem"), "--ssl-certfile", str(identity / "cert.pem")]
        command += ["--ssl-ca-certs", str(identity / "ca.pem"), "--ssl-cert-reqs", "2"]
        command += ["--timeout-graceful-shutdown", "3"]
        probe = probes.mutual_tls_ok(node.port, self.layout.identity(COORDINATOR))
        return self._part(node_part(node), f"node of {node.name}", command, self.node_environment(node), probe=probe)

    def dispatch_worker(self) -> Part:
        options = ["-Q", "dispatch", "-P", "solo", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        return self._celery("worker-dispatch", "dispatch worker", ["worker", "-n", "dispatch@%h", *options], " ready.")

    def default_worker(self) -> Part:
        options = ["-Q", "default,reports", "-P", "prefork", "-c", "1", "--max-tasks-per-child", "50"]
        options += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        return self._celery("worker-default", "report worker", ["worker", "-n", "default@%h", *options], " ready.")

    def beat(self) -> Part:
        schedule = self.layout.run / "celerybeat-schedule"
        options = ["beat", "-s", str(schedule), "--pidfile", ""]
        return self._celery("beat", "scheduler (Celery beat)", options, "beat: Starting")

    def _celery(self, name: str, title: str, options: list[str], ready: str) -> Part:
        # Without a level of its own Celery would quieten the root logger to warnings.
        command = [sys.executable, "-m", "celery", "-A", "fdrouter", *options, "--loglevel", "INFO"]
        probe = probes.log_says(self.layout.log(name), ready)
        return self._part(name, title, command, self.coordinator_environment(), probe=probe)

    def _part(self, name: str, title: str, command: list[str], env: dict[str, str], *, probe: probes.Probe) -> Part:
        return Part(
            name=name,
            title=title,
            command=tuple(command),
            env=env,
            log=self.layout.log(name),
            probe=probe,
            cwd=PROJECT,
            timeout=START_SECONDS,
        )

    # --- one-off commands --------------------------------------------------------------------------------------

    def job(
        self, name: str, title: str, command: list[str], env: dict[str, str], *, output: Path | None = None
    ) -> Part:
        """A command that ends by itself; see :meth:`fdrouter.demo.processes.Fleet.run`."""
        return Part(
            name=name,
            title=title,
            command=(sys.executable, *command),
            env=env,
            log=self.layout.log(name),
            probe=lambda: True,
            cwd=PROJECT,
            grace=3.0,
            output=output,
        )


def node_database(node: Node) -> str:
    return f"node_{node.id}"


def node_part(node: Node) -> str:
    return f"node-{node.id}"


def plain_environment() -> dict[str, str]:
    """The caller's environment without anything that would steer our own processes."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    path = [str(Path(sys.executable).parent), kept.get("PATH", os.defpath)]
    return kept | {"PYTHONUNBUFFERED": "1", "PATH": os.pathsep.join(path)}
