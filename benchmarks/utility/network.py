"""Starts what a run needs: records (once), a PostgreSQL with a database for each hospital, and on demand the engine."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fdrouter.demo import ports, probes
from fdrouter.demo.processes import Fleet, Part
from fdrouter.demo.services import UNSAFE_FAST, Postgres
from federation import identity
from federation.engine import serve
from federation.node.model import SERVED_NAME, prepare_model

PROJECT = Path(__file__).resolve().parents[2]
CACHE = PROJECT / ".test" / "cache"
RECORDS = CACHE / "hospitals"
HOSPITALS = ("northfield", "lakeside", "hillcrest")
PATIENTS = 400  # at least, at each hospital, as in the demo

Json = dict[str, Any]


class Failed(Exception):
    """A step of the set-up did not work; the message ends with what it said."""


class Network:
    """All processes of one run; what they write is in ``state``, records and model are kept in ``CACHE``."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.fleet = Fleet(state / "processes.json")
        self.postgres = Postgres(state / "pg", state / "postgres.log", {**UNSAFE_FAST, "jit": "off"})
        self.engine_port = ports.free_port()

    @property
    def engine_url(self) -> str:
        return f"http://127.0.0.1:{self.engine_port}"

    def make_records(self) -> dict[str, Json]:
        """The manifests by hospital; the records are simulated unless they are there (minutes)."""
        RECORDS.mkdir(parents=True, exist_ok=True)
        self._python(
            self._environment(HOSPITALS[0]),
            *("manage.py", "make_demo_records", "--output", str(RECORDS)),
            *("--hospital", "all", "--patients", str(PATIENTS)),
        )
        return {name: json.loads((RECORDS / name / "manifest.json").read_text(encoding="utf-8")) for name in HOSPITALS}

    def start_database(self) -> None:
        self.postgres.initialise()
        self._up(self.postgres.part())
        self.postgres.ensure_databases(HOSPITALS)
        identity.create_ca(self.state / "ca")
        for name in HOSPITALS:
            identity.issue(self.state / "ca", self.state / name, name, server=True)

    def tallies(self, asked: Json) -> dict[str, Json]:
        """What each hospital's records hold about the questions; two hospitals at a time."""
        questions = self.state / "questions.json"
        questions.write_text(json.dumps(asked), encoding="utf-8")
        with ThreadPoolExecutor(max_workers=2) as pool:
            return dict(zip(HOSPITALS, pool.map(lambda name: self._tally(name, questions), HOSPITALS), strict=True))

    def _tally(self, name: str, questions: Path) -> Json:
        output, env = self.state / f"{name}.json", self._environment(name)
        self._python(env, "manage.py", "migrate", "--verbosity", "0", "--skip-checks")
        module = "benchmarks.utility.hospital"
        self._python(env, "-m", module, str(RECORDS / name), str(questions), str(output))
        found: Json = json.loads(output.read_text(encoding="utf-8"))
        return found

    def start_engine(self) -> Path:
        """Starts vLLM with the plug-in (half a minute) and returns the model's folder."""
        model = prepare_model(CACHE / "model")
        self._up(
            Part(
                name="engine",
                title="model engine (vLLM)",
                command=tuple(serve.command(model, SERVED_NAME, "127.0.0.1", self.engine_port)),
                env=serve.environment(),
                log=self.state / "engine.log",
                probe=probes.http_ok(self.engine_port),
                cwd=PROJECT,
                timeout=serve.START_SECONDS,
                grace=5.0,
            )
        )
        return Path(model)

    def stop(self) -> None:
        self.fleet.stop_all()

    def _environment(self, name: str) -> Mapping[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": str(PROJECT),
            "DJANGO_SETTINGS_MODULE": "fdrouter.settings",
            "FDROUTER_ROLE": "node",
            "FDROUTER_NODE_ID": name,
            "FDROUTER_HOSPITAL_ID": name,
            "FDROUTER_SECRET_KEY": "bench",
            "FDROUTER_DATA_KEY": base64.b64encode(b"only for benches, never anywhere").decode(),
            "FDROUTER_IDENTITY_DIR": str(self.state / name),
            "FDROUTER_LOG_LEVEL": "WARNING",
            "DATABASE_URL": self.postgres.url(name),
        }

    def _python(self, env: Mapping[str, str], *arguments: str) -> None:
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=dict(env), cwd=PROJECT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed("\n".join([f"{' '.join(arguments[:3])} failed:", *_last(done.stderr)]))

    def _up(self, part: Part) -> None:
        self.fleet.start(part)
        self.fleet.wait_healthy(part.name)


def _last(text: str) -> Sequence[str]:
    return text.strip().splitlines()[-12:]
