"""Brings the network up, watches over it in the foreground, and takes it down again."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import msgspec
from rich.console import Console
from rich.table import Table

from fdrouter.demo import access, ports, stages
from fdrouter.demo.layout import Layout
from fdrouter.demo.plan import STAMPS, Plan
from fdrouter.demo.processes import Fleet, Part, PartFailed, sweep, tail
from fdrouter.demo.services import ServiceError
from fdrouter.demo.stack import Stack

LOCK = "lock"
WATCH_SECONDS = 0.5
MAX_RESTARTS = 3
GIGABYTE = 1e9
NEEDED_FIRST, NEEDED_AGAIN = 3.0, 0.5


class DemoError(Exception):
    """The demo cannot start; the message says why and what to do."""


class AlreadyRunning(DemoError):
    """Another supervisor holds this state folder."""


@contextmanager
def held(layout: Layout) -> Iterator[None]:
    """Holds the state folder; the kernel lets go of it however this process ends.

    Raises:
        AlreadyRunning: another supervisor holds it.
    """
    layout.run.mkdir(parents=True, exist_ok=True)
    with (layout.run / LOCK).open("a+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise AlreadyRunning(
                f"The demo is already running (process {holder}). Stop it with Ctrl-C in its terminal, "
                f"or with: kill {holder}"
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield


def preflight(layout: Layout, stack: Stack) -> None:
    """Checks what can be known before anything starts.

    Raises:
        DemoError: the disk is too full or ports are taken.
    """
    first = not (layout.state / STAMPS / "seed").exists()
    needed = NEEDED_FIRST if first else NEEDED_AGAIN
    free = shutil.disk_usage(layout.state).free / GIGABYTE
    if free < needed:
        raise DemoError(f"{needed:g} GB of free disk space are needed in {layout.state}; {free:.1f} GB are free.")
    wanted = dict(layout.ports)
    if not stack.embeds_engine:
        wanted.pop(layout.engine_port)
    if problems := ports.taken(wanted):
        raise DemoError("\n".join([*problems, "Stop what holds it, then start again."]))


def explain(error: BaseException | None) -> str:
    """What went wrong, for the person at the terminal."""
    if isinstance(error, PartFailed | ServiceError | DemoError):
        return str(error)
    if isinstance(error, OSError) and error.errno == 28:
        return "The disk is full."
    return f"{type(error).__name__}: {error}"


def up(layout: Layout, console: Console) -> int:
    """Runs the demo until a signal or a failure ends it; returns the exit status."""
    display = stages.Display(console)
    try:
        with held(layout):
            return _run(layout, display)
    except DemoError as error:
        display.say(f"\n{error}")
        return 1


def _run(layout: Layout, display: stages.Display) -> int:
    fleet = Fleet(layout.ledger)
    if left := sweep(fleet.ledger):
        display.say(f"Stopped what an earlier run left behind: {', '.join(left)}")
    stack = Stack(layout)
    preflight(layout, stack)
    asked = threading.Event()
    begun = time.monotonic()
    with _signals(asked, fleet):
        try:
            display.say("Starting fdrouter (the first start takes some minutes)")
            with display.shown():
                stages.run(Plan(stack, fleet).steps(), display, fleet.stopping)
            if not asked.is_set():
                announce(layout, display.console, time.monotonic() - begun)
                watch(fleet, display)
        except stages.StepFailed as error:
            if not asked.is_set():
                display.say(f"\n{error.step.title} failed.\n{explain(error.__cause__)}")
                return 1
        finally:
            fleet.stop_all(display.say)
    display.say("Stopped.")
    return 0


@contextmanager
def _signals(asked: threading.Event, fleet: Fleet) -> Iterator[None]:
    """Ctrl-C and SIGTERM ask for an orderly stop; while it goes on, further ones are ignored."""

    def stop(number: int, frame: FrameType | None) -> None:
        asked.set()
        fleet.stopping.set()

    former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def watch(fleet: Fleet, display: stages.Display) -> None:
    """Names every part that dies and starts it again, three times at most, until the fleet is asked to stop."""
    restarts: dict[str, int] = {}
    while not fleet.stopping.wait(WATCH_SECONDS):
        for part, ending in fleet.dead():
            display.say(f"\n{part.title} stopped ({ending}).\nLast lines of {part.log}:\n{tail(part.log)}")
            fleet.forget(part.name)
            restarts[part.name] = restarts.get(part.name, 0) + 1
            if restarts[part.name] > MAX_RESTARTS:
                display.say(f"{part.title} stays down; the rest goes on without it.")
            else:
                _restart(fleet, part, display)


def _restart(fleet: Fleet, part: Part, display: stages.Display) -> None:
    try:
        fleet.start(part)
        fleet.wait_healthy(part.name)
    except PartFailed as error:
        if not fleet.stopping.is_set():
            display.say(str(error))
    else:
        display.say(f"{part.title} is up again.")


def announce(layout: Layout, console: Console, seconds: float) -> None:
    """Prints the address and the accounts."""
    console.print(
        f"\n[bold green]fdrouter is up[/] after {seconds:.0f} s: [bold]{layout.base_url}[/]\n", highlight=False
    )
    try:
        known = access.read(layout.access)
    except (OSError, msgspec.MsgspecError):
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("sign in as", "password", "role", "department"):
        table.add_column(heading)
    for user in known.users:
        table.add_row(user.username, user.password, user.role.replace("_", " "), user.department or "")
    console.print(table)
    console.print(
        f"\nTokens for the API: {layout.access}    logs: {layout.logs}\n"
        "In another terminal: make demo-check    Stop with Ctrl-C\n",
        highlight=False,
        soft_wrap=True,
    )


def reset(layout: Layout, console: Console) -> int:
    """Deletes the state folder, after stopping what a killed supervisor left."""
    if not layout.state.exists():
        console.print("There is nothing to delete.")
        return 0
    try:
        with held(layout):
            sweep(layout.ledger)
            shutil.rmtree(layout.state)
    except AlreadyRunning as error:
        console.print(str(error), highlight=False)
        return 1
    console.print(f"Deleted {layout.state}", highlight=False)
    return 0
