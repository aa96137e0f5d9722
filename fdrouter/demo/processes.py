"""Starts the parts of a stack, watches them, and stops exactly what it started.

Every part leads a session of its own, so a Ctrl-C in the terminal reaches the supervisor alone, and the whole of a
part (vLLM's engine core, Celery's pool) can be signalled by its group. Each start is written to a ledger file before
anything else happens; :func:`sweep` uses it after a supervisor was killed outright.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

POLL_SECONDS = 0.1
TAIL_LINES = 20
KILL_SECONDS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One long-running process, as data.

    ``probe`` answers whether it is healthy now; it must not raise and should return within two seconds.
    ``env`` is the whole environment. ``grace`` is how long it may take to stop, in seconds, before it is killed;
    parts of a higher ``tier`` are stopped before those of a lower one. ``user`` (root only) drops privileges.
    ``output`` takes the standard output, which otherwise goes to the log like the standard error.
    """

    name: str
    title: str
    command: tuple[str, ...]
    env: Mapping[str, str]
    log: Path
    probe: Callable[[], bool]
    cwd: Path
    timeout: float = 60.0
    grace: float = 10.0
    tier: int = 1
    stop_signal: signal.Signals = signal.SIGTERM
    user: str | None = None
    output: Path | None = None


class PartFailed(Exception):
    """A part did not come up, or died. The message names it and shows the last lines of its log."""

    def __init__(self, part: Part, reason: str) -> None:
        self.part = part
        super().__init__(f"{part.title} {reason}.\nLast lines of {part.log}:\n{tail(part.log)}")


def tail(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log, indented; empty files and missing files say so."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 64 * 1024))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return "    (no log)"
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:]) or "    (empty)"


def last_line(path: Path) -> str:
    """The last line with text in it; a progress bar's carriage returns count as line ends."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 4096))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1] if lines else ""


@dataclass(slots=True)
class Running:
    """A started part. ``born`` is the kernel's start time of it, which tells a reused process id from this one."""

    part: Part
    process: subprocess.Popen[bytes]
    born: int
    healthy: bool = False
    restarts: int = 0

    @property
    def pid(self) -> int:
        return self.process.pid


@dataclass
class Fleet:
    """The parts of one stack. Safe to use from several threads."""

    ledger: Path
    running: dict[str, Running] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def start(self, part: Part) -> Running:
        """Starts ``part`` without waiting for it. Its log begins anew; the former one is kept as ``NAME.log.1``."""
        part.log.parent.mkdir(parents=True, exist_ok=True)
        if part.log.exists():
            part.log.replace(part.log.with_name(part.log.name + ".1"))
        account = pwd.getpwnam(part.user) if part.user and os.geteuid() == 0 else None
        with self._lock:
            if self.stopping.is_set():
                raise PartFailed(part, "was not started, since the stack is stopping")
            with part.log.open("wb") as log, (part.output or Path(os.devnull)).open("wb") as output:
                process = subprocess.Popen(
                    part.command,
                    cwd=part.cwd,
                    env=dict(part.env),
                    stdin=subprocess.DEVNULL,
                    stdout=output if part.output else log,
                    stderr=log,
                    start_new_session=True,
                    user=account.pw_uid if account else None,
                    group=account.pw_gid if account else None,
                    extra_groups=[] if account else None,
                )
            started = Running(part, process, birth(process.pid) or 0)
            former = self.running.get(part.name)
            started.restarts = former.restarts + 1 if former else 0
            self.running[part.name] = started
            self._write_ledger()
        return started

    def wait_healthy(self, name: str) -> None:
        """Returns when the part answers its probe.

        Raises:
            PartFailed: it exited, or did not answer in time.
        """
        running = self.running[name]
        part, deadline = running.part, time.monotonic() + running.part.timeout
        while True:
            code = running.process.poll()
            if code is not None:
                raise PartFailed(part, f"stopped while starting ({_ending(code)})")
            if part.probe():
                running.healthy = True
                return
            if self.stopping.is_set():
                raise PartFailed(part, "was still starting when the stack stopped")
            if time.monotonic() > deadline:
                raise PartFailed(part, f"did not become healthy within {part.timeout:.0f} seconds")
            time.sleep(POLL_SECONDS)

    def run(self, job: Part, tell: Callable[[str], None] = lambda line: None) -> None:
        """Runs a command that ends by itself, and passes its latest line on.

        Raises:
            PartFailed: it failed, or the stack stopped meanwhile.
        """
        running = self.start(job)
        shown = ""
        while (code := running.process.poll()) is None and not self.stopping.is_set():
            line = last_line(job.log)
            if line != shown:
                shown = line
                tell(line)
            time.sleep(POLL_SECONDS)
        if code is None:
            self.stop(job.name)
            raise PartFailed(job, "was stopped before it was done")
        self.forget(job.name)
        if code:
            raise PartFailed(job, f"failed ({_ending(code)})")

    def dead(self) -> list[tuple[Part, str]]:
        """Parts that ended although nobody asked them to, with how they ended."""
        with self._lock:
            if self.stopping.is_set():
                return []
            ended = [(running, running.process.poll()) for running in self.running.values()]
            return [(running.part, _ending(code)) for running, code in ended if code is not None]

    def forget(self, name: str) -> None:
        """Takes a dead part off the list, so that it is not reported again."""
        with self._lock:
            running = self.running.pop(name, None)
            if running is not None:
                _kill_session(running.pid, running.born)
                self._write_ledger()

    def stop(self, name: str, *, kill: bool = False) -> None:
        """Stops one part and waits for its end."""
        with self._lock:
            running = self.running.pop(name, None)
        if running is not None:
            _end([running], kill)
            with self._lock:
                self._write_ledger()

    def stop_all(self, say: Callable[[str], None] = lambda line: None) -> None:
        """Stops every part, the databases last. Repeating it, or calling it while it runs, does no harm."""
        self.stopping.set()
        with self._lock:
            running = list(self.running.values())
            for tier in sorted({item.part.tier for item in running}, reverse=True):
                group = [item for item in running if item.part.tier == tier]
                say("Stopping " + ", ".join(item.part.title for item in group))
                _end(group)
            self.running.clear()
            self.ledger.unlink(missing_ok=True)

    def _write_ledger(self) -> None:
        entries = [{"name": item.part.name, "pid": item.pid, "born": item.born} for item in self.running.values()]
        self.ledger.parent.mkdir(parents=True, exist_ok=True)
        partial = self.ledger.with_suffix(".partial")
        partial.write_text(json.dumps({"boot": _boot(), "parts": entries}), encoding="utf-8")
        partial.replace(self.ledger)


