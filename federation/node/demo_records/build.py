"""Making a demo hospital's folder: simulate once, trim, plant the overlay, and mark it complete."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from federation.node.demo_records import facts, small
from federation.node.demo_records.overlay import plant
from federation.node.demo_records.trim import trim
from federation.node.fhir import TAKEN_TYPES

Json = dict[str, Any]

VERSION = 1
SIMULATOR = "clinosim"
_START, _END = "2026-01-01", "2026-06-30"
#: The simulator's population turns into roughly half as many patients over half a year.
_POPULATION_A_PATIENT = 2.15
_ATTEMPTS = 3
_SMALL_FACTS = {"velorapine": 72, "tamurexin": 30}
_MARKER = "complete.json"
#: Says that a folder was made here, so that what lies in it may be replaced. Nobody else's folder is ever cleared.
_OWNED = ".fdrouter-demo-records"
_TIMEOUT = 1800.0


class RecordsFailed(Exception):
    """The simulator is missing or failed; the message says what to do."""


def build(
    output: Path, hospital_id: str, *, patients: int, tick: Callable[[], None] = lambda: None
) -> tuple[Json, bool]:
    """Makes ``output`` with at least ``patients`` patients and returns its manifest and whether it was made anew.

    A folder that is complete for the same input is left as it is; the simulation and the overlay are cached apart.

    Raises:
        RecordsFailed: the simulator is missing or failed, or the folder is somebody else's.
    """
    hospital = facts.hospitals()[hospital_id]
    base = {"version": VERSION, "hospital": hospital.id, "seed": hospital.seed, "patients": patients, "end": _END}
    wanted = base | {"facts": facts.config_digest()}
    marker = _marked(output)
    if marker == wanted:
        return _manifest(output), False
    if marker is None or {name: marker.get(name) for name in base} != base:
        _simulate_into(output, hospital, patients, tick)
    adults = _adults(output / "Patient.ndjson")
    try:
        resources, manifest = plant(hospital, facts.planted_facts(), facts.canaries(hospital.id), adults)
    except ValueError as error:
        raise RecordsFailed(f"Too few patients: {error}.") from error
    manifest["patients"] = _count(output / "Patient.ndjson")
    _finish(output, resources, manifest, wanted)
    return manifest, True


def build_small(output: Path, hospital_id: str, *, broken: bool = False) -> Json:
    """Makes the tests' small cut: 90 patients, a cohort of 72, another of 30, one canary; optionally broken lines."""
    hospital = facts.hospitals()[hospital_id]
    chosen = [
        replace(fact, patients=_SMALL_FACTS[fact.id]) for fact in facts.planted_facts() if fact.id in _SMALL_FACTS
    ]
    canaries = [canary for canary in facts.canaries(hospital.id) if canary.fact == "velorapine"]
    _clear(output)
    _write(output, "", small.resources(hospital))
    resources, manifest = plant(hospital, chosen, canaries, small.patient_ids(hospital))
    if broken:
        (output / "broken.ndjson").write_bytes(b"\n".join(small.broken_lines(hospital)) + b"\n")
    _finish(output, resources, manifest, {"version": VERSION, "hospital": hospital.id, "small": True})
    return manifest


def _clear(output: Path) -> None:
    """Makes the folder, or takes out of an earlier one the files that were made here and nothing else.

    Raises:
        RecordsFailed: the folder holds something and was not made here.
    """
    output.mkdir(parents=True, exist_ok=True)
    if any(output.iterdir()) and not (output / _OWNED).is_file() and _marked(output) is None:
        raise RecordsFailed(f"{output} is not empty and was not made by this command: name another folder.")
    (output / _OWNED).touch()
    made = [_MARKER, "manifest.json", *(f"{kind}.ndjson" for kind in TAKEN_TYPES), "broken.ndjson"]
    for path in (*(output / name for name in made), *output.glob("overlay.*.ndjson"), *output.glob("*.partial")):
        path.unlink(missing_ok=True)
    for path in output.glob("simulation-*"):
        shutil.rmtree(path)


def _simulate_into(output: Path, hospital: facts.Hospital, patients: int, tick: Callable[[], None]) -> None:
    _clear(output)
    population = round(patients * _POPULATION_A_PATIENT)
    for _ in range(_ATTEMPTS):
        with tempfile.TemporaryDirectory(prefix="simulation-", dir=output) as work:
            _simulate(Path(work), hospital.seed, population, tick)
            if trim(Path(work) / "fhir_r4", output, hospital.prefix) >= patients:
                return
        population = round(population * 1.15)
    raise RecordsFailed(f"The simulator made fewer than {patients} patients.")


def _simulate(work: Path, seed: int, population: int, tick: Callable[[], None]) -> None:
    command = Path(sys.executable).parent / SIMULATOR
    if not command.is_file():
        raise RecordsFailed("The demo's records need clinosim: install fdrouter with the extra 'demo'.")
    arguments = [str(command), "simulate", "--country", "US", "-p", str(population), "-s", str(seed), "-o", str(work)]
    arguments += ["--start", _START, "--end", _END, "--format", "fhir-r4"]
    log, deadline = work / "output.log", time.monotonic() + _TIMEOUT
    with log.open("wb") as stream, subprocess.Popen(arguments, stdout=stream, stderr=stream) as process:  # noqa: S603
        try:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    raise RecordsFailed("The simulator did not finish in time.")
                tick()
                time.sleep(0.5)
        finally:
            if process.poll() is None:
                process.kill()
    if process.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
        raise RecordsFailed("The simulator failed:\n" + "\n".join(tail))


def _adults(path: Path) -> list[str]:
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return sorted(row["id"] for row in rows if row.get("birthDate", "9999") < "2008")


def _count(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _write(output: Path, prefix: str, resources: Iterable[Json]) -> None:
    """One file a resource type, replaced whole, so that a reader sees the old file or the new one."""
    files: dict[str, list[str]] = {}
    for resource in resources:
        line = json.dumps(resource, ensure_ascii=False, separators=(",", ":"))
        files.setdefault(resource["resourceType"], []).append(line)
    for kind, lines in files.items():
        partial = output / f"{prefix}{kind}.partial"
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
        partial.replace(output / f"{prefix}{kind}.ndjson")


def _finish(output: Path, resources: list[Json], manifest: Json, marker: Json) -> None:
    _withdraw(output, resources)
    _write(output, "overlay.", resources)
    (output / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    (output / _MARKER).write_text(json.dumps(marker) + "\n", encoding="utf-8")


def _withdraw(output: Path, resources: list[Json]) -> None:
    """Tells a node that has taken in an earlier overlay which of its resources are gone (``entered-in-error``)."""
    now = {(resource["resourceType"], resource["id"]) for resource in resources}
    gone: dict[tuple[str, str], Json] = {}
    for path in sorted(output.glob("overlay.*.ndjson")):
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            told = {name: row[name] for name in ("resourceType", "id", "subject")}
            gone[row["resourceType"], row["id"]] = told | {"status": "entered-in-error"}
    lines = [json.dumps(row) for key, row in sorted(gone.items()) if key not in now]
    withdrawn = output / "overlay.Withdrawn.ndjson"
    if lines:
        withdrawn.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        withdrawn.unlink(missing_ok=True)


def _marked(output: Path) -> Json | None:
    try:
        found = json.loads((output / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _manifest(output: Path) -> Json:
    loaded: Json = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    return loaded
