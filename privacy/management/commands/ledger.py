"""The ledger's own audit: ``manage.py ledger verify``."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connection, transaction

from privacy.statement import order_of
from privacy.verify import BlockReport, verify


class Command(BaseCommand):
    help = "verify: recomputes every figure of this database's ledger from stored events. Exit 1 if one is wrong."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("action", choices=["verify"])

    def handle(self, *args: Any, **options: Any) -> None:
        alone = not connection.in_atomic_block
        with transaction.atomic(), connection.cursor() as cursor:
            if alone:  # one moment of a ledger that goes on
                cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            result = verify()
        for block in result.blocks:
            self._tell(block)
        self.stdout.write(f"{result.scopes} budgets, {result.reservations} reservations recomputed")
        for fault in result.faults:
            self.stderr.write(fault)
        if result.faults:
            raise CommandError(f"{len(result.faults)} of the ledger's figures do not add up")
        self.stdout.write("every figure follows from the stored events")

    def _tell(self, block: BlockReport) -> None:
        scope, paid = block.scope, block.statement
        _, epsilon, delta = order_of(scope)
        second = "none" if block.second is None else f"{block.second:.4f}"
        self.stdout.write(
            f"{scope.key}: {scope.used / scope.cap:.1%} of epsilon {epsilon:g}, delta {delta:g} spent in"
            f" {paid.requests} releases,"
            f" composed {paid.composed:.4f}, by loss distributions {second}, plain sum {paid.plain_sum:.4f}"
        )
