"""Anomalies by hand: ``manage.py anomalies run [--since 2026-11-01]``; ``manage.py anomalies rules`` lists them."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import date
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from compliance.anomalies import services
from compliance.anomalies.parameters import parameters
from compliance.period import FIRST_YEAR, Period


class Command(BaseCommand):
    help = "Runs the anomaly rules over everything since the last run, or since a day, and says what was found."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=("run", "rules"))
        parser.add_argument("--since", type=date.fromisoformat, help="the first day to look at (YYYY-MM-DD)")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["action"] == "rules":
            for rule, _ in parameters().running():
                self.stdout.write(f"{rule.name} (version {rule.version}): {rule.looks_for}")
            return
        since: date | None = options["since"]
        if since is not None and not date(FIRST_YEAR, 1, 1) <= since <= timezone.localdate():
            raise CommandError(f"Choose a day from {FIRST_YEAR} until today.")
        done = services.run(Period(since, since).bounds[0] if since else None)
        self.stdout.write(f"{done.found} found, {done.grown} grown, {done.days} days looked at")
