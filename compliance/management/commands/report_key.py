"""``report_key``: makes the key that signs reports, beside the identity of the coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from federation import document_key


class Command(BaseCommand):
    help = "Makes the key and certificate that reports are signed with. What an earlier key signed stays valid."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--ca", type=Path, help="folder of the network's CA; without it the certificate is its own")
        parser.add_argument("--name", default="fdrouter documents", help="who signs, as readers of the PDF see it")
        parser.add_argument("--replace", action="store_true", help="although there is one")

    def handle(self, *args: Any, ca: Path | None, name: str, replace: bool, **options: Any) -> None:
        folder = settings.IDENTITY_DIR
        if (folder / document_key.KEY).exists() and not replace:
            raise CommandError("There is a key already. --replace makes a new one.")
        try:
            fingerprint = document_key.issue(folder, name, ca=ca)
        except OSError as error:
            raise CommandError(f"The key could not be made: {error.strerror} ({error.filename}).") from None
        self.stdout.write(f"Certificate {folder / document_key.CERTIFICATE}, SHA-256 {fingerprint}.")
