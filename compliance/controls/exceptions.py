"""The only writer of exceptions from controls: officers make and withdraw them, their date ends them; all events."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from accounts.models import Role
from accounts.principals import Principal
from compliance import access
from compliance.controls.library import libraries
from compliance.controls.models import EXCEPTION_TRANSITIONS, ControlException, ExceptionState
from fdrouter import evidence
from fdrouter.errors import Conflict, InvalidParameter, NotFound, PolicyDenied

LONGEST = timedelta(days=366)
MAX_REASON, MAX_OWNER = 400, 120
ONCE = "control_exception_once"


def may_except(principal: Principal) -> bool:
    """Officers accept a risk for a while; auditors read about it."""
    return principal.sees_portal and principal.role == Role.PRIVACY_OFFICER


def _event(row: ControlException, outcome: str, actor: int | None) -> evidence.Event:
    details: dict[str, Any] = {"control": row.control, "expires_on": row.expires_on.isoformat()}
    if outcome == "made":
        details |= {"reason": row.reason, "owner": row.owner}
    return evidence.Event(
        kind="control.exception",
        outcome=outcome,
        actor_id=actor,
        subject=row.pk,
        hospital=row.hospital or None,
        details=details,
    )


def _refuse(principal: Principal, control: str) -> None:
    details = {"control": control, "role": principal.role}
    evidence.record(
        evidence.Event(
            kind="control.exception",
            outcome="denied",
            actor_id=principal.user_id,
            hospital=principal.hospital,
            details=details,
        )
    )
    raise PolicyDenied("Only a privacy officer can make or withdraw an exception.")


def make(principal: Principal, *, control: str, reason: str, owner: str, expires_on: date) -> ControlException:
    """Accepts that a control is not met until the end of a day, for the officer's hospital or the whole network.

    Raises:
        NotFound: the portal, or the control, is not there for this person. PolicyDenied: not an officer.
        InvalidParameter: no reason or owner, or an end in the past or more than a year ahead.
        Conflict: there is one in force already.
    """
    access.reach(principal)
    if control not in {row.id for library in libraries() for row in library.controls}:
        raise NotFound
    if not may_except(principal):
        _refuse(principal, control)
    today = timezone.localdate()
    words, who = " ".join(reason.split()), " ".join(owner.split())
    if not 10 <= len(words) <= MAX_REASON:
        raise InvalidParameter(f"Give a reason of 10 to {MAX_REASON} characters.", field="reason")
    if not 2 <= len(who) <= MAX_OWNER:
        raise InvalidParameter("Say who answers for it.", field="owner")
    if not today <= expires_on <= today + LONGEST:
        raise InvalidParameter("Choose an end between today and a year from now.", field="expires_on")
    end_expired()
    try:
        with transaction.atomic():
            row = ControlException.objects.create(
                control=control,
                hospital=principal.hospital or "",
                reason=words,
                owner=who,
                expires_on=expires_on,
                made_by_id=principal.user_id,
            )
            evidence.record(_event(row, "made", principal.user_id))
    except IntegrityError as error:
        if ONCE not in str(error):
            raise
        raise Conflict("There is an exception in force already. Withdraw it first.") from None
    return row


def withdraw(principal: Principal, exception_id: UUID) -> ControlException:
    """Ends an exception before its date.

    Raises:
        NotFound: there is none, or not for this person to end. PolicyDenied: not an officer.
        Conflict: it has ended already.
    """
    row = visible(principal).filter(pk=exception_id, hospital=principal.hospital or "").first()
    if row is None:
        raise NotFound
    if not may_except(principal):
        _refuse(principal, row.control)
    with transaction.atomic():
        if not _advance(row, ExceptionState.WITHDRAWN, by=principal.user_id):
            raise Conflict("It has ended already.")
        evidence.record(_event(row, "withdrawn", principal.user_id))
    return row


def _advance(row: ControlException, state: ExceptionState, *, by: int | None = None) -> bool:
    """Compare-and-set; whether this call ended it."""
    now = timezone.now()
    before = [former for former, following in EXCEPTION_TRANSITIONS.items() if state in following]
    changed = ControlException.objects.filter(pk=row.pk, state__in=before).update(
        state=state, ended_at=now, ended_by_id=by
    )
    if changed:
        row.state, row.ended_at, row.ended_by_id = state, now, by
    return bool(changed)


def end_expired() -> int:
    """Marks the exceptions whose day is over, with an event each; returns how many.

    Nothing waits for it: an exception whose day is over counts no more, marked or not.
    """
    over = ControlException.objects.filter(state=ExceptionState.ACTIVE, expires_on__lt=timezone.localdate())
    ended = 0
    for row in over.order_by("pk"):
        with transaction.atomic():
            if _advance(row, ExceptionState.EXPIRED):
                evidence.record(_event(row, "expired", None))
                ended += 1
    return ended


def visible(principal: Principal) -> QuerySet[ControlException]:
    """Exceptions within reach, newest first: those of the network are everybody's, a hospital's its own people's."""
    within = access.reach(principal)
    rows = ControlException.objects.select_related("made_by", "ended_by").order_by("-made_at")
    return rows if within is None else rows.filter(Q(hospital="") | Q(hospital=within))


def in_force(principal: Principal) -> dict[str, ControlException]:
    """The exception that counts for this person's matrix, by control: its hospital's own, or else the network's.

    One hospital's exception excuses nothing for the network.
    """
    rows = visible(principal).filter(state=ExceptionState.ACTIVE, expires_on__gte=timezone.localdate())
    if principal.hospital is None:
        rows = rows.filter(hospital="")
    return {row.control: row for row in rows.order_by("hospital")}
