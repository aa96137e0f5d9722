"""What every test of the ledger shares: scopes, racing threads with connections of their own, and the audit."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from django.db import connection
from django.db.models import Sum
from django.utils import timezone

from privacy import ledger
from privacy.ledger import Charge, Request
from privacy.models import Entry, EntryKind, Reservation, ReservationState, Scope, ScopeKind, Unit

R = TypeVar("R")
BEHIND, AHEAD = "Etc/GMT+12", "Pacific/Kiritimati"  # 26 hours apart: never on the same day


def block(cap: int, key: str | None = None) -> Scope:
    """A budget that never refills."""
    return Scope.objects.create(
        kind=ScopeKind.BLOCK,
        key=key or f"block:{uuid.uuid4()}",
        unit=Unit.NANO_RDP,
        cap=cap,
        epsilon=10.0,
        delta=1e-5,
        alpha=3.4,
    )


def leave(scope: Scope, amount: int) -> None:
    """Charges a budget until so much of it is left."""
    scope.refresh_from_db()
    ledger.reserve(request((scope, scope.left - amount)))


def quota(cap: int, *, kind: ScopeKind = ScopeKind.USER, unit: Unit = Unit.MICRO_EPSILON) -> Scope:
    """A budget of today, in the zone whose day begins last, so that :func:`next_day` can start another one."""
    return Scope.objects.create(
        kind=kind,
        key=f"{kind}:{uuid.uuid4()}",
        unit=unit,
        cap=cap,
        resets=True,
        period=timezone.now().astimezone(zone(BEHIND)).date(),
        time_zone=BEHIND,
    )


def zone(name: str) -> Any:
    from zoneinfo import ZoneInfo

    return ZoneInfo(name)


def next_day(scope: Scope) -> None:
    """Lets the scope's day be over by moving it to the zone whose day begins first. No row is made up for it."""
    Scope.objects.filter(pk=scope.pk).update(time_zone=AHEAD)


def request(*charges: tuple[Scope, int], key: str | None = None, owner: str = "user:1") -> Request:
    return Request(
        id=uuid.uuid4(),
        charges=[Charge(scope.pk, amount) for scope, amount in charges],
        owner=owner if key else "",
        idempotency_key=key,
    )


def used(scope: Scope) -> int:
    return Scope.objects.get(pk=scope.pk).used


def kept(reservation: uuid.UUID, scope: Scope) -> int:
    """What a reservation has charged to a scope after what went back."""
    rows = Entry.objects.filter(reservation_id=reservation, scope=scope)
    return rows.aggregate(total=Sum("amount"))["total"] or 0


def audit(scopes: Iterable[Scope] = ()) -> None:
    """The books balance: for every scope ``0 <= used <= limit`` and ``used`` is the sum of its entries.

    And for every reservation: one charge a scope, refunds never above it, everything back only if it was released.
    """
    wanted = [scope.pk for scope in scopes]
    for scope in Scope.objects.filter(pk__in=wanted) if wanted else Scope.objects.all():
        total = Entry.objects.filter(scope=scope).aggregate(total=Sum("amount"))["total"] or 0
        assert scope.used == total, f"{scope}: used {scope.used}, entries {total}"
        assert 0 <= scope.used <= scope.limit, f"{scope}: {scope.used} of {scope.limit}"
    entries = Entry.objects.exclude(reservation=None).select_related("reservation")
    lines: dict[tuple[uuid.UUID, int], list[Entry]] = {}
    for entry in entries.filter(scope__in=wanted) if wanted else entries:
        assert entry.reservation is not None
        lines.setdefault((entry.reservation.pk, entry.scope_id), []).append(entry)
    for found in lines.values():
        reservation = found[0].reservation
        assert reservation is not None
        charges = [e.amount for e in found if e.kind == EntryKind.RESERVE]
        refunds = [e.amount for e in found if e.kind == EntryKind.REFUND]
        assert len(charges) == 1 and len(refunds) <= 1
        assert 0 <= -sum(refunds) <= charges[0]
        if reservation.state in (ReservationState.RESERVED, ReservationState.EXPIRED):
            assert not refunds, "an open or expired reservation keeps its whole charge"
        assert (reservation.state == ReservationState.RESERVED) == (reservation.ended_at is None)


def states(ids: Iterable[uuid.UUID]) -> set[str]:
    return set(Reservation.objects.filter(pk__in=list(ids)).values_list("state", flat=True))


def race(tasks: Sequence[Callable[[], R]]) -> list[R]:
    """Runs every task in a thread with its own database connection, all let go at the same moment.

    The first error of any task is raised here, so a deadlock that PostgreSQL breaks fails the test.
    """
    gate = threading.Barrier(len(tasks))
    results: dict[int, R] = {}
    failures: list[BaseException] = []

    def run(nth: int, task: Callable[[], R]) -> None:
        try:
            connection.ensure_connection()
            gate.wait(30)
            results[nth] = task()
        except BaseException as error:  # noqa: BLE001  (raised again in the test's own thread)
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(tasks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "a racing connection hangs"
    if failures:
        raise failures[0]
    return [results[nth] for nth in range(len(tasks))]
