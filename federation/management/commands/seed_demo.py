"""Creates the demo's network at the coordinator and writes ``access.json``."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from federation import demo_network
from federation.demo_network import DemoNode


class Command(BaseCommand):
    help = "Creates the demo's hospitals, people, tokens, identities and nodes. Running it again changes nothing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--state-dir", type=Path, required=True)
        parser.add_argument("--node", action="append", required=True, metavar="ID|NAME|URL", help="once per hospital")
        parser.add_argument("--model", default=settings.ENGINE_MODEL)

    def handle(self, *args: Any, **options: Any) -> None:
        nodes = [DemoNode(*spec.split("|", 2)) for spec in options["node"]]
        document = demo_network.build(options["state_dir"], nodes, options["model"], settings.BASE_URL)
        self.stdout.write(json.dumps(document))