def birth(pid: int) -> int | None:
    """When a process started, in clock ticks since the machine did; ``None`` when there is no such process.

    Read from the kernel, since psutil's wall-clock figure moves when the clock is set.
    """
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return int(line.rpartition(")")[2].split()[19])


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _ending(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    with suppress(ValueError):
        return f"signal {signal.Signals(-code).name}"
    return f"signal {-code}"


def _end(group: Iterable[Running], kill: bool = False) -> None:
    """Signals the whole group at once, then waits for each, then kills what is left of their sessions."""
    group = list(group)
    for running in group:
        _signal_group(running.pid, signal.SIGKILL if kill else running.part.stop_signal)
    begun = time.monotonic()
    for running in group:
        left = max(0.1, begun + running.part.grace - time.monotonic())
        with suppress(subprocess.TimeoutExpired):
            running.process.wait(left)
        _kill_session(running.pid, running.born)
        running.process.wait()


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, number)


def _session(leader: int, born: int) -> Iterator[psutil.Process]:
    """The processes of the session that ``leader`` led, started no earlier than it."""
    for pid in psutil.pids():
        with suppress(psutil.Error, ProcessLookupError, PermissionError):
            if os.getsid(pid) == leader and (birth(pid) or 0) >= born:
                yield psutil.Process(pid)


def _kill_session(leader: int, born: int) -> None:
    left = list(_session(leader, born))
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=KILL_SECONDS)  # A signal takes a moment to act.


# --- what a killed supervisor left behind ----------------------------------------------------------------------


def leftovers(ledger: Path) -> list[psutil.Process]:
    """Processes that an earlier supervisor started and did not stop.

    A process counts when its id and start time are those of the ledger, or when it belongs to the session which that
    very process led (the kernel does not reuse an id while it names a session). An id that now belongs to somebody
    else is never touched, and neither is anything after a reboot.
    """
    try:
        ledger_text = json.loads(ledger.read_text(encoding="utf-8"))
        if ledger_text["boot"] != _boot():
            return []
        entries = [(int(entry["pid"]), int(entry["born"])) for entry in ledger_text["parts"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    found: dict[int, psutil.Process] = {}
    for pid, born in entries:
        if birth(pid) in (None, born):
            found |= {process.pid: process for process in _session(pid, born)}
    return list(found.values())


def sweep(ledger: Path, grace: float = 10.0) -> list[str]:
    """Stops left-over processes and returns a description of each."""
    left = leftovers(ledger)
    described = []
    for process in left:
        with suppress(psutil.Error):
            described.append(f"{process.name()} ({process.pid})")
            process.send_signal(signal.SIGINT if process.name() == "postgres" else signal.SIGTERM)
    _, alive = psutil.wait_procs(left, timeout=grace)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=5)
    ledger.unlink(missing_ok=True)
    return described
