"""The hospital's dataset block: the budget that carries the guarantee. It is charged here and nowhere else."""

from __future__ import annotations

from typing import Any

from django.conf import settings

from fdrouter.errors import BlockExhausted
from privacy import statement
from privacy.dp import accounting
from privacy.dp.cohort_plans import Plan
from privacy.dp.text_plan import TextPlan
from privacy.ledger import Charge
from privacy.models import Scope, ScopeKind, Unit


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


def charge(scope: Scope, plan: Plan) -> Charge:
    """The whole plan's cost in the block's units, rounded up."""
    alpha, _, _ = statement.order_of(scope)
    return Charge(scope.pk, plan.nano_at(alpha))


def spent(scope: Scope, plan: Plan, tokens: int) -> int:
    """What was released costs in the block's units, rounded up: of a text the first ``tokens`` tokens, else all."""
    alpha, _, _ = statement.order_of(scope)
    if isinstance(plan, TextPlan):
        return accounting.nano_rdp_up(plan.rho_of(tokens), alpha)
    return plan.nano_at(alpha)


def figures(scope: Scope) -> dict[str, Any]:
    """What the block has paid and can pay. All of it follows from requests made and tokens released: public state.

    ``epsilon_spent`` composes everything charged so far (:func:`privacy.statement.composed_quickly`); ``epsilon_left``
    is the largest single text that still fits. They do not add up to ``epsilon``: epsilon never does. ``plain_sum``
    adds the claims.
    """
    alpha, epsilon, delta = statement.order_of(scope)
    paid = statement.totals(scope)
    return {
        "key": scope.key,
        "epsilon": epsilon,
        "delta": delta,
        "alpha": alpha,
        "cap": scope.cap,
        "used": scope.used,
        "epsilon_spent": round(paid.composed, 6),
        "epsilon_left": min(epsilon, _largest(scope.cap - scope.used, alpha, delta)),
        "plain_sum": round(paid.plain_sum, 6),
        "requests": paid.requests,
    }


def _largest(nano: int, alpha: float, delta: float) -> float:
    """Epsilon of the largest text that divergence ``nano`` can still pay."""
    return round(accounting.epsilon_of_rho(max(nano, 0) / accounting.NANO / alpha, delta), 6)
