"""The stream: in order, at least once, from where it ended, whatever is killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection

from compliance import log, stream
from compliance.models import Event, Leaf
from fdrouter.errors import InvalidParameter
from fdrouter.evidence import Event as Evidence
from fdrouter.evidence import record

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def filled(db: None) -> int:
    """Some entries with places in the tree; the number of them."""
    return fill(25)


def fill(count: int) -> int:
    record(*(Evidence(kind="policy.decision", outcome="allowed", actor_id=n) for n in range(count)))
    log.sequence()
    return Leaf.objects.count()


@pytest.fixture
def cursor(tmp_path: Path) -> Path:
    return tmp_path / "cursor"


def once(to: str, cursor: Path, form: str = "ocsf", **more: Any) -> None:
    call_command("stream_events", format=form, to=to, cursor=cursor, once=True, **more)


def places(lines: list[str]) -> list[int]:
    """Each line's place in the tree."""
    return [json.loads(line)["metadata"]["sequence"] for line in lines]


def test_everything_once_in_order_and_then_what_is_new(filled: int, cursor: Path, tmp_path: Path) -> None:
    out = tmp_path / "siem.log"
    once(str(out), cursor, batch=7)
    assert places(out.read_text().splitlines()) == list(range(filled))
    assert cursor.read_text() == f"{filled - 1}\n"
    total = fill(3)
    once(str(out), cursor)
    assert places(out.read_text().splitlines()) == list(range(total))


def test_each_start_is_on_record(filled: int, cursor: Path, tmp_path: Path) -> None:
    once(str(tmp_path / "out"), cursor)
    last = Event.objects.latest("seq")
    assert (last.kind, last.details) == ("events.stream", {"format": "ocsf", "to": "file", "from": 0})


def test_a_late_commit_with_a_low_number_is_not_passed_by(filled: int, cursor: Path, tmp_path: Path) -> None:
    """Numbers are given before a transaction commits, so the cursor must not be one."""
    out = tmp_path / "out"
    last = Event.objects.latest("seq")
    with connection.cursor() as sql:
        sql.execute("SELECT nextval(pg_get_serial_sequence('compliance_event', 'seq'))")
        (early,) = sql.fetchone()
    fill(2)
    once(str(out), cursor)
    assert early > last.seq
    Event.objects.create(seq=early, kind="late.commit", outcome="ok")
    log.sequence()
    once(str(out), cursor)
    assert [json.loads(line)["message"] for line in out.read_text().splitlines()].count("late.commit") == 1
    assert places(out.read_text().splitlines()) == list(range(Leaf.objects.count()))


def test_a_cursor_of_another_log_stops_everything(filled: int, cursor: Path, tmp_path: Path) -> None:
    cursor.write_text(f"{filled}\n")
    with pytest.raises(CommandError, match="ahead of the log"):
        once(str(tmp_path / "out"), cursor)
    cursor.write_text("many\n")
    with pytest.raises(CommandError, match="cannot be read"):
        once(str(tmp_path / "out"), cursor)


def test_two_streams_do_not_share_a_cursor(filled: int, cursor: Path, tmp_path: Path) -> None:
    with stream.Cursor(cursor).held(), pytest.raises(CommandError, match="Another process"):
        once(str(tmp_path / "out"), cursor)


def test_a_line_that_a_crash_cut_off_does_not_spoil_the_next(filled: int, cursor: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text('{"half')
    once(str(out), cursor)
    assert places(out.read_text().splitlines()[1:]) == list(range(filled))


@pytest.mark.parametrize("target", ["tcp://", "http://siem:1", "tcp://siem:port", "udp://siem"])
def test_a_target_that_is_none_is_refused(target: str) -> None:
    with pytest.raises(InvalidParameter):
        stream.sink_of(target, "cef")


# --- receivers ----------------------------------------------------------------------------------------------------
class Receiver:
    """A TCP receiver that takes one connection; with ``late`` it refuses all for so many seconds first."""

    def __init__(self, late: float = 0.0) -> None:
        self.got = b""
        self._listening = socket.socket()
        self._listening.bind(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        if not late:
            self._listening.listen()
        self._thread = threading.Thread(target=self._serve, args=(late,), daemon=True)
        self._thread.start()

    def _serve(self, late: float) -> None:
        with suppress(OSError):
            if late:
                time.sleep(late)
                self._listening.listen()
            taken, _ = self._listening.accept()
            with taken:
                while part := taken.recv(65536):
                    self.got += part

    def end(self) -> None:
        self._thread.join(10)
        self._listening.close()


def test_tcp_takes_everything_and_a_connection_that_fails_is_tried_again(filled: int, cursor: Path) -> None:
    receiver = Receiver(late=1.0)
    once(f"tcp://127.0.0.1:{receiver.port}", cursor)
    receiver.end()
    found = places(receiver.got.decode().splitlines())
    assert sorted(set(found)) == list(range(filled))


def test_syslog_over_tcp_counts_its_octets(filled: int, cursor: Path) -> None:
    receiver = Receiver()
    once(f"tcp://127.0.0.1:{receiver.port}", cursor, form="syslog")
    receiver.end()
    left, messages = receiver.got, []
    while left:
        length, _, rest = left.partition(b" ")
        messages.append(rest[: int(length)])
        left = rest[int(length) :]
    assert len(messages) == filled
    assert all(message.startswith(b"<110>1 ") for message in messages)


def test_udp_is_a_datagram_a_line(filled: int, cursor: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        receiver.bind(("127.0.0.1", 0))
        once(f"udp://127.0.0.1:{receiver.getsockname()[1]}", cursor)
        receiver.settimeout(5)
        assert places([receiver.recv(65536).decode() for _ in range(filled)]) == list(range(filled))


def test_without_a_receiver_the_cursor_stays(filled: int, cursor: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sink = stream.sink_of(f"tcp://127.0.0.1:{port}", "cef")
    with pytest.raises(OSError, match="refused"):
        stream.run(sink, stream.Cursor(cursor), "cef", target=f"tcp://127.0.0.1:{port}", attempts=2)
    assert not cursor.exists()


# --- a killed process ---------------------------------------------------------------------------------------------
def _start(out: Path, cursor: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "manage.py"), "stream_events", "--format", "ocsf", "--to", str(out)]
    command += ["--cursor", str(cursor), "--batch", "5", *more]
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "fdrouter.settings"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)


def _until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.002)


@pytest.mark.django_db(transaction=True)
def test_killed_in_the_middle_and_started_again_nothing_is_lost(tmp_path: Path) -> None:
    out, cursor = tmp_path / "siem.log", tmp_path / "cursor"
    fill(3000)
    for _ in range(2):
        before = out.stat().st_size if out.exists() else 0
        process = _start(out, cursor, "--interval", "0.05")
        _until(lambda before=before: out.exists() and out.stat().st_size > before)  # type: ignore[misc]
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        assert int(cursor.read_text() or -1) < 2999 if cursor.exists() else True, "killed too late to show anything"
    fill(10)
    process = _start(out, cursor, "--once")
    assert process.wait(120) == 0
    lines = out.read_text().splitlines()
    found = places([line for line in lines if line.endswith("}")])
    assert set(found) == set(range(3010)) | {place for place in found if place >= 3010}
    assert len(found) - len(set(found)) <= 2 * 5, "at most the batch under way is sent twice"
