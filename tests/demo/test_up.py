"""What stops the demo before it starts, and the order of its steps."""

from __future__ import annotations

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from fdrouter.demo import ports, stages, up
from fdrouter.demo.access import Access, User
from fdrouter.demo.fingerprints import Stamp
from fdrouter.demo.layout import Layout, Node
from fdrouter.demo.plan import Plan
from fdrouter.demo.processes import Fleet
from fdrouter.demo.services import Postgres
from fdrouter.demo.stack import Stack
from fdrouter.demo.stages import Display, Step, StepFailed
from tests import embedded

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder for PostgreSQL, whose account must be let pass through everything above.

    Not under pytest's own folder: each pytest that starts on this machine closes that one to other accounts.
    """
    folder = embedded.ROOT / str(os.getpid()) / "demo"
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder)


def layout(state: Path) -> Layout:
    state.mkdir(exist_ok=True)
    free = [ports.free_port() for _ in range(3)]
    return Layout(state, nodes=(Node("north", "North", free[0]),), coordinator_port=free[1], engine_port=free[2])


def outcome(place: Layout) -> tuple[int, str]:
    written = io.StringIO()
    status = up.up(place, Console(file=written, width=200))
    return status, written.getvalue()


def test_a_taken_port_is_named_with_its_holder(tmp_path: Path) -> None:
    place = layout(tmp_path)
    with socket.create_server(("127.0.0.1", place.coordinator_port)):
        status, text = outcome(place)
    assert status == 1
    assert f"Port {place.coordinator_port}, which the coordinator needs, is taken by" in text
    assert f"process {os.getpid()}" in text


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12 - 10**8, 10**8))
    status, text = outcome(layout(tmp_path))
    assert status == 1
    assert "GB of free disk space are needed" in text


def test_a_second_demo_says_that_one_is_running(tmp_path: Path) -> None:
    place = layout(tmp_path)
    with up.held(place):
        status, text = outcome(place)
    assert status == 1
    assert f"already running (process {os.getpid()})" in text


def test_reset_deletes_the_state_but_not_under_a_running_demo(tmp_path: Path) -> None:
    place = layout(tmp_path / "state")
    console = Console(file=io.StringIO())
    with up.held(place):
        assert up.reset(place, console) == 1
        assert place.state.exists()
    assert up.reset(place, console) == 0
    assert not place.state.exists()


RUNNER = """
import sys
from pathlib import Path
from rich.console import Console
from fdrouter.demo import plan, ports, stages, up
from fdrouter.demo.layout import Layout
from fdrouter.demo.processes import Fleet

def steps(self):
    return [stages.Step("databases", "servers", self._databases)]

plan.Plan.steps = steps
free = [ports.free_port() for _ in range(2)]
sys.exit(up.up(Layout(Path(sys.argv[1]), nodes=(), coordinator_port=free[0], engine_port=free[1]), Console()))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything_it_started(home: Path, number: signal.Signals) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
    runner = subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(home)], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert runner.stdout is not None
        for line in runner.stdout:
            if "is up" in line:
                break
        servers = Fleet(Layout(home).ledger)
        assert servers.ledger.exists()
        runner.send_signal(number)
        rest = runner.stdout.read()
        assert runner.wait(20) == 0, rest
        assert "Stopped." in rest
        assert not servers.ledger.exists()
        assert not list((home / "pg").glob("postmaster.pid"))
    finally:
        runner.kill()
        runner.wait()
        runner.communicate()


def test_postgres_comes_back_after_being_killed(home: Path) -> None:
    server = Postgres(home / "pg", home / "pg.log", {})
    fleet = Fleet(home / "ledger.json")
    server.initialise()
    try:
        fleet.start(server.part())
        fleet.wait_healthy("postgres")
        server.ensure_databases(["kept"])
        fleet.stop("postgres", kill=True)
        server.initialise()
        fleet.start(server.part())
        fleet.wait_healthy("postgres")
        server.ensure_databases(["kept"])
        import psycopg

        with psycopg.connect(server.url("kept")) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        fleet.stop_all()


# --- steps ---------------------------------------------------------------------------------------------------------


