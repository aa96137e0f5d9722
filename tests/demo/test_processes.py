"""Starting, watching, stopping and sweeping of processes, with real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from fdrouter.demo import processes
from fdrouter.demo.processes import Fleet, Part, PartFailed

SLEEPER = "import time; print('up', flush=True); time.sleep(600)"
# Starts a child in its own session and ignores the polite signal, as a stuck server would.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
print(child.pid, flush=True)
time.sleep(600)
"""


def part(folder: Path, code: str, *, name: str = "part", timeout: float = 10.0, **more: object) -> Part:
    log = folder / f"{name}.log"
    return Part(
        name=name,
        title=f"the {name}",
        command=(sys.executable, "-c", code),
        env=dict(os.environ),
        log=log,
        probe=lambda: bool(processes.last_line(log)),
        cwd=folder,
        timeout=timeout,
        **more,  # type: ignore[arg-type]
    )


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "ledger.json")


def test_a_part_starts_and_stops(fleet: Fleet, tmp_path: Path) -> None:
    running = fleet.start(part(tmp_path, SLEEPER))
    fleet.wait_healthy("part")
    assert psutil.pid_exists(running.pid)
    fleet.stop_all()
    assert not psutil.pid_exists(running.pid)
    assert not fleet.ledger.exists()


def test_stopping_reaches_the_children_of_a_stubborn_part(fleet: Fleet, tmp_path: Path) -> None:
    fleet.start(part(tmp_path, STUBBORN, grace=0.3))
    fleet.wait_healthy("part")
    child = int(processes.last_line(tmp_path / "part.log"))
    fleet.stop_all()
    assert processes.birth(child) is None or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_a_stranger_is_left_alone(fleet: Fleet, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.DEVNULL) as stranger:
        try:
            fleet.start(part(tmp_path, SLEEPER))
            fleet.stop_all()
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_a_part_that_fails_to_start_is_named_with_the_end_of_its_log(fleet: Fleet, tmp_path: Path) -> None:
    code = "import sys; [print(f'line {n}') for n in range(50)]; sys.exit(3)"
    fleet.start(replace(part(tmp_path, code), probe=lambda: False))
    with pytest.raises(PartFailed) as failure:
        fleet.wait_healthy("part")
    message = str(failure.value)
    assert "the part stopped while starting (exit status 3)" in message
    assert "line 49" in message
    assert "line 30" in message
    assert "line 29" not in message


def test_a_part_that_never_answers_is_named(fleet: Fleet, tmp_path: Path) -> None:
    fleet.start(part(tmp_path, "import time; time.sleep(600)", timeout=0.4))
    with pytest.raises(PartFailed, match="did not become healthy"):
        fleet.wait_healthy("part")
    fleet.stop_all()


def test_a_death_is_noticed_and_the_part_can_be_started_again(fleet: Fleet, tmp_path: Path) -> None:
    running = fleet.start(part(tmp_path, SLEEPER))
    fleet.wait_healthy("part")
    running.process.kill()
    running.process.wait()
    ((dead, ending),) = fleet.dead()
    assert (dead.name, ending) == ("part", "signal SIGKILL")
    fleet.forget("part")
    assert fleet.dead() == []
    fleet.start(dead)
    fleet.wait_healthy("part")
    assert (tmp_path / "part.log.1").exists()
    fleet.stop_all()


def test_a_job_that_fails_is_named(fleet: Fleet, tmp_path: Path) -> None:
    with pytest.raises(PartFailed, match=r"the part failed \(exit status 2\)"):
        fleet.run(part(tmp_path, "import sys; sys.exit(2)"))


def test_a_job_tells_its_latest_line(fleet: Fleet, tmp_path: Path) -> None:
    told: list[str] = []
    fleet.run(part(tmp_path, "import time; print('half way', flush=True); time.sleep(.5)"), told.append)
    assert "half way" in told


def test_stopping_ends_a_running_job(fleet: Fleet, tmp_path: Path) -> None:
    threading.Timer(0.3, fleet.stopping.set).start()
    begun = time.monotonic()
    with pytest.raises(PartFailed, match="was stopped before it was done"):
        fleet.run(part(tmp_path, SLEEPER))
    assert time.monotonic() - begun < 5
    assert fleet.running == {}


SUPERVISOR = """
import os, signal, sys
from pathlib import Path
from fdrouter.demo.processes import Fleet, Part
folder = Path(sys.argv[1])
fleet = Fleet(folder / "ledger.json")
for name in ("one", "two"):
    log = folder / f"{name}.log"
    fleet.start(Part(name=name, title=name, command=(sys.executable, "-c", sys.argv[2]), env=dict(os.environ), log=log,
                     probe=lambda: True, cwd=folder))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_supervisor_left_is_swept(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", SUPERVISOR, str(tmp_path), STUBBORN], check=False)
    ledger = tmp_path / "ledger.json"
    pids = [entry["pid"] for entry in json.loads(ledger.read_text())["parts"]]
    deadline = time.monotonic() + 10
    while len(processes.leftovers(ledger)) < 4 and time.monotonic() < deadline:  # two leaders and their children
        time.sleep(0.05)
    assert len(processes.sweep(ledger, grace=0.3)) == 4
    assert not [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]
    assert not ledger.exists()


@pytest.mark.parametrize("change", ["born", "boot"])
def test_a_reused_process_id_is_not_touched(tmp_path: Path, change: str) -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEPER], stdout=subprocess.DEVNULL, start_new_session=True) as other:
        try:
            born = processes.birth(other.pid)
            assert born is not None
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            ledger = tmp_path / "ledger.json"
            entry = {"name": "part", "pid": other.pid, "born": born - 1 if change == "born" else born}
            ledger.write_text(json.dumps({"boot": "another" if change == "boot" else boot, "parts": [entry]}))
            assert processes.sweep(ledger) == []
            assert other.poll() is None
        finally:
            other.kill()


def test_a_damaged_ledger_sweeps_nothing(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.json"
    ledger.write_text("{")
    assert processes.sweep(ledger) == []
