"""The log as a stream for a SIEM: ``manage.py stream_events --format ocsf --to tcp://siem:6514 --cursor FILE``."""

from __future__ import annotations

import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import close_old_connections

from compliance import stream
from compliance.siem import FORMATS
from fdrouter.errors import DomainError


class Command(BaseCommand):
    help = "Sends every entry of the log at least once, in order, and goes on where the last run ended."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--format", choices=list(FORMATS), required=True)
        parser.add_argument("--to", required=True, help="stdout, udp://host:port, tcp://host:port or a file's path")
        parser.add_argument("--cursor", type=Path, required=True, help="the file that remembers what was sent")
        parser.add_argument("--once", action="store_true", help="end when everything was sent")
        parser.add_argument("--interval", type=float, default=1.0, help="seconds between looks at the log")
        parser.add_argument("--batch", type=int, default=stream.BATCH, help="entries between two moves of the cursor")

    def handle(self, *args: Any, **options: Any) -> None:
        def wait() -> bool:
            if options["once"]:
                return False
            time.sleep(max(options["interval"], 0.05))
            close_old_connections()
            return True

        cursor, form = stream.Cursor(options["cursor"]), options["format"]
        try:
            with cursor.held():
                sink = stream.sink_of(options["to"], form)
                try:
                    sent = stream.run(
                        sink, cursor, form, target=options["to"], batch=max(options["batch"], 1), wait=wait
                    )
                finally:
                    sink.close()
        except DomainError as error:
            raise CommandError(error.message) from None
        except OSError as error:
            raise CommandError(f"Not everything was handed over: {error.strerror or error}. Start again.") from None
        self.stderr.write(f"{sent} entries handed over")
