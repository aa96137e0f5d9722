"""``manage.py ingest_records --data-path DIR``: takes in a folder of FHIR R4 Bulk Data (NDJSON)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from fdrouter.errors import DomainError
from federation.node.ingest import Report, ingest
from federation.node.progress import Bar
from federation.node.rebuild import MAX_OBSERVATIONS


class Command(BaseCommand):
    help = "Take in FHIR R4 Bulk Data (NDJSON), incrementally; a broken line never stops the rest."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--data-path", type=Path, default=settings.DATA_PATH, help="Folder with *.ndjson files.")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["data_path"] is None:
            raise CommandError("Name the folder with --data-path or FDROUTER_DATA_PATH.")
        try:
            with Bar(sys.stderr) as bar:
                report = ingest(options["data_path"], bar)
        except DomainError as error:
            raise CommandError(error.message) from error
        self.stdout.write(render(report))


def render(report: Report) -> str:
    """The report as text: what was taken, and what was skipped, why and where."""
    lines = [
        f"{report.patients} patients on record, {report.patients_indexed} indexed; {report.lines} lines, "
        f"{report.bytes / 1e6:.1f} MB in {report.seconds:.1f} s; {report.files_read} files read, "
        f"{report.files_unchanged} unchanged.",
        "Taken:",
    ]
    for kind, counts in report.taken.items():
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()) if count)
        lines.append(f"  {kind}: {told}")
    if report.taken.get("Observation"):
        lines.append(
            f"  ({report.observations} observations kept: the newest of each code, up to {MAX_OBSERVATIONS} a patient)"
        )
    lines.append("Skipped:" if report.skipped else "Skipped: nothing.")
    for reason, found in report.skipped.items():
        lines.append(f"  {reason}: {found['count']} ({', '.join(found['places'])})")
    return "\n".join(lines)
