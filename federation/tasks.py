"""Celery tasks: interfaces that load, call one service and return. Messages carry ids only."""

from __future__ import annotations

import asyncio
import logging

from celery import shared_task

log = logging.getLogger(__name__)


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


@shared_task(name="federation.tasks.probe_nodes")
def probe_nodes() -> int:
    """Asks every node how it is; returns how many answered."""
    from federation import upkeep

    return asyncio.run(upkeep.probe_nodes())
