"""The hospital's dataset blocks: the budgets that carry the guarantee. They are charged here and nowhere else.

A block covers the patients who were first taken in while it was the newest one, for good. A question over records
covers the patients of every open block that can pay for it, and each of these pays the whole cost: a patient belongs
to one block, so what a block has paid bounds what was released about its patients. A spent block is retired and its
patients are asked no more; only patients who come later start with a fresh block.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from fdrouter.errors import BlockExhausted, Conflict, InvalidParameter
from fdrouter.evidence import Event, record
from privacy import ledger, statement
from privacy.dp import accounting
from privacy.dp.bounds import ADJACENCY
from privacy.dp.cohort_plans import Plan
from privacy.dp.confident_plans import ConfidentChoicePlan
from privacy.dp.text_plan import TextPlan
from privacy.dp.units import FEMTO, femto
from privacy.ledger import Charge
from privacy.models import Scope, ScopeKind, Unit


def block_key(node: str, number: int = 1) -> str:
    return f"block:{node}:{number}"


def number(scope: Scope) -> int:
    """Which of the node's blocks this is, from 1."""
    return int(scope.key.rpartition(":")[2])


# --- life of a block ------------------------------------------------------------------------------------------------
def create(node: str, hospital: str, *, epsilon: float, delta: float, approximate_delta: float = 0.0) -> Scope:
    """The node's first block, or the one that is there. Its order and caps are frozen at creation.

    ``delta`` is the Renyi filter's. Mechanisms that fail with a probability of their own may together add
    ``approximate_delta`` to it, so the block guarantees (epsilon, delta + approximate_delta).
    """
    first = Scope.objects.filter(kind=ScopeKind.BLOCK, key=block_key(node), unit=Unit.NANO_RDP)
    if (found := first.first()) is not None:
        return found
    try:
        with transaction.atomic():
            return _create(node, hospital, 1, epsilon, delta, approximate_delta)
    except Conflict:
        return first.get()


def open_next(node: str, hospital: str, *, epsilon: float, delta: float, approximate_delta: float = 0.0) -> Scope:
    """A further block, for the patients who come from now on. Blocks that are open stay open.

    Raises:
        Conflict: somebody else opened one at the same moment.
    """
    with transaction.atomic():
        following = 1 + max((number(scope) for scope in _all(node)), default=0)
        return _create(node, hospital, following, epsilon, delta, approximate_delta)


def _create(node: str, hospital: str, nth: int, epsilon: float, delta: float, approximate_delta: float) -> Scope:
    cap = accounting.block_cap(epsilon, delta)
    if not 0 <= approximate_delta < 0.5:
        raise InvalidParameter("approximate_delta must lie between 0 and 0.5.", field="approximate_delta")
    scopes = [
        Scope(
            kind=ScopeKind.BLOCK,
            key=block_key(node, nth),
            unit=unit,
            cap=amount,
            epsilon=epsilon,
            delta=delta,
            alpha=cap.alpha,
            hospital=hospital,
            label=f"records of {hospital}" if nth == 1 else f"records of {hospital}, part {nth}",
        )
        for unit, amount in ((Unit.NANO_RDP, cap.nano), (Unit.FEMTO_DELTA, femto(approximate_delta)))
    ]
    try:
        with transaction.atomic():
            Scope.objects.bulk_create(scopes)
    except IntegrityError:
        raise Conflict("The block was opened by somebody else at the same moment.") from None
    record(Event(kind="block.open", hospital=hospital, details={"scope": scopes[0].key, "epsilon": epsilon}))
    return scopes[0]


def retire(node: str, nth: int) -> Scope:
    """Closes a block for good: its patients are in no further answer over records.

    Raises:
        InvalidParameter: the node has no such block. Conflict: it is retired already.
    """
    with transaction.atomic():
        rows = Scope.objects.filter(kind=ScopeKind.BLOCK, key=block_key(node, nth))
        if not rows.exists():
            raise InvalidParameter(f"There is no block {nth}.", field="number")
        if not rows.filter(retired_at=None).update(retired_at=timezone.now()):
            raise Conflict(f"Block {nth} is retired already.")
        scope = rows.get(unit=Unit.NANO_RDP)
        record(Event(kind="block.retire", hospital=scope.hospital, details={"scope": scope.key}))
    return scope


