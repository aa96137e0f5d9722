"""One maker at a time: pays where nothing was paid yet, goes on where a making was interrupted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import aiohttp
from django.db import connection

from fdrouter.errors import Conflict
from federation.database import in_thread
from federation.node.engine import EngineClient, EngineUnreachable
from federation.node.progress import Bar
from federation.node.released import cards, corpus, publish, vocabulary
from federation.node.released.models import Release, ReleaseKind
from federation.node.released.states import ReleaseState
from privacy.dp.release_plans import CorpusPlan

EngineOf = Callable[[aiohttp.ClientSession], EngineClient]


@contextmanager
def exclusive(release: Release) -> Iterator[None]:
    """Holds the release for this process; the lock goes with the database connection of a killed one.

    Raises:
        Conflict: another process is making it.
    """
    key = int.from_bytes(release.pk.bytes[:8], signed=True)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [key])
        if not cursor.fetchone()[0]:
            raise Conflict("This release is being made by another process.")
        try:
            yield
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [key])


def make(release: Release, engine_of: EngineOf, bar: Bar) -> Release:
    """Makes and publishes an approved release, or goes on with one that was interrupted; returns it as it is then.

    Raises:
        Conflict: it is not approved, has ended, or is being made elsewhere. ClaimMissing, BlockExhausted: not paid.
        EngineUnreachable: the engine is down; an approved release is then not paid yet.
    """
    with exclusive(release):
        release.refresh_from_db()
        if release.state not in (ReleaseState.APPROVED, ReleaseState.MAKING):
            raise Conflict(f"This release is {release.state}. Only an approved one can be made.")
        if release.kind == ReleaseKind.CARDS:
            _make_cards(release, bar)
        else:
            asyncio.run(_make_corpus(release, engine_of, bar))
        release.refresh_from_db()
    return release


def withdraw(release: Release, by: str, reason: str = "") -> None:
    """:func:`publish.withdraw`, also of a release whose making was interrupted: that one fails, and stays paid.

    Raises:
        Conflict: it has ended, or another process is making it.
    """
    with exclusive(release):
        release.refresh_from_db()
        if release.state == ReleaseState.MAKING:
            publish.abandon(release, by)
        else:
            publish.withdraw(release, by, reason)


def _pay(release: Release) -> None:
    if release.state == ReleaseState.APPROVED:
        publish.begin(release)


def _make_cards(release: Release, bar: Bar) -> None:
    _pay(release)
    bar.begin("Counting cards", len(vocabulary.cards_of(vocabulary.lists_of(release.plan))))
    cards.make(release, bar.advance)


async def _make_corpus(release: Release, engine_of: EngineOf, bar: Bar) -> None:
    plan = publish.plan_of(release)
    total = plan.notes if isinstance(plan, CorpusPlan) else 0
    async with aiohttp.ClientSession() as session:
        engine = engine_of(session)
        if not await engine.healthy():  # before anything is paid
            raise EngineUnreachable
        await in_thread(_pay)(release)
        bar.begin("Writing notes", total)
        done = [0]
        await corpus.make(release, engine, partial(_tell, bar, done))
        bar.advance(total - done[0])


def _tell(bar: Bar, told: list[int], topic: str, done: int) -> None:
    bar.advance(done - told[0])
    told[0] = done
