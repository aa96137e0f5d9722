"""Pins another hospital's public keys, so that this node sums with it."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from fdrouter.errors import DomainError
from federation.node import peers


class Command(BaseCommand):
    help = (
        "Trusts the node whose public.json is given for sums of several hospitals. Take the file from that hospital"
        " itself and compare the key id over another way."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--replace", action="store_true", help="the peer has new keys")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            document = json.loads(options["file"].read_text(encoding="utf-8"))
            public = peers.pin(document, replace=options["replace"])
        except (OSError, ValueError) as error:
            raise CommandError(f"the file cannot be read: {type(error).__name__}") from None
        except DomainError as error:
            raise CommandError(error.message) from None
        self.stdout.write(f"{public.name} is trusted with the keys {public.key_id}")
