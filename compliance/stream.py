"""The log as a stream for a SIEM: every entry at least once, in order, from where the last run ended.

The cursor is an entry's place in the log's tree, not its number: a transaction that commits late has a low number and
a late place, so numbers could pass it by. The cursor moves only after a batch has been handed over.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from django.db import transaction
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from compliance.log.sequencing import size
from compliance.models import Event, Leaf
from compliance.siem import FORMATS, Entry
from fdrouter.errors import Conflict, InvalidParameter
from fdrouter.evidence import Event as Evidence
from fdrouter.evidence import record

log = logging.getLogger(__name__)

BATCH = 500
CONNECT_SECONDS = 5.0
DELIVER_SECONDS = 15.0
ATTEMPTS = 8
_POLL_SECONDS = 0.01


class CursorAhead(Conflict):
    """The cursor is of another log, or the log was restored from before it: nothing is sent until somebody looked."""

    default_message = "The cursor is ahead of the log. Was the log restored, or is the cursor another log's?"


class Sink(Protocol):
    """Where lines go. When ``send`` returns they are handed over; ``OSError``: perhaps not, send them again."""

    def send(self, lines: list[str]) -> None: ...

    def close(self) -> None: ...


# --- the cursor ---------------------------------------------------------------------------------------------------
class Cursor:
    """A file with the place of the last entry that was handed over. Replaced whole, so a crash leaves the old one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def following(self) -> int:
        """The place of the first entry that was not handed over.

        Raises:
            InvalidParameter: the file holds something else; to begin anew is a decision, so it is not made here.
        """
        try:
            return int(self._path.read_text(encoding="ascii")) + 1
        except FileNotFoundError:
            return 0
        except (ValueError, OSError):
            raise InvalidParameter("The cursor file cannot be read as a number.", field="cursor") from None

    def move(self, index: int) -> None:
        beside = self._path.with_name(f".{self._path.name}.new")
        with beside.open("w", encoding="ascii") as file:
            file.write(f"{index}\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)

    @contextmanager
    def held(self) -> Iterator[None]:
        """One stream a cursor.

        Raises:
            Conflict: another process has it.
        """
        with self._path.with_name(f".{self._path.name}.lock").open("w", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Conflict("Another process streams with this cursor.") from None
            yield


# --- sinks --------------------------------------------------------------------------------------------------------
class FileSink:
    """Appends to a file, and has it on disk before it returns. A line that a crash cut off is ended first."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b")
        if end := self._file.seek(0, os.SEEK_END):
            self._file.seek(end - 1)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")

    def send(self, lines: list[str]) -> None:
        self._file.write("".join(f"{line}\n" for line in lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class StdoutSink:
    """Standard output, flushed."""

    def send(self, lines: list[str]) -> None:
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()

    def close(self) -> None: ...


class UdpSink:
    """One datagram a line. Nobody says whether it arrived: gaps in the entries' places tell the receiver."""

    def __init__(self, host: str, port: int) -> None:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        self._socket = socket.socket(family, kind, proto)
        self._socket.connect(address)

    def send(self, lines: list[str]) -> None:
        for line in lines:
            self._socket.send(line.encode())

    def close(self) -> None:
        self._socket.close()


class TcpSink:
    """A line each, or for syslog a length and the message (RFC 6587). Waits until the peer's system has all of it."""

    def __init__(self, host: str, port: int, *, counted: bool) -> None:
        self._address, self._counted = (host, port), counted
        self._socket: socket.socket | None = None

    def send(self, lines: list[str]) -> None:
        connected = self._socket or self._connect()
        try:
            connected.sendall(b"".join(self._framed(line.encode()) for line in lines))
            _await_taken(connected)
        except OSError:
            self.close()
            raise

    def _connect(self) -> socket.socket:
        made = socket.create_connection(self._address, timeout=CONNECT_SECONDS)
        made.settimeout(DELIVER_SECONDS)
        self._socket = made
        return made

    def _framed(self, line: bytes) -> bytes:
        return b"%d %s" % (len(line), line) if self._counted else line + b"\n"

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _await_taken(connected: socket.socket) -> None:
    """Returns when nothing that was sent is unacknowledged.

    Raises:
        OSError: the peer closed the connection, or did not take it in time.
    """
    deadline = time.monotonic() + DELIVER_SECONDS
    while time.monotonic() < deadline:
        connected.settimeout(0)
        try:
            if connected.recv(4096) == b"":
                raise ConnectionResetError("the receiver closed the connection")
        except BlockingIOError:  # it says nothing: as it should
            pass
        finally:
            connected.settimeout(DELIVER_SECONDS)
        (left,) = struct.unpack("i", fcntl.ioctl(connected, termios.TIOCOUTQ, struct.pack("i", 0)))
        if left == 0:
            return
        time.sleep(_POLL_SECONDS)
    raise TimeoutError("the receiver did not take everything in time")


def sink_of(target: str, form: str) -> Sink:
    """The sink that ``stdout``, ``udp://host:port``, ``tcp://host:port`` or a path of a file names.

    Raises:
        InvalidParameter: it names none.
    """
    if target == "stdout":
        return StdoutSink()
    if "://" not in target:
        return FileSink(Path(target))
    parts = urlsplit(target)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if parts.scheme not in ("udp", "tcp") or not host or not port:
        raise InvalidParameter("Send to stdout, udp://host:port, tcp://host:port or a file.", field="to")
    return UdpSink(host, port) if parts.scheme == "udp" else TcpSink(host, port, counted=form == "syslog")


# --- the stream ---------------------------------------------------------------------------------------------------
def entries(start: int, limit: int) -> list[Entry]:
    """Entries from a place on, in the order of the tree."""
    places = dict(Leaf.objects.filter(index__gte=start).order_by("index").values_list("index", "event")[:limit])
    found = Event.objects.defer("sealed", "commitment").in_bulk(places.values())
    return [Entry(index, found[seq]) for index, seq in places.items()]


def run(
    sink: Sink,
    cursor: Cursor,
    form: str,
    *,
    target: str,
    batch: int = BATCH,
    attempts: int = ATTEMPTS,
    wait: Callable[[], bool] = lambda: False,
) -> int:
    """Hands over what is in the log; returns how many entries. ``wait`` is called when none is left: whether to go on.

    Raises:
        CursorAhead: see there.
        OSError: the receiver took nothing in any of the attempts; the cursor is where it was.
    """
    following, sent = cursor.following(), 0
    if following > size():
        raise CursorAhead
    with transaction.atomic():
        to = urlsplit(target).scheme or ("stdout" if target == "stdout" else "file")
        record(Evidence(kind="events.stream", details={"format": form, "to": to, "from": following}))
    retrying = Retrying(
        retry=retry_if_exception_type(OSError),
        wait=wait_exponential(multiplier=0.25, max=30),
        stop=stop_after_attempt(attempts),
        before_sleep=lambda state: log.warning("receiver not reached", extra={"attempt": state.attempt_number}),
        reraise=True,
    )
    while True:
        found = entries(following, batch)
        if found:
            retrying(sink.send, _lines(found, form))
            following, sent = found[-1].index + 1, sent + len(found)
            cursor.move(following - 1)
        elif not wait():
            return sent


def _lines(found: Iterable[Entry], form: str) -> list[str]:
    return [FORMATS[form](entry) for entry in found]
