"""``report_verify FILE``: checks a report by itself. Exit 0: good; 1: something is wrong; 2: it cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from compliance import checking
from federation import document_key


class Command(BaseCommand):
    help = "Checks a report's signature, its digests, the attached facts and the attached proofs."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument(
            "--trust", type=Path, help="the certificate (PEM) that vouches for the signer; this process's by default"
        )
        parser.add_argument("--unsigned", action="store_true", help="the report need not be signed")

    def handle(self, *args: Any, file: Path, trust: Path | None, unsigned: bool, **options: Any) -> None:
        trusted = trust or settings.IDENTITY_DIR / document_key.ISSUER
        if not unsigned and not trusted.is_file():
            raise CommandError("Name a certificate to trust: --trust FILE.", returncode=2)
        try:
            result = checking.check(file.read_bytes(), trusted, unsigned=unsigned)
        except (OSError, ValueError) as error:
            raise CommandError(f"RESULT: NOT CHECKED. {file.name}: {error}", returncode=2) from None
        for line in result.said:
            self.stdout.write(line)
        if result.wrong:
            raise CommandError("RESULT: NOT GOOD.\n" + "\n".join(f"  - {text}" for text in result.wrong), returncode=1)
        if unsigned:
            self.stdout.write("RESULT: GOOD, as far as a document can be that nobody's signature was asked of.")
        else:
            self.stdout.write("RESULT: GOOD. The signature holds, and everything in the file is as it was signed.")