def other_nodes() -> list[str]:
    """Keys of blocks in this database that another node's name opened: the same patients must not pay twice."""
    mine = {scope.key for scope in every()}
    return [key for key in Scope.objects.filter(kind=ScopeKind.BLOCK).values_list("key", flat=True) if key not in mine]


def _all(node: str) -> list[Scope]:
    scopes = Scope.objects.filter(kind=ScopeKind.BLOCK, unit=Unit.NANO_RDP, key__startswith=f"block:{node}:")
    return sorted(scopes, key=number)


def every() -> list[Scope]:
    """All blocks of this node, retired ones too, in their order."""
    return _all(settings.NODE_ID)


def open_blocks() -> list[Scope]:
    """The blocks that can be charged, in their order.

    Raises:
        BlockExhausted: the hospital has none.
    """
    scopes = every()
    found = [scope for scope in scopes if scope.retired_at is None]
    if not found:
        retired = "All privacy blocks of this hospital are retired." if scopes else None
        raise BlockExhausted(retired or "This hospital has opened no privacy block.")
    return found


def intake() -> int:
    """The number of the block that patients belong to who are taken in now.

    Where the newest block is retired it is the next one, which will pay once it is opened.
    """
    scopes = every()
    if not scopes:
        return 1
    return number(scopes[-1]) + int(scopes[-1].retired_at is not None)


# --- charges --------------------------------------------------------------------------------------------------------
def charge(scope: Scope, plan: Plan) -> Charge:
    """The whole plan's cost in the block's units, rounded up.

    Raises:
        InvalidParameter: the plan speaks of other neighbours than the block, whose costs do not compose with its own.
    """
    if (plan.event.adjacency, plan.event.unit) != (ADJACENCY, "patient"):
        raise InvalidParameter("A block pays for releases under swap of one patient's record.", field="adjacency")
    alpha, _, _ = statement.order_of(scope)
    return Charge(scope.pk, plan.nano_at(alpha))


def spent(scope: Scope, plan: Plan, tokens: int, *, withheld: bool = False) -> int:
    """What was released costs in the block's units, rounded up.

    Of a text the first ``tokens`` tokens; of a choice that its check ``withheld`` the check alone; else all.
    """
    alpha, _, _ = statement.order_of(scope)
    if isinstance(plan, ConfidentChoicePlan) and withheld:
        return plan.nano_of_check(alpha)
    if isinstance(plan, TextPlan):
        return accounting.nano_rdp_up(plan.rho_of(tokens), alpha)
    return plan.nano_at(alpha)


def pay(
    reservation: UUID, plan: Plan, scopes: list[Scope] | None = None, *, approximate_delta: float = 0.0
) -> list[Scope]:
    """Reserves the plan's whole cost and returns the blocks that pay it.

    These are all of ``scopes``; or, when that is None, those open blocks that can. Which they are follows from the
    ledger alone, never from records. ``approximate_delta`` is the mechanism's own.

    Raises:
        BlockExhausted: a named block, or every open one, cannot pay; nothing was charged.
    """
    asked = open_blocks() if scopes is None else scopes
    left, refusal = {scope.pk: scope for scope in asked}, BlockExhausted()
    while left:
        charges, owner = _charges(list(left.values()), plan, approximate_delta)
        request = ledger.Request(id=reservation, charges=charges, event=plan.to_event(), release=plan.event)
        verdict = ledger.reserve_many([request])[0]
        if verdict == ledger.RESERVED:
            return list(left.values())
        found = ledger.refusal(verdict, next(c.amount for c in charges if c.scope_id == verdict))
        refusal = found if isinstance(found, BlockExhausted) else refusal
        if scopes is not None:
            break
        left.pop(owner[verdict])
    raise refusal


