"""Shows what a document of daily limits would change, and applies it when told to."""

from __future__ import annotations

import getpass
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import yaml
from django.core.management.base import BaseCommand, CommandError

from fdrouter.errors import InvalidParameter
from privacy import limits
from privacy.dp.units import MICRO
from privacy.limits import Change
from privacy.models import Unit


def _amount(change: Change, value: int) -> str:
    return f"{value / MICRO:g} epsilon" if change.scope.unit == Unit.MICRO_EPSILON else f"{value} requests"


class Command(BaseCommand):
    help = "Compares configs/privacy_budgets.yaml with the limits in force. --apply changes them and records it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--apply", action="store_true", help="apply after showing the difference")

    def handle(self, *args: Any, **options: Any) -> None:
        wanted = self._read(options["file"])
        same = limits.effective().digest == wanted.digest
        found = limits.apply(wanted, by=getpass.getuser()) if options["apply"] else limits.changes(wanted)
        for change in found:
            scope = change.scope
            place = f"{scope.hospital or 'network'} / {scope.kind} {scope.label or scope.key}"
            self.stdout.write(f"{place}: {_amount(change, change.before)} -> {_amount(change, change.after)} a day")
        document = "is the one in force" if same else "differs from the one in force"
        outcome = "applied" if options["apply"] else "nothing was changed; --apply does"
        self.stdout.write(f"{len(found)} open quotas differ; the document {document} ({outcome})")

    def _read(self, file: Path) -> limits.Limits:
        try:
            document = yaml.safe_load(file.read_text(encoding="utf-8"))
            return limits.parse(document, hospitals=limits.known_names())
        except (OSError, yaml.YAMLError, UnicodeError) as error:
            raise CommandError(f"{file} cannot be read as YAML: {type(error).__name__}") from None
        except InvalidParameter as error:
            raise CommandError(f"{file}: {error.message}") from None
