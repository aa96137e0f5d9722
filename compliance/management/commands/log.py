"""The evidence log: ``manage.py log verify | sequence | checkpoint | export | grants ROLE``."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connection, transaction

from compliance import log
from compliance.log import bundle, roles
from compliance.log.verify import Result, verify
from fdrouter.errors import DomainError

ACTIONS = {
    "verify": "recomputes every entry, tile, checkpoint and signature; exit 1 where one is wrong",
    "sequence": "gives waiting events their places in the tree now",
    "checkpoint": "signs what is in the tree now",
    "grants": "lets ROLE, as which the application connects, append to the log and do nothing else to it",
    "export": "writes a bundle that verify_audit.py checks offline",
}


class Command(BaseCommand):
    help = "; ".join(f"{action}: {what}" for action, what in ACTIONS.items())

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=list(ACTIONS))
        parser.add_argument("role", nargs="?", help="grants: a role that exists")
        parser.add_argument("--file", type=Path, help="export: where to; by default named by the time")
        parser.add_argument("--first", type=int, help="export: the first entry; without it the whole log")
        parser.add_argument("--last", type=int, help="export: the last entry")
        parser.add_argument("--private", action="store_true", help="export: private parts that were not erased, too")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            getattr(self, f"_{options['action']}")(options)
        except DomainError as error:
            raise CommandError(error.message) from None

    def _verify(self, options: dict[str, Any]) -> None:
        alone = not connection.in_atomic_block
        with transaction.atomic(), connection.cursor() as cursor:
            if alone:  # one moment of a log that goes on
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            result = verify()
        self._tell(result)
        for finding in result.findings:
            self.stderr.write(finding.text)
        if result.first is not None:
            raise CommandError(f"The log is not as it was written. First: {result.first.text}")
        self.stdout.write("every entry is as it was written")

    def _tell(self, result: Result) -> None:
        self.stdout.write(f"{result.entries} entries recomputed, {result.waiting} events wait for their place")
        self.stdout.write(
            f"{result.checkpoints} checkpoints, {result.signed} with both signatures of this process,"
            f" {result.cosignatures} cosignatures; {result.erased} private parts erased"
        )
        if not result.can_sign:
            self.stdout.write("no identity folder: nothing is signed here, and no signature was checked")

    def _sequence(self, options: dict[str, Any]) -> None:
        self.stdout.write(f"{log.sequence()} events have their place")

    def _checkpoint(self, options: dict[str, Any]) -> None:
        log.sequence()
        made = log.checkpoint(force=True)
        self.stdout.write("nothing new to sign, or no identity to sign with" if made is None else made.note)

    def _export(self, options: dict[str, Any]) -> None:
        file = options["file"] or Path(bundle.default_name())
        made = bundle.export(file, first=options["first"], last=options["last"], private=options["private"])
        self.stdout.write(
            f"{file}: entries {made.first} to {made.last} under the checkpoint of {made.size} ({made.kind})"
        )

    def _grants(self, options: dict[str, Any]) -> None:
        if not options["role"]:
            raise CommandError("grants: name the role")
        roles.grant(options["role"])
        self.stdout.write(f"{options['role']} may append to the log, and change nothing of it")
