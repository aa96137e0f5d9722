"""Health probes: quick questions with a yes or a no, which never raise."""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

PROBE_SECONDS = 2.0
Probe = Callable[[], bool]


def client_context(identity: Path) -> ssl.SSLContext:
    """TLS as the holder of ``identity`` (``ca.pem``, ``cert.pem``, ``key.pem``): trusts that authority alone.

    Raises:
        OSError: a file is missing or does not fit the others.
    """
    context = server_only_context(identity)
    context.load_cert_chain(identity / "cert.pem", identity / "key.pem")
    return context


def server_only_context(identity: Path) -> ssl.SSLContext:
    """TLS of a caller that trusts the same authority and shows no certificate."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=identity / "ca.pem")
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def status(host: str, port: int, path: str, context: ssl.SSLContext | None = None) -> int | None:
    """The HTTP status of a GET, or ``None`` when nobody answered."""
    connection = (
        http.client.HTTPSConnection(host, port, timeout=PROBE_SECONDS, context=context)
        if context
        else http.client.HTTPConnection(host, port, timeout=PROBE_SECONDS)
    )
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def not_ready(port: int, host: str = "127.0.0.1") -> str:
    """What the coordinator's ``/ready`` misses, in words; empty when it misses nothing."""
    connection = http.client.HTTPConnection(host, port, timeout=PROBE_SECONDS)
    try:
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        states = json.loads(answer.read()).get("checks", {})
    except (OSError, http.client.HTTPException, ValueError):
        return "it does not answer"
    finally:
        connection.close()
    if answer.status == HTTPStatus.OK:
        return ""
    return ", ".join(f"{name}: {state}" for name, state in states.items() if state != "ok") or f"status {answer.status}"


def http_ok(port: int, path: str = "/health", host: str = "127.0.0.1") -> Probe:
    return lambda: status(host, port, path) == HTTPStatus.OK


def mutual_tls_ok(port: int, identity: Path, path: str = "/health") -> Probe:
    """Asks as the coordinator does, with its certificate. The files may appear after the probe was made."""

    def probe() -> bool:
        try:
            return status("localhost", port, path, client_context(identity)) == HTTPStatus.OK
        except OSError:
            return False

    return probe


def log_says(log: Path, words: str) -> Probe:
    """For parts that listen nowhere: whether the log of this start holds ``words``."""

    def probe() -> bool:
        try:
            return words in log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False

    return probe
