"""A whole network for one test run: the parts of ``make demo`` in its own folder, on free ports, with a real engine.

One hospital by default, the small cut of the records, no report worker unless asked for. Parts can be killed and
started again by name (``coordinator``, ``worker-dispatch``, ``node-northfield``, ``engine``, ``postgres``, ``redis``);
nothing is restarted behind a test's back.
"""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import openai
import psycopg
from rich.console import Console

from fdrouter.demo import access, ports, stages
from fdrouter.demo.access import Access, User
from fdrouter.demo.layout import HOSPITALS, Layout, Node
from fdrouter.demo.plan import Plan
from fdrouter.demo.processes import Fleet, Part
from fdrouter.demo.stack import MODEL_NAME, Stack
from tests import embedded

CACHE = embedded.ROOT / "cache"
ANSWER_SECONDS = 120.0
END_SECONDS = 120.0
MODEL = MODEL_NAME


@dataclass
class Network:
    """A running network. Every method works on this network's own processes only."""

    layout: Layout
    stack: Stack
    fleet: Fleet
    _parts: dict[str, Part] = field(default_factory=dict)

    @property
    def base_url(self) -> str:
        return self.layout.base_url

    @cached_property
    def access(self) -> Access:
        return access.read(self.layout.access)

    def user(self, *roles: str) -> User:
        """The first demo person with one of the roles."""
        return self.access.user(*roles)

    def openai(self, user: User) -> openai.OpenAI:
        """The official client, as ``user``, without retries that would hide a failure. Close it after use."""
        url = f"{self.base_url}/v1"
        return openai.OpenAI(base_url=url, api_key=user.api_token, timeout=ANSWER_SECONDS, max_retries=0)

    def http(self, user: User | None = None) -> httpx.Client:
        """A plain client of the coordinator, with the token of ``user``. Close it after use."""
        headers = {"Authorization": f"Bearer {user.api_token}"} if user else {}
        return httpx.Client(base_url=self.base_url, headers=headers, timeout=ANSWER_SECONDS)

    def patient_in_care(self, user: User) -> str:
        """The reference of a patient in the care of the person's department."""
        care = json.loads((self.layout.run / f"care-{user.hospital}.json").read_text(encoding="utf-8"))
        return str(care["departments"][user.department][0]["reference"])

    @property
    def database_url(self) -> str:
        return self.stack.database_url("fdrouter")

    def execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """Rows of one statement on the coordinator's database."""
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            cursor = connection.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []

    def latest(self) -> str:
        """The id of the youngest request."""
        return str(self.execute("SELECT id FROM federation_inference ORDER BY created_at DESC LIMIT 1")[0][0])

    def reservation(self, request_id: str) -> str:
        """The state of what the coordinator reserved for a request."""
        return str(self.execute("SELECT state FROM privacy_reservation WHERE id = %s", (request_id,))[0][0])

    def ended(self, person: User, request_id: str) -> dict[str, Any]:
        """The request once it is over, read as its owner reads it."""
        deadline = time.monotonic() + END_SECONDS
        with self.http(person) as http:
            while time.monotonic() < deadline:
                answer = http.get(f"/api/inferences/{request_id}")
                if answer.status_code == 200 and answer.json()["state"] in ("done", "failed", "cancelled"):
                    found: dict[str, Any] = answer.json()
                    return found
                time.sleep(0.5)
        raise AssertionError("the request did not end")

    def kill(self, name: str) -> None:
        """SIGKILL to the part and everything it started."""
        self._parts[name] = self.fleet.running[name].part
        self.fleet.stop(name, kill=True)

    def stop(self, name: str) -> None:
        """An orderly stop."""
        self._parts[name] = self.fleet.running[name].part
        self.fleet.stop(name)

    def start(self, name: str) -> None:
        """Starts a part that was killed or stopped, and waits until it is healthy."""
        self.fleet.start(self._parts[name])
        self.fleet.wait_healthy(name)

    @contextmanager
    def without(self, name: str, *, kill: bool = True) -> Iterator[None]:
        """The part is down inside the block and up again after it."""
        (self.kill if kill else self.stop)(name)
        try:
            yield
        finally:
            self.start(name)

    @contextmanager
    def with_environment(self, name: str, **variables: str) -> Iterator[None]:
        """The part runs with these variables on top of its own inside the block."""
        self.stop(name)
        usual = self._parts[name]
        try:
            self._parts[name] = replace(usual, env={**usual.env, **variables})
            self.start(name)
            yield
        finally:
            if name in self.fleet.running:
                self.stop(name)
            self._parts[name] = usual
            self.start(name)


def layout(folder: Path, nodes: int = 1) -> Layout:
    chosen = tuple(Node(node.id, node.name, ports.free_port()) for node in HOSPITALS[:nodes])
    return Layout(
        folder,
        nodes=chosen,
        coordinator_port=ports.free_port(),
        engine_port=ports.free_port(),
        small=True,
        cache=CACHE,
    )


@contextmanager
def network(
    folder: Path,
    *,
    nodes: int = 1,
    reports: bool = False,
    engine: str | None = None,
    overrides: Mapping[str, str] | None = None,
) -> Iterator[Network]:
    """Starts a network in ``folder`` and stops it afterwards. ``engine``: an address to use in place of vLLM.

    Raises:
        AssertionError: a part did not come up; the message ends with the last lines of its log.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    place = layout(folder, nodes)
    stack = Stack(place, overrides=overrides, outside={"FDROUTER_ENGINE_URL": engine} if engine else {})
    fleet = Fleet(place.ledger)
    told = io.StringIO()
    try:
        try:
            stages.run(
                Plan(stack, fleet, reports=reports).steps(),
                stages.Display(Console(file=told)),
                fleet.stopping,
            )
        except stages.StepFailed as failure:
            raise AssertionError(f"{told.getvalue()}\n{failure.__cause__}") from failure
        yield Network(place, stack, fleet)
    finally:
        fleet.stop_all()
        shutil.rmtree(folder, ignore_errors=True)
