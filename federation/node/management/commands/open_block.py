"""Opens the node's dataset block: its lifetime privacy budget. A block that is there stays as it is."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from federation.node import blocks


class Command(BaseCommand):
    help = "Opens the block with a total (epsilon, delta). It is never refilled."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--epsilon", type=float, default=10.0)
        parser.add_argument("--delta", type=float, default=1e-5)

    def handle(self, *args: Any, **options: Any) -> None:
        scope = blocks.create(
            settings.NODE_ID, settings.HOSPITAL_ID, epsilon=options["epsilon"], delta=options["delta"]
        )
        self.stdout.write(f"{scope.key}: epsilon {scope.epsilon}, delta {scope.delta}, order {scope.alpha}")
