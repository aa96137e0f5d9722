"""The hospital's dataset block: the budget that carries the guarantee. It is charged here and nowhere else."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db.models import FloatField, Sum
from django.db.models.fields.json import KT
from django.db.models.functions import Cast

from fdrouter.errors import BlockExhausted
from privacy.dp import accounting
from privacy.dp.text_plan import TextPlan
from privacy.ledger import Charge
from privacy.models import Entry, EntryKind, Reservation, ReservationState, Scope, ScopeKind, Unit


def block_key(node: str, number: int = 1) -> str:
    return f"block:{node}:{number}"


def create(node: str, hospital: str, *, epsilon: float, delta: float) -> Scope:
    """The node's first block, or the one that is there. Its order and cap are frozen at creation."""
    cap = accounting.block_cap(epsilon, delta)
    scope, _ = Scope.objects.get_or_create(
        kind=ScopeKind.BLOCK,
        key=block_key(node),
        unit=Unit.NANO_RDP,
        defaults={
            "cap": cap.nano,
            "epsilon": epsilon,
            "delta": delta,
            "alpha": cap.alpha,
            "hospital": hospital,
            "label": f"records of {hospital}",
        },
    )
    return scope


def current() -> Scope:
    """The block that requests are charged to now.

    Raises:
        BlockExhausted: the hospital has opened none.
    """
    scope = Scope.objects.filter(kind=ScopeKind.BLOCK, key=block_key(settings.NODE_ID)).first()
    if scope is None:
        raise BlockExhausted("This hospital has opened no privacy block.")
    return scope


def _order(scope: Scope) -> tuple[float, float, float]:
    if scope.alpha is None or scope.epsilon is None or scope.delta is None:
        raise BlockExhausted("The block's parameters are missing.")
    return scope.alpha, scope.epsilon, scope.delta


def charge(scope: Scope, plan: TextPlan) -> Charge:
    """The whole plan's cost in the block's units, rounded up."""
    alpha, _, _ = _order(scope)
    return Charge(scope.pk, accounting.nano_rdp_up(plan.rho, alpha))


def spent(scope: Scope, plan: TextPlan, tokens: int) -> int:
    """What the first ``tokens`` tokens cost in the block's units, rounded up."""
    alpha, _, _ = _order(scope)
    return accounting.nano_rdp_up(plan.rho_of(tokens), alpha)


def figures(scope: Scope) -> dict[str, Any]:
    """What the block has paid and can pay. All of it follows from requests made and tokens released: public state.

    ``epsilon_spent`` composes everything charged so far (zCDP, best order); ``epsilon_left`` is the largest single
    request that still fits. They do not add up to ``epsilon``: epsilon never does. ``plain_sum`` adds the claims.
    """
    alpha, epsilon, delta = _order(scope)
    charged = Reservation.objects.filter(
        pk__in=Entry.objects.filter(scope=scope, kind=EntryKind.RESERVE).values("reservation")
    ).exclude(state=ReservationState.RELEASED)
    plain = charged.aggregate(total=Sum(Cast(KT("event__epsilon"), FloatField())))["total"] or 0.0
    return {
        "key": scope.key,
        "epsilon": epsilon,
        "delta": delta,
        "alpha": alpha,
        "cap": scope.cap,
        "used": scope.used,
        "epsilon_spent": _epsilon(scope.used, alpha, delta),
        "epsilon_left": min(epsilon, _epsilon(scope.cap - scope.used, alpha, delta)),
        "plain_sum": round(plain, 6),
        "requests": charged.count(),
    }


def _epsilon(nano: int, alpha: float, delta: float) -> float:
    return round(accounting.epsilon_of_rho(max(nano, 0) / accounting.NANO / alpha, delta), 6)
