"""More of a quota for one day: asked by the person who needs it, decided by a second one, written by the ledger.

A grant moves policy, never the guarantee: blocks cannot be granted anything.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import date
from uuid import UUID
from zoneinfo import ZoneInfo

from django.db import IntegrityError, connection, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from accounts.models import Department, Role
from accounts.principals import Principal
from fdrouter.errors import Conflict, InvalidParameter, NotFound, PolicyDenied, QuotaSpent
from fdrouter.evidence import Event, record
from privacy import quotas
from privacy.dp.units import micro
from privacy.limits import MAX_EPSILON
from privacy.models import GrantState, QuotaGrant, Scope, ScopeKind, Unit

MAX_REASON = 300
LEAST = 0.01
#: The quotas a person may ask more of, by what they call them.
TARGETS = {"user": "user_epsilon", "department": "department_epsilon", "hospital": "hospital_epsilon"}


def may_decide(principal: Principal) -> bool:
    """Whether wishes of others are this person's to decide: a hospital's privacy officer, or the network's."""
    return principal.role == Role.PRIVACY_OFFICER


def _today(scope: Scope) -> date:
    return timezone.now().astimezone(ZoneInfo(scope.time_zone)).date()


def request(principal: Principal, *, target: str, epsilon: object, reason: str, source: str = "") -> QuotaGrant:
    """Asks for ``epsilon`` more for today, of the person's own quota, their department's or their hospital's.

    ``source``: the code of another department of the same hospital that would give it; empty for a plain grant.

    Raises:
        InvalidParameter: a bad value. PolicyDenied: not a clinical post. NotFound: no such department.
        Conflict: the person's earlier wish for this quota waits for its decision.
    """
    if not principal.is_clinical:
        raise PolicyDenied("Only people who may ask questions have quotas.")
    if target not in TARGETS:
        raise InvalidParameter(f"target must be one of {', '.join(TARGETS)}.", field="target")
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not LEAST <= epsilon <= MAX_EPSILON:
        raise InvalidParameter(f"The privacy cost must lie between {LEAST:g} and {MAX_EPSILON:g}.", field="epsilon")
    words = " ".join(str(reason).replace("\0", "").split())
    if not 5 <= len(words) <= MAX_REASON:
        raise InvalidParameter(f"Give a reason of 5 to {MAX_REASON} characters.", field="reason")
    scope = Scope.objects.get(pk=getattr(quotas.scopes_for(principal), TARGETS[target]))
    giver = _department(principal, source) if source else None
    if giver == scope:
        raise InvalidParameter("A quota cannot give to itself.", field="source")
    try:
        with transaction.atomic():
            grant = QuotaGrant.objects.create(
                id=uuid.uuid4(),
                scope=scope,
                source=giver,
                amount=micro(float(epsilon)),
                reason=words,
                period=_today(scope),
                requested_by=principal.user_id,
            )
            record(_event(grant, principal, "quota.request", "ok"))
    except IntegrityError:
        raise Conflict("You have asked for more of this already; it waits for its decision.") from None
    return grant


def _department(principal: Principal, code: str) -> Scope:
    row = Department.objects.filter(hospital_id=principal.hospital, code=code).first()
    scope = (
        row
        and Scope.objects.filter(
            kind=ScopeKind.DEPARTMENT, key=quotas.department_key(row.pk), unit=Unit.MICRO_EPSILON
        ).first()
    )
    if not scope:
        raise NotFound("There is no such department with a quota at your hospital.", field="source")
    return scope


def visible(principal: Principal) -> QuerySet[QuotaGrant]:
    """A person's own wishes; for whoever decides, those of their hospital (of all, without one), newest first."""
    rows = QuotaGrant.objects.select_related("scope", "source").order_by("-requested_at", "pk")
    if may_decide(principal):
        return rows.filter(scope__hospital=principal.hospital) if principal.hospital else rows
    return rows.filter(requested_by=principal.user_id)


def waiting(principal: Principal) -> list[QuotaGrant]:
    """What this person can decide now: open wishes of others whose day is not over."""
    if not may_decide(principal):
        return []
    open_rows = visible(principal).filter(state=GrantState.REQUESTED).exclude(requested_by=principal.user_id)
    return [grant for grant in open_rows if grant.period == _today(grant.scope)]


def decide(principal: Principal, grant_id: UUID, *, approve: bool) -> QuotaGrant:
    """Approves or denies once.

    Raises:
        NotFound: no such wish for this person to decide. Conflict: it is decided, or its day is over.
        QuotaSpent: the department that was to give it cannot spare it.
    """
    if not may_decide(principal):
        raise NotFound
    with transaction.atomic():
        grant = visible(principal).select_for_update(of=("self",)).filter(pk=grant_id).first()
        if grant is None or grant.requested_by == principal.user_id:
            raise NotFound
        if grant.state != GrantState.REQUESTED:
            raise Conflict("This wish has been decided.", state=grant.state)
        if approve:
            if grant.period != _today(grant.scope):
                raise Conflict("The day that this was asked for is over.")
            _move(grant)
        grant.state = GrantState.APPROVED if approve else GrantState.DENIED
        grant.decided_by, grant.decided_at = principal.user_id, timezone.now()
        grant.save(update_fields=["state", "decided_by", "decided_at"])
        record(_event(grant, principal, "quota.grant" if approve else "quota.deny", "ok"))
    return grant


def _move(grant: QuotaGrant) -> None:
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT ledger_grant(%s, %s, %s)", [grant.scope_id, grant.source_id, grant.amount])
    except IntegrityError:
        source = grant.source
        name = source.label if source else ""
        raise QuotaSpent(f"{name} cannot spare this today.", scope=source.kind if source else "") from None


def _event(grant: QuotaGrant, principal: Principal, kind: str, outcome: str) -> Event:
    return Event(
        kind=kind,
        outcome=outcome,
        actor_id=principal.user_id,
        subject=grant.pk,
        hospital=principal.hospital,
        department=principal.department,
        details={
            "scope": grant.scope_id,
            "source": grant.source_id,
            "amount": grant.amount,
            "period": grant.period.isoformat(),
            "requested_by": grant.requested_by,
        },
    )


def granted_today(scopes: Iterable[Scope]) -> dict[int, int]:
    """What the approved grants of its present day add up to, by scope; ``extra`` must say the same."""
    totals: dict[int, int] = {}
    for scope in scopes:
        rows = QuotaGrant.objects.filter(Q(scope=scope) | Q(source=scope), state=GrantState.APPROVED).filter(
            Q(period=scope.period) if scope.period else Q(pk=None)
        )
        totals[scope.pk] = sum(g.amount if g.scope_id == scope.pk else -g.amount for g in rows)
    return totals
