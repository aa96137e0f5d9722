"""The only writer of budgets: reserve, settle, release, expire.

Every call is one SQL statement that locks the scopes it touches in id order, and belongs in the transaction of the
action that it pays for. The rules are those of a Renyi filter at one frozen order (Feldman and Zrnic,
arXiv 2008.11193) for blocks, and of plain sums for quotas.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import connection
from django.db.models import QuerySet
from psycopg.types.json import Jsonb

from fdrouter.errors import BlockExhausted, DomainError, InvalidParameter, QuotaSpent
from privacy.dp import curves
from privacy.dp.events import Event
from privacy.models import Curve, Reservation, ReservationState, Scope, ScopeKind

RESERVED, REPEATED = 0, -1


@dataclass(frozen=True, slots=True)
class Charge:
    """``amount`` whole units of the scope with this id."""

    scope_id: int
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One reservation to make. ``event`` describes what will be released (mechanism, parameters, unit, adjacency).

    ``release`` is the same as a privacy event; its Renyi curve is stored beside the reservation.
    """

    id: UUID
    charges: Sequence[Charge]
    owner: str = ""
    idempotency_key: str | None = None
    event: Mapping[str, Any] | None = field(default=None)
    release: Event | None = None


def columns(requests: Sequence[Request]) -> tuple[list[Any], ...]:
    """The requests as the arrays that ``ledger_reserve`` takes after ``lifetime`` is left out.

    Raises:
        InvalidParameter: a charge is negative, or names a scope twice.
    """
    for request in requests:
        scopes = [charge.scope_id for charge in request.charges]
        if any(charge.amount < 0 for charge in request.charges) or len(set(scopes)) != len(scopes):
            raise InvalidParameter("A charge must not be negative and must name each scope once.", field="charges")
    lines = [(nth, c.scope_id, c.amount) for nth, request in enumerate(requests, start=1) for c in request.charges]
    return (
        [request.id for request in requests],
        [request.owner for request in requests],
        [request.idempotency_key for request in requests],
        [Jsonb(dict(request.event)) if request.event is not None else None for request in requests],
        [line[0] for line in lines],
        [line[1] for line in lines],
        [line[2] for line in lines],
    )


def reserve_many(requests: Sequence[Request], *, seconds: int | None = None) -> list[int]:
    """Reserves a batch; one verdict a request: ``RESERVED``, ``REPEATED`` or the id of a scope that cannot pay."""
    ids, owners, keys, events, nths, scopes, amounts = columns(requests)
    lifetime = timedelta(seconds=seconds if seconds is not None else settings.RESERVATION_SECONDS)
    parameters: list[Any] = [ids, owners, keys, events, lifetime, nths, scopes, amounts]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT ledger_reserve(%s::uuid[], %s::text[], %s::text[], %s::jsonb[], %s,"
            " %s::int[], %s::bigint[], %s::bigint[])",
            parameters,
        )
        verdicts: list[int] = cursor.fetchone()[0]
    releases = [(r.id, r.release) for r, verdict in zip(requests, verdicts, strict=True) if verdict == RESERVED]
    Curve.objects.bulk_create(
        Curve(reservation_id=pk, grid=curves.GRID, nano=curves.nano_curve(release))
        for pk, release in releases
        if release is not None
    )
    return verdicts


def reserve(request: Request, *, seconds: int | None = None) -> bool:
    """Reserves one request. ``False``: its idempotency key was reserved before, nothing was charged again.

    Raises:
        QuotaSpent, BlockExhausted: a scope cannot pay; nothing was charged.
    """
    verdict = reserve_many([request], seconds=seconds)[0]
    if verdict > 0:
        raise refusal(verdict, {c.scope_id: c.amount for c in request.charges}.get(verdict, 0))
    return verdict == RESERVED


def refusal(scope_id: int, amount: int) -> DomainError:
    """The error that says which scope could not pay. Its figures depend on public state only."""
    scope = Scope.objects.get(pk=scope_id)
    details: dict[str, Any] = {
        "scope": scope.kind,
        "key": scope.key,
        "unit": scope.unit,
        "cap": scope.limit,
        "used": scope.used,
        "needed": amount,
    }
    if scope.kind == ScopeKind.BLOCK:
        if scope.retired_at is not None:
            return BlockExhausted("This block of records is retired: it pays for nothing any more.", **details)
        return BlockExhausted(**details)
    name = scope.label or scope.key
    what = "number of requests" if scope.unit == "requests" else "privacy budget"
    return QuotaSpent(f"Today's {what} of {name} cannot pay for this.", **details)


def _close(ids: Iterable[UUID], outcome: ReservationState, spent: int | None) -> set[UUID]:
    todo = list(ids)
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT * FROM ledger_close(%s::uuid[], %s::text[], %s::bigint[])",
            [todo, [outcome.value] * len(todo), [spent] * len(todo)],
        )
        return {row[0] for row in cursor.fetchall()}


def settle(reservation: UUID, spent: int | Mapping[int, int] | None = None) -> bool:
    """Ends a reservation after the data was used. ``spent`` caps what every line keeps; ``None`` keeps it all.

    As a mapping it holds a cap for each scope's line, by the scope's id; a scope that it leaves out keeps all.
    Returns whether this call ended it (``False``: it had ended before, nothing changed).
    """
    if isinstance(spent, Mapping):
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT ledger_settle(%s, %s::bigint[], %s::bigint[])", [reservation, [*spent], [*spent.values()]]
            )
            return bool(cursor.fetchone()[0])
    return bool(_close([reservation], ReservationState.SETTLED, spent))


def release(reservation: UUID) -> bool:
    """Ends a reservation of which nothing left the platform: everything goes back."""
    return bool(_close([reservation], ReservationState.RELEASED, 0))


def expire(*, limit: int = 500, exclude: QuerySet[Any] | None = None) -> set[UUID]:
    """Ends overdue reservations and keeps their full charge: nobody can say that no data was seen.

    ``exclude``: rows that share their primary key with the reservations that are to stay open.
    """
    from django.utils import timezone

    overdue = Reservation.objects.filter(state=ReservationState.RESERVED, expires_at__lt=timezone.now())
    if exclude is not None:
        overdue = overdue.exclude(pk__in=exclude.values("pk"))
    ids = overdue.order_by("expires_at").values_list("pk", flat=True)[:limit]
    return _close(ids, ReservationState.EXPIRED, None)
