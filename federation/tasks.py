"""Celery tasks: interfaces that load, call one service and return. Messages carry ids only."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from celery import shared_task
from celery.signals import worker_ready

log = logging.getLogger(__name__)
DISPATCH_QUEUE = "dispatch"


@worker_ready.connect
def begin_sweeping(sender: Any, **_: Any) -> None:
    """A dispatch worker looks for lost rows from its start on, not from its first message on."""
    if DISPATCH_QUEUE in sender.app.amqp.queues.consume_from:
        from federation.dispatch import dispatcher

        dispatcher()


@shared_task(name="federation.tasks.dispatch")
def dispatch(ids: list[str]) -> None:
    """Hands admitted rows (hex ids) to this worker's event loop and returns at once; the lease keeps them safe."""
    from federation.dispatch import dispatcher

    dispatcher().submit(ids)


@shared_task(name="federation.tasks.expire_reservations")
def expire_reservations() -> int:
    """Ends overdue reservations; they stay charged."""
    from federation import upkeep

    return upkeep.expire_reservations()


@shared_task(name="federation.tasks.reconcile")
def reconcile() -> int:
    """Compares what nodes report with their receipts; returns how many do not fit."""
    from federation.reconcile import reconcile as compare_all

    return sum(comparison.is_incident for comparison in compare_all())


@shared_task(name="federation.tasks.probe_nodes")
def probe_nodes() -> int:
    """Asks every node how it is; returns how many answered."""
    from federation import upkeep

    return asyncio.run(upkeep.probe_nodes())
