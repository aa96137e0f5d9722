"""``manage.py make_demo_records --output DIR --hospital northfield``: synthetic records with planted facts."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from federation.node.demo_records.build import RecordsFailed, build, build_small
from federation.node.demo_records.facts import hospitals
from federation.node.progress import Bar

#: Fewer have too few adults for the planted cohorts.
MINIMUM = 200


class Command(BaseCommand):
    help = "Make a demo hospital's synthetic records (FHIR R4 Bulk NDJSON), or leave them if they are complete."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--output", type=Path, required=True, help="Folder to fill; with 'all', one folder each in it."
        )
        parser.add_argument("--hospital", choices=[*hospitals(), "all"], required=True)
        parser.add_argument("--patients", type=int, default=400, help="At least this many (default 400).")
        parser.add_argument("--small", action="store_true", help="The tests' cut: 90 patients, no simulator.")
        parser.add_argument("--broken", action="store_true", help="With --small: add lines that must be skipped.")

    def handle(self, *args: Any, **options: Any) -> None:
        if not MINIMUM <= options["patients"] <= 100_000:
            raise CommandError(f"--patients must be between {MINIMUM} and 100000.")
        names = list(hospitals()) if options["hospital"] == "all" else [options["hospital"]]
        folders = {
            name: options["output"] / name if options["hospital"] == "all" else options["output"] for name in names
        }
        try:
            if options["small"]:
                for name, folder in folders.items():
                    self._tell(name, build_small(folder, name, broken=options["broken"]), "made", 0.0)
                return
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
            self._build(folders, options["patients"])
        except RecordsFailed as error:
            raise CommandError(str(error)) from error
        except OSError as error:
            raise CommandError(f"The records could not be written: {error.strerror}.") from error

    def _build(self, folders: dict[str, Path], patients: int) -> None:
        """Simulates as many hospitals at once as there are cores; an interrupt ends the simulators too."""
        started, stopped = time.monotonic(), threading.Event()

        def tick() -> None:
            if stopped.is_set():
                raise RecordsFailed("Interrupted.")
            bar.advance(1)

        with Bar(sys.stderr) as bar, ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
            bar.begin(f"Making records of {', '.join(folders)} (once)", 0)
            running = {
                name: pool.submit(build, path, name, patients=patients, tick=tick) for name, path in folders.items()
            }
            try:
                for name, future in running.items():
                    manifest, made = future.result()
                    self._tell(name, manifest, "made" if made else "already there", time.monotonic() - started)
            except BaseException:
                stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _tell(self, name: str, manifest: dict[str, Any], how: str, seconds: float) -> None:
        cohorts = [fact["patients"] for fact in manifest["facts"].values()]
        self.stdout.write(
            f"{name}: {manifest['patients']} patients, {len(cohorts)} planted facts (cohorts of {min(cohorts)} to "
            f"{max(cohorts)}), {len(manifest['canaries'])} odd records; {how} ({seconds:.0f} s)."
        )