def _charges(scopes: list[Scope], plan: Plan, approximate_delta: float) -> tuple[list[Charge], dict[int, int]]:
    """What each block pays, and which block each charged row belongs to."""
    charges, owner = [charge(scope, plan) for scope in scopes], {scope.pk: scope.pk for scope in scopes}
    if approximate_delta:
        rows = Scope.objects.filter(unit=Unit.FEMTO_DELTA, key__in=[scope.key for scope in scopes])
        deltas = {row.key: row.pk for row in rows}
        for scope in scopes:
            if scope.key not in deltas:
                raise BlockExhausted("This block has no delta for approximate mechanisms.")
            charges.append(Charge(deltas[scope.key], femto(approximate_delta)))
            owner[deltas[scope.key]] = scope.pk
    return charges, owner


def paying(reservation: UUID) -> list[Scope]:
    """The blocks that a reservation charged, in their order."""
    scopes = Scope.objects.filter(kind=ScopeKind.BLOCK, unit=Unit.NANO_RDP, entries__reservation=reservation)
    return sorted(scopes.distinct(), key=number)


def covered(reservation: UUID) -> list[int]:
    """The numbers of the blocks whose patients a reservation may read."""
    return [number(scope) for scope in paying(reservation)]


def settle(reservation: UUID, plan: Plan, tokens: int, *, withheld: bool = False) -> dict[str, int]:
    """Ends the reservation at what was released (:func:`spent`); returns what each block keeps, by the block's key."""
    scopes = paying(reservation)
    kept = {scope.pk: spent(scope, plan, tokens, withheld=withheld) for scope in scopes}
    ledger.settle(reservation, kept)
    return {scope.key: kept[scope.pk] for scope in scopes}


def delta_used(scope: Scope) -> float:
    """Delta that approximate mechanisms have taken of the block, in plain sum."""
    row = Scope.objects.filter(kind=ScopeKind.BLOCK, key=scope.key, unit=Unit.FEMTO_DELTA).first()
    return row.used / FEMTO if row else 0.0


# --- figures --------------------------------------------------------------------------------------------------------
def figures(scope: Scope) -> dict[str, Any]:
    """What the block has paid and can pay. All of it follows from requests made and tokens released: public state.

    ``epsilon_spent`` composes everything charged so far (:func:`privacy.statement.composed_quickly`); ``epsilon_left``
    is the largest single text that still fits. They do not add up to ``epsilon``: epsilon never does. ``plain_sum``
    adds the claims.
    """
    alpha, epsilon, delta = statement.order_of(scope)
    paid = statement.totals(scope)
    left = 0 if scope.retired_at is not None else scope.cap - scope.used
    return {
        "key": scope.key,
        "epsilon": epsilon,
        "delta": delta,
        "alpha": alpha,
        "cap": scope.cap,
        "used": scope.used,
        "epsilon_spent": round(paid.composed, 6),
        "epsilon_left": min(epsilon, _largest(left, alpha, delta)),
        "plain_sum": round(paid.plain_sum, 6),
        "requests": paid.requests,
        "retired": scope.retired_at is not None,
        "delta_spent": delta_used(scope),
    }


def _largest(nano: int, alpha: float, delta: float) -> float:
    """Epsilon of the largest text that divergence ``nano`` can still pay."""
    return round(accounting.epsilon_of_rho(max(nano, 0) / accounting.NANO / alpha, delta), 6)


def chief(keys: list[str] | None = None) -> dict[str, Any]:
    """Figures of the block that can pay most: of those with these keys, or of all.

    Raises:
        BlockExhausted: the hospital has opened none.
    """
    return next(told for told in all_figures() if keys is None or told["key"] in keys)


def all_figures() -> list[dict[str, Any]]:
    """:func:`figures` of every block, the one that can pay most first, retired ones last.

    Raises:
        BlockExhausted: the hospital has opened none.
    """
    scopes = every()
    if not scopes:
        raise BlockExhausted("This hospital has opened no privacy block.")
    return sorted(map(figures, scopes), key=lambda told: (told["retired"], -told["epsilon_left"]))
