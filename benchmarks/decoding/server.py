"""An engine of its own for the time of a run: the product's command, on a free port."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fdrouter.demo.ports import free_port
from federation.engine import serve
from federation.node.model import SERVED_NAME

STOP_SECONDS = 20.0


@contextmanager
def engine(model: Path, log: Path, options: Sequence[str] = ()) -> Iterator[str]:
    """Address of a running engine with ``options`` added to its command line; its output goes to ``log``.

    Raises:
        RuntimeError: it did not come up; the log's end is in the message.
    """
    port = free_port()
    command = [*serve.command(model, SERVED_NAME, port=port), *options]
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, env=serve.environment(), stdout=output, stderr=subprocess.STDOUT)
        try:
            _wait(process, f"http://127.0.0.1:{port}/health", log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], health: str, log: Path) -> None:
    print("starting the engine ...", file=sys.stderr, flush=True)
    deadline = time.monotonic() + serve.START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(health, timeout=2) as answer:  # noqa: S310 (our own loopback address)
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise RuntimeError(f"the engine did not start:\n{tail}")
