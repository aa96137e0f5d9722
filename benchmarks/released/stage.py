"""Starts what a run needs: one hospital's records (once), a PostgreSQL for its node, and the engine."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from fdrouter.demo import ports, probes
from fdrouter.demo.processes import Fleet, Part
from fdrouter.demo.services import UNSAFE_FAST, Postgres
from federation import identity
from federation.engine import serve
from federation.node.model import SERVED_NAME, prepare_model

PROJECT = Path(__file__).resolve().parents[2]
CACHE = PROJECT / ".test" / "cache"
HOSPITAL = "northfield"
RECORDS = CACHE / "hospitals" / HOSPITAL
PATIENTS = 400  # at least, as in the demo


class Failed(Exception):
    """A step of the set-up did not work; the message ends with what it said."""


class Stage:
    """All processes of one run; what they write is in ``state``, records and model are kept in ``CACHE``.

    With ``FDROUTER_ENGINE_URL`` set that engine is used and none is started.
    """

    def __init__(self, state: Path) -> None:
        self.state = state
        self.fleet = Fleet(state / "processes.json")
        self.postgres = Postgres(state / "pg", state / "postgres.log", {**UNSAFE_FAST, "jit": "off"})
        self.engine_port = ports.free_port()
        self.model = Path()
        self.outside = os.environ.get("FDROUTER_ENGINE_URL")

    def start(self) -> None:
        """Records, database and engine; the first run simulates the records and converts the model (minutes)."""
        RECORDS.parent.mkdir(parents=True, exist_ok=True)
        self.model = Path(prepare_model(CACHE / "model"))
        self.python(
            *("manage.py", "make_demo_records", "--output", str(RECORDS)),
            *("--hospital", HOSPITAL, "--patients", str(PATIENTS)),
        )
        self.postgres.initialise()
        self._up(self.postgres.part())
        self.postgres.ensure_databases([HOSPITAL])
        identity.create_ca(self.state / "ca")
        identity.issue(self.state / "ca", self.state / HOSPITAL, HOSPITAL, server=True)
        self.python("manage.py", "migrate", "--verbosity", "0", "--skip-checks")
        if self.outside:
            return
        self._up(
            Part(
                name="engine",
                title="model engine (vLLM)",
                command=tuple(serve.command(self.model, SERVED_NAME, "127.0.0.1", self.engine_port)),
                env=serve.environment(),
                log=self.state / "engine.log",
                probe=probes.http_ok(self.engine_port),
                cwd=PROJECT,
                timeout=serve.START_SECONDS,
                grace=5.0,
            )
        )

    def stop(self) -> None:
        self.fleet.stop_all()

    @property
    def environment(self) -> Mapping[str, str]:
        """A node's."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": str(PROJECT),
            "DJANGO_SETTINGS_MODULE": "fdrouter.settings",
            "FDROUTER_ROLE": "node",
            "FDROUTER_NODE_ID": HOSPITAL,
            "FDROUTER_HOSPITAL_ID": HOSPITAL,
            "FDROUTER_SECRET_KEY": "bench",
            "FDROUTER_DATA_KEY": base64.b64encode(b"only for benches, never anywhere").decode(),
            "FDROUTER_IDENTITY_DIR": str(self.state / HOSPITAL),
            "FDROUTER_LOG_LEVEL": "WARNING",
            "FDROUTER_ENGINE_URL": self.outside or f"http://127.0.0.1:{self.engine_port}",
            "FDROUTER_ENGINE_MODEL": SERVED_NAME,
            "FDROUTER_MODEL_DIR": str(self.model),
            "DATABASE_URL": self.postgres.url(HOSPITAL),
        }

    def python(self, *arguments: str) -> None:
        """Runs Python as the node would.

        Raises:
            Failed: it did not end well.
        """
        found = subprocess.run(
            [sys.executable, *arguments], cwd=PROJECT, env=dict(self.environment), capture_output=True, text=True
        )
        if found.returncode:
            raise Failed(f"{' '.join(arguments)}\n{(found.stderr or found.stdout)[-3000:]}")

    def _up(self, part: Part) -> None:
        self.fleet.wait_healthy(self.fleet.start(part).part.name)
