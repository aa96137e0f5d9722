"""Free ports, and who holds the others."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import closing, suppress

import psutil


def free_port() -> int:
    """A loopback port nobody listens on now."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a server could listen on loopback ``port``."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def holder(port: int) -> str:
    """The process that listens on ``port``, in words; a general phrase where the system does not tell."""
    with suppress(psutil.Error):
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                with suppress(psutil.Error):
                    process = psutil.Process(connection.pid)
                    return f"{process.name()} (process {process.pid}, {' '.join(process.cmdline())[:80]})"
    return "another process" if os.geteuid() == 0 else "another process, perhaps of another account"


def taken(wanted: Mapping[int, str]) -> list[str]:
    """A sentence for every port of ``wanted`` (port: who needs it) that is not free."""
    return [
        f"Port {port}, which {who} needs, is taken by {holder(port)}."
        for port, who in sorted(wanted.items())
        if not is_free(port)
    ]