def display() -> Display:
    return Display(Console(file=io.StringIO()))


def step(name: str, log: list[str], *after: str, action: Callable[[], None] = lambda: None) -> Step:
    def run(tell: Callable[[str], None]) -> str:
        action()
        log.append(name)
        return ""

    return Step(name, name, run, after)


def test_steps_wait_for_those_they_name(tmp_path: Path) -> None:
    log: list[str] = []
    steps = [step("c", log, "a", "b"), step("b", log, "a"), step("a", log, action=lambda: time.sleep(0.1))]
    stages.run(steps, display(), threading.Event())
    assert log == ["a", "b", "c"]


def test_independent_steps_run_together() -> None:
    log: list[str] = []
    meeting = threading.Barrier(2, timeout=5)

    def meet() -> None:
        meeting.wait()

    stages.run([step("a", log, action=meet), step("b", log, action=meet)], display(), threading.Event())
    assert sorted(log) == ["a", "b"]


def test_a_failure_stops_what_has_not_begun() -> None:
    log: list[str] = []

    def fail() -> None:
        raise OSError(28, "No space left on device")

    stop = threading.Event()
    with pytest.raises(StepFailed) as failure:
        stages.run([step("a", log, action=fail), step("b", log, "a")], display(), stop)
    assert failure.value.step.name == "a"
    assert up.explain(failure.value.__cause__) == "The disk is full."
    assert log == []
    assert stop.is_set()


@pytest.mark.parametrize("after", ["b", "nobody"])
def test_steps_that_could_never_begin_are_refused(after: str) -> None:
    log: list[str] = []
    with pytest.raises(ValueError, match="wait for each other"):
        stages.run([step("a", log, after), step("b", log, "a")], display(), threading.Event())


def test_the_plan_of_the_demo_can_be_run_in_order(tmp_path: Path) -> None:
    steps = Plan(Stack(Layout(tmp_path), outside={}), Fleet(tmp_path / "ledger.json")).steps()
    seen: set[str] = set()
    for one in steps:
        assert seen.issuperset(one.after), one.name
        seen.add(one.name)
    assert {"start-engine", "start-coordinator", "start-node-hillcrest", "start-beat"} <= seen


def test_servers_from_outside_replace_the_embedded_ones(tmp_path: Path) -> None:
    outside = {
        "DATABASE_URL": "postgresql://someone:secret@db.test:5433/main?sslmode=require",
        "REDIS_URL": "redis://cache.test:6379/1",
        "FDROUTER_ENGINE_URL": "http://gpu.test:8000",
    }
    stack = Stack(Layout(tmp_path), outside=outside)
    assert stack.postgres is None
    assert stack.redis is None
    assert not stack.embeds_engine
    assert stack.database_url("node_x") == "postgresql://someone:secret@db.test:5433/node_x?sslmode=require"
    assert stack.coordinator_environment()["REDIS_URL"] == outside["REDIS_URL"]
    assert stack.node_environment(Node("x", "X", 1))["FDROUTER_ENGINE_URL"] == outside["FDROUTER_ENGINE_URL"]


def test_secrets_are_for_their_owner_only(tmp_path: Path) -> None:
    stack = Stack(Layout(tmp_path), outside={})
    stack.make_secrets()
    files = [file for file in (tmp_path / "secrets").rglob("*") if file.is_file()]
    assert len(files) == 8
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    contents = {file: file.read_text() for file in files}
    stack.make_secrets()
    assert contents == {file: file.read_text() for file in files}


def test_a_stamp_counts_for_its_own_inputs_only(tmp_path: Path) -> None:
    Stamp(tmp_path, "step", "one").set()
    assert Stamp(tmp_path, "step", "one").current
    assert not Stamp(tmp_path, "step", "two").current
    assert not Stamp(tmp_path, "other", "one").current


def test_access_finds_people_by_role() -> None:
    users = [User("a", "p", "t", "nurse", "general"), User("b", "p", "t", "attending", "cardiology")]
    known = Access("http://localhost", users, [])
    assert known.user("auditor", "attending").username == "b"
    with pytest.raises(LookupError, match="auditor"):
        known.user("auditor")
