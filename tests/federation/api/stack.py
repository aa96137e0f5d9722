"""A coordinator and its worker as processes of their own, over a database of their own, for the tests of interfaces.

Nodes are plain OpenAI-compatible engines (one foreign engine with many models, see ``backend``), so only the kind
``general`` is answered here; the flow tests have nodes over mutual TLS. The stack has a Redis of its own, since tests
stop it.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString, TypeVar
from urllib.parse import urlsplit, urlunsplit

import httpx
import openai
import psycopg
from django.core.management import call_command
from django.db import connection
from django.test import Client
from django.utils import timezone
from psycopg import sql

from accounts import principals
from accounts.models import CLINICAL_ROLES, Hospital, Membership, Role, User
from fdrouter.demo import ports, probes
from fdrouter.demo.processes import Fleet, Part
from fdrouter.demo.services import Redis
from federation.models import Inference, Node, Transport
from federation.states import TERMINAL
from privacy import quotas
from privacy.models import Reservation, ReservationState, Scope, Unit
from tests.accounts import people
from tests.federation.api.backend import BROKEN, MODELS, Backend

ROOT = Path(__file__).resolve().parents[3]
LEASE_SECONDS = 3.0
NODE_READ_SECONDS = 2.0
T = TypeVar("T")
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Person:
    """A person with a token of their own, and a department that nobody else is in."""

    user: User
    token: str
    scopes: quotas.QuotaScopes

    def used(self, unit: Unit = Unit.REQUESTS) -> int:
        """What their own quota has charged."""
        requests = unit == Unit.REQUESTS
        pk = self.scopes.user_requests if requests else self.scopes.user_epsilon
        return Scope.objects.get(pk=pk).used

    def exhaust(self, scope: str) -> None:
        """Uses up one quota, named as a field of :class:`privacy.quotas.QuotaScopes`."""
        row = Scope.objects.get(pk=getattr(self.scopes, scope))
        Scope.objects.filter(pk=row.pk).update(used=row.cap)


class Database:
    """A database beside pytest-django's, whose rows no other test sees or flushes: other processes need them committed.

    Inside :meth:`opened` Django's connection of this process leads to it.
    """

    def __init__(self) -> None:
        url = urlsplit(os.environ["DATABASE_URL"])
        self._name = f"{url.path.lstrip('/')}_interfaces"
        self.url = urlunsplit(url._replace(path=f"/{self._name}"))
        self._administration = urlunsplit(url._replace(path="/postgres"))

    def create(self) -> None:
        self.drop()
        self._execute("CREATE DATABASE {} TEMPLATE template0")
        with self.opened():
            call_command("migrate", verbosity=0, interactive=False)

    def drop(self) -> None:
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)")

    def _execute(self, statement: LiteralString) -> None:
        with psycopg.connect(self._administration, autocommit=True) as server:
            server.execute(sql.SQL(statement).format(sql.Identifier(self._name)))

    @contextmanager
    def opened(self) -> Iterator[None]:
        connection.close()
        former, connection.settings_dict["NAME"] = connection.settings_dict["NAME"], self._name
        try:
            yield
        finally:
            connection.close()
            connection.settings_dict["NAME"] = former

    def restart(self) -> None:
        """What a restart of the server means to its clients: every session ends at once."""
        with psycopg.connect(self._administration, autocommit=True) as server:
            server.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [self._name]
            )
        connection.close()


class Stack:
    """The running parts, and short ways to what tests need of them."""

    def __init__(self, folder: Path) -> None:
        self.backend = Backend()
        self.database = Database()
        self.port = ports.free_port()
        self.fleet = Fleet(folder / "processes.json")
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.redis = Redis(folder / "redis", folder / "redis.log", ports.free_port(), folder / "redis-secret")
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        self.database.create()
        self.redis.initialise()
        self.fleet.start(self.redis.part())
        self.fleet.wait_healthy("redis")
        for part in (self._coordinator(), self._worker()):
            self.fleet.start(part)
        for name in ("coordinator", "worker"):
            self.fleet.wait_healthy(name)

    def stop(self) -> None:
        self.fleet.stop_all()
        self.backend.close()
        self.database.drop()

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "DJANGO_SETTINGS_MODULE": "fdrouter.settings",
            "FDROUTER_ROLE": "coordinator",
            "DATABASE_URL": self.database.url,
            "REDIS_URL": self.redis.url,
            "FDROUTER_BASE_URL": self.url,
            "FDROUTER_LEASE_SECONDS": str(LEASE_SECONDS),
            "FDROUTER_NODE_READ_SECONDS": str(NODE_READ_SECONDS),
            "FDROUTER_NODE_CONNECT_SECONDS": "2",
        }

    def _part(self, name: str, command: list[str], probe: probes.Probe, **environment: str) -> Part:
        return Part(
            name=name,
            title=name,
            command=(sys.executable, "-m", *command),
            env=self._environment() | environment,
            log=self._folder / f"{name}.log",
            probe=probe,
            cwd=ROOT,
        )

    @contextmanager
    def pages(self) -> Iterator[str]:
        """Another coordinator that serves the static files as they lie: collecting them takes minutes. Its address."""
        port = ports.free_port()
        url = f"http://localhost:{port}"
        self.fleet.start(self._coordinator("pages", port, FDROUTER_DEBUG="True", FDROUTER_BASE_URL=url))
        try:
            self.fleet.wait_healthy("pages")
            yield url
        finally:
            self.fleet.stop("pages")

    def _coordinator(self, name: str = "coordinator", port: int = 0, **environment: str) -> Part:
        options = [
            "--host",
            "127.0.0.1",
            "--port",
            str(port or self.port),
            "--no-access-log",
            "--timeout-graceful-shutdown",
            "1",
        ]
        command = ["uvicorn", "fdrouter.asgi:application", "--loop", "uvloop", "--http", "httptools", *options]
        return self._part(name, command, probes.http_ok(port or self.port), **environment)

    def _worker(self) -> Part:
        options = ["-Q", "dispatch", "-P", "solo", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        command = ["celery", "-A", "fdrouter", "worker", "--loglevel", "INFO", *options]
        return self._part("worker", command, probes.log_says(self._folder / "worker.log", " ready."))

    def log_of(self, part: str) -> str:
        return (self._folder / f"{part}.log").read_text(encoding="utf-8", errors="replace")

    def ensure_network(self) -> None:
        """The nodes are there and the worker knows them."""
        if Node.objects.filter(pk="engine-steady").exists():
            return
        home = people.hospital("northfield")
        for model in MODELS:
            url = self.backend.url if model != "refusing" else f"http://127.0.0.1:{ports.free_port()}"
            # A node that failed five times in a row is left alone for a while: broken models have nodes to spare.
            for number in range(6 if model in BROKEN else 1):
                self._add_node(f"engine-{model}" + (f"-{number}" if number else ""), home, model, url)
        somebody = self.person()
        until(lambda: self.ask(somebody, "steady").status_code == 200, seconds=15)

    def _add_node(self, name: str, home: Hospital, model: str, url: str) -> None:
        Node.objects.create(
            id=name,
            hospital=home,
            name=f"Engine {model}",
            url=url,
            transport=Transport.OPENAI,
            served_models=[model],
            status={"healthy": True},
            last_seen_at=timezone.now(),
        )

    # --- people -------------------------------------------------------------------------------------------------

    def person(self, role: Role = Role.ATTENDING) -> Person:
        """Somebody new; without a password, since making one takes long."""
        number = next(_numbers)
        user = User.objects.create(username=f"person-{number}", first_name="Person", last_name=str(number))
        clinical = role in CLINICAL_ROLES
        department = people.department(f"ward-{number}") if clinical else None
        post = Membership.objects.create(
            user=user, role=role, hospital=people.hospital() if clinical else None, department=department
        )
        token = principals.issue_token(post, "test")
        return Person(user, token, quotas.scopes_for(principals.for_user(user.pk)))

    # --- calls --------------------------------------------------------------------------------------------------

    def http(self, person: Person | None, **options: Any) -> httpx.Client:
        headers = {"Authorization": f"Bearer {person.token}"} if person else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=options.pop("timeout", 30.0), **options)

    def openai(self, person: Person) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=person.token, max_retries=0, timeout=30.0)

    def ask(
        self,
        person: Person | None,
        model: str = "steady",
        *,
        privacy: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        **body: Any,
    ) -> httpx.Response:
        """One question over ``/v1``."""
        document = {"model": model, "messages": [{"role": "user", "content": "How does aspirin work?"}], **body}
        if privacy is not None:
            document["privacy"] = privacy
        with self.http(person) as client:
            return client.post("/v1/chat/completions", json=document, headers=headers)

    def api(self, person: Person | None, method: str, path: str, **options: Any) -> httpx.Response:
        """One call of ``/api/``."""
        with self.http(person) as client:
            return client.request(method, f"/api/{path}", **options)

    def cookie(self, user: User) -> str:
        """The session of a person who has signed in."""
        client = Client()
        client.force_login(user)
        return f"sessionid={client.cookies['sessionid'].value}"

    # --- rows ---------------------------------------------------------------------------------------------------

    def rows(self, person: Person) -> list[Inference]:
        return list(Inference.objects.filter(user=person.user).order_by("created_at"))

    def ended(self, person: Person) -> Inference:
        """The person's only request, once it has ended and its reservation is closed."""
        until(lambda: all(row.state in TERMINAL for row in self.rows(person)))
        (row,) = self.rows(person)
        assert Reservation.objects.get(pk=row.pk).state != ReservationState.RESERVED
        return row

    @contextmanager
    def without_redis(self) -> Iterator[None]:
        self.fleet.stop("redis", kill=True)
        try:
            yield
        finally:
            self.fleet.start(self.redis.part())
            self.fleet.wait_healthy("redis")


def until(found: Callable[[], T], seconds: float = 10.0) -> T:
    """What ``found`` gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < deadline, f"not within {seconds:g} seconds"
        time.sleep(0.05)
    return value
