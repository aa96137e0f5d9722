"""The node's dataset blocks: what they can still pay, opening a further one, retiring a spent one."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db.models import Count

from fdrouter.errors import DomainError
from federation.node import blocks
from federation.node.models import Patient


class Command(BaseCommand):
    help = (
        "list: every block. open: the first block, or with --next a further one for the patients who come from now on."
        " retire NUMBER: its patients are in no further answer; nothing undoes this. No block is ever refilled."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("list", help="what each block has paid and can still pay")
        opening = actions.add_parser("open", help="open the first block, or with --next a further one")
        opening.add_argument("--epsilon", type=float, default=10.0)
        opening.add_argument("--delta", type=float, default=1e-5)
        opening.add_argument(
            "--approximate-delta",
            type=float,
            default=0.0,
            help="what mechanisms that may fail may add to delta together; 0 refuses them",
        )
        opening.add_argument("--next", action="store_true", help="a further block for new patients")
        retiring = actions.add_parser("retire", help="close a block for good")
        retiring.add_argument("number", type=int)

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        try:
            getattr(self, f"_{action}")(options)
        except DomainError as error:
            raise CommandError(error.message) from None

    def _list(self, options: dict[str, Any]) -> None:
        held = dict(Patient.objects.values_list("block").annotate(n=Count("pk")))
        scopes = blocks.every()
        for scope in scopes:
            told, nth = blocks.figures(scope), blocks.number(scope)
            state = "retired" if told["retired"] else "open"
            self.stdout.write(
                f"{told['key']}  {state}  {held.get(nth, 0)} patients  {1 - told['used'] / told['cap']:.1%} left"
                f" of epsilon {told['epsilon']:g}, delta {told['delta']:g};"
                f" largest single question {told['epsilon_left']:g}"
            )
        waiting = sum(count for nth, count in held.items() if nth not in map(blocks.number, scopes))
        if waiting:
            self.stdout.write(f"{waiting} patients wait for the next block: open --next")

    def _open(self, options: dict[str, Any]) -> None:
        if others := blocks.other_nodes():
            raise CommandError(
                f"This database holds {others[0]}: its patients have paid under that name, and a block under another"
                " one would refill their budget. Give the node its old name (FDROUTER_NODE_ID)."
            )
        opening = blocks.open_next if options["next"] else blocks.create
        scope = opening(
            settings.NODE_ID,
            settings.HOSPITAL_ID,
            epsilon=options["epsilon"],
            delta=options["delta"],
            approximate_delta=options["approximate_delta"],
        )
        self.stdout.write(f"{scope.key}: epsilon {scope.epsilon}, delta {scope.delta}, order {scope.alpha}")

    def _retire(self, options: dict[str, Any]) -> None:
        scope = blocks.retire(settings.NODE_ID, options["number"])
        self.stdout.write(f"{scope.key} is retired. Patients who come from now on belong to the next block.")
