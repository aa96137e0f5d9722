"""The only writer of cases and their notes. Steps are compare-and-set, each with an event that holds no contents.

Nobody has a part in a case about themselves: for them it is not there, and the database refuses their name in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.utils import timezone

from accounts.models import Membership, Role, User
from accounts.principals import Principal
from compliance import access
from compliance.anomalies.models import (
    CASE_TRANSITIONS,
    AnomalyCase,
    AnomalyCaseNote,
    AnomalyFinding,
    CaseState,
    Decision,
)
from compliance.anomalies.parameters import parameters
from compliance.anomalies.selectors import visible_cases, visible_findings
from fdrouter import crypto, evidence
from fdrouter.errors import Conflict, InvalidParameter, NotFound, PolicyDenied

MAX_NOTE = 4000
MAX_FINDINGS = 200
PURPOSE = "anomaly-case-note"
_SATURDAY = 5
_MOVED_ON = "Somebody has moved this case on meanwhile. Look at it again."


def may_act(principal: Principal) -> bool:
    """Officers work on cases; auditors read them."""
    return principal.sees_portal and principal.role == Role.PRIVACY_OFFICER


def due(opened: datetime, working_days: int) -> datetime:
    """The same time of day after so many days from Monday to Friday, in the site's zone. It knows no holidays."""
    at, left = timezone.localtime(opened), working_days
    while left:
        at += timedelta(days=1)
        left -= at.weekday() < _SATURDAY
    return at


def officers(principal: Principal, case: AnomalyCase) -> QuerySet[User]:
    """Who may be given the case: officers of its hospital and of the network, but whom it is about."""
    posts = Membership.objects.filter(active=True, role=Role.PRIVACY_OFFICER)
    posts = posts.filter(Q(hospital=None) | Q(hospital=case.hospital)) if case.hospital else posts.filter(hospital=None)
    people = User.objects.filter(pk__in=posts.values("user_id"), is_active=True).order_by("username")
    return people.exclude(pk=case.person_id) if case.person_id else people


# --- opening ------------------------------------------------------------------------------------------------------
def open_from_findings(principal: Principal, findings: Sequence[UUID], note: str = "") -> AnomalyCase:
    """Opens a case about one person from findings that no case has yet.

    Raises:
        NotFound: a finding is not within reach. PolicyDenied: not an officer.
        InvalidParameter: none chosen, or of several people. Conflict: a case has one of them already.
    """
    _officers_only(principal, None)
    keys = set(findings)
    if not 1 <= len(keys) <= MAX_FINDINGS:
        raise InvalidParameter("Choose the findings that the case is about.", field="findings")
    with transaction.atomic():
        rows = list(visible_findings(principal).filter(pk__in=keys).select_for_update(of=("self",)).order_by("pk"))
        if len(rows) != len(keys):
            raise NotFound
        if len({(row.person_id, row.hospital) for row in rows}) > 1:
            raise InvalidParameter("A case is about one person: choose findings of one.", field="findings")
        if any(row.case_id for row in rows):
            raise Conflict("One of these findings belongs to a case already.")
        case = _create(principal, hospital=rows[0].hospital, person=rows[0].person_id, findings=len(rows))
        AnomalyFinding.objects.filter(pk__in=keys, case=None).update(case=case)
        if note.strip():
            _note(principal, case, note)
    return case


def open_by_hand(principal: Principal, *, note: str, username: str = "") -> AnomalyCase:
    """Opens a case that no rule found: about somebody within reach, or nobody yet. The note says why.

    Raises:
        NotFound: there is no portal for this person. PolicyDenied: not an officer.
        InvalidParameter: no note, nobody of this name within reach, or oneself.
    """
    within = access.reach(principal)
    _officers_only(principal, None)
    hospital, person = within or "", None
    if username.strip():
        posts = Membership.objects.filter(user__username=username.strip(), active=True)
        post = (posts if within is None else posts.filter(hospital=within)).first()
        if post is None:
            raise InvalidParameter("Nobody here has this user name.", field="username")
        if post.user_id == principal.user_id:
            raise InvalidParameter("Nobody opens a case about themselves. Ask another officer.", field="username")
        hospital, person = post.hospital_id or "", post.user_id
    with transaction.atomic():
        case = _create(principal, hospital=hospital, person=person, findings=0)
        _note(principal, case, note)
    return case


def _create(principal: Principal, *, hospital: str, person: int | None, findings: int) -> AnomalyCase:
    now = timezone.now()
    case = AnomalyCase.objects.create(
        hospital=hospital,
        person_id=person,
        opened_by_id=principal.user_id,
        opened_at=now,
        due_at=due(now, parameters().working_days),
    )
    evidence.record(_event(case, principal, "opened", findings=findings))
    return case


def link(principal: Principal, case_id: UUID, findings: Sequence[UUID]) -> AnomalyCase:
    """Adds findings about the same person to a case that is not decided.

    Raises:
        NotFound: case or finding is not within reach, or of another person. PolicyDenied: not an officer.
        Conflict: the case is decided, or a finding belongs to one already.
    """
    case, keys = _mine(principal, case_id), set(findings)
    with transaction.atomic():
        held = AnomalyCase.objects.select_for_update().get(pk=case.pk)
        if held.state not in (CaseState.OPEN, CaseState.ASSIGNED):
            raise Conflict("This case is decided. Open it again first.")
        rows = visible_findings(principal).filter(pk__in=keys, person=held.person_id, hospital=held.hospital)
        if not keys or rows.count() != len(keys):
            raise NotFound
        if AnomalyFinding.objects.filter(pk__in=keys, case=None).update(case=held) != len(keys):
            raise Conflict("One of these findings belongs to a case already.")
        evidence.record(_event(held, principal, "linked", findings=len(keys)))
    return held


# --- steps --------------------------------------------------------------------------------------------------------
def assign(principal: Principal, case_id: UUID, version: int, assignee: int) -> AnomalyCase:
    """Gives the case to an officer, oneself included.

    Raises:
        NotFound, PolicyDenied, Conflict: as for every step. InvalidParameter: the officer may not have it.
    """
    case = _mine(principal, case_id)
    if not officers(principal, case).filter(pk=assignee).exists():
        raise InvalidParameter("Choose an officer who may work on this case.", field="assignee")
    return _step(principal, case, version, CaseState.ASSIGNED, "assigned", {"assignee": assignee}, assignee_id=assignee)


def decide(principal: Principal, case_id: UUID, version: int, decision: str, note: str) -> AnomalyCase:
    """Decides it, with the reasons in a note. Only the officer who has the case does, never about themselves.

    Raises:
        NotFound, PolicyDenied, Conflict: as for every step; PolicyDenied also where another officer has it.
        InvalidParameter: no such decision, or no note.
    """
    case = _mine(principal, case_id)
    if decision not in Decision.values:
        raise InvalidParameter("Choose a decision.", field="decision")
    if case.state == CaseState.ASSIGNED and case.assignee_id != principal.user_id:
        _refuse(principal, case, "Only the officer who has this case decides it.")
    now = timezone.now()
    return _step(
        principal,
        case,
        version,
        CaseState.DECIDED,
        "decided",
        {"decision": decision},
        note=note,
        decision=decision,
        decided_by_id=principal.user_id,
        decided_at=now,
    )


def close(principal: Principal, case_id: UUID, version: int) -> AnomalyCase:
    """Closes a decided case: what was decided is done.

    Raises:
        NotFound, PolicyDenied, Conflict: as for every step.
    """
    case = _mine(principal, case_id)
    return _step(principal, case, version, CaseState.CLOSED, "closed", {}, closed_at=timezone.now())


def reopen(principal: Principal, case_id: UUID, version: int, note: str) -> AnomalyCase:
    """Looks at it again, with a new clock. What was decided before stays in the log.

    Raises:
        NotFound, PolicyDenied, Conflict: as for every step. InvalidParameter: no note.
    """
    case, now = _mine(principal, case_id), timezone.now()
    cleared: dict[str, Any] = {name: None for name in ("assignee_id", "decided_by_id", "decided_at", "closed_at")}
    fields = cleared | {"decision": "", "due_at": due(now, parameters().working_days)}
    return _step(principal, case, version, CaseState.OPEN, "reopened", {"before": case.decision}, note=note, **fields)


def _step(
    principal: Principal,
    case: AnomalyCase,
    version: int,
    state: CaseState,
    outcome: str,
    details: dict[str, Any],
    *,
    note: str | None = None,
    **fields: Any,
) -> AnomalyCase:
    """Compare-and-set on state and version. ``note``, where it is not ``None``, must not be empty."""
    before = [former for former, following in CASE_TRANSITIONS.items() if state in following]
    with transaction.atomic():
        rows = AnomalyCase.objects.filter(pk=case.pk, version=version, state__in=before)
        if not rows.update(state=state, version=F("version") + 1, **fields):
            raise Conflict(_MOVED_ON)
        case.refresh_from_db()
        evidence.record(_event(case, principal, outcome, **details))
        if note is not None:
            _note(principal, case, note)
    return case


# --- notes --------------------------------------------------------------------------------------------------------
def add_note(principal: Principal, case_id: UUID, text: str) -> AnomalyCaseNote:
    """Writes a note, at any state of the case.

    Raises:
        NotFound, PolicyDenied: as for every step. InvalidParameter: empty or too long.
    """
    case = _mine(principal, case_id)
    with transaction.atomic():
        return _note(principal, case, text)


def _note(principal: Principal, case: AnomalyCase, text: str) -> AnomalyCaseNote:
    words = text.strip()
    if not 3 <= len(words) <= MAX_NOTE:
        raise InvalidParameter(f"Write a note of 3 to {MAX_NOTE} characters.", field="note")
    key = uuid4()
    sealed = crypto.seal(PURPOSE, key.bytes + case.pk.bytes, words.encode())
    row = AnomalyCaseNote.objects.create(id=key, case=case, by_id=principal.user_id, at=timezone.now(), text=sealed)
    evidence.record(_event(case, principal, "noted", note=str(key), bytes=len(words.encode())))
    return row


def notes(principal: Principal, case: AnomalyCase) -> list[tuple[AnomalyCaseNote, str | None]]:
    """The notes, oldest first, in clear; reading them is an event. ``None``: it cannot be opened any more."""
    rows = list(case.notes.select_related("by").order_by("at", "pk"))
    if rows:
        evidence.record(_event(case, principal, "read", notes=len(rows)))
    return [(row, _opened(row)) for row in rows]


def _opened(row: AnomalyCaseNote) -> str | None:
    try:
        return crypto.unseal(PURPOSE, row.pk.bytes + row.case_id.bytes, row.text).decode()
    except crypto.Unreadable:
        return None


# --- who ----------------------------------------------------------------------------------------------------------
def _mine(principal: Principal, case_id: UUID) -> AnomalyCase:
    case = visible_cases(principal).filter(pk=case_id).first()
    if case is None:
        raise NotFound
    _officers_only(principal, case)
    return case


def _officers_only(principal: Principal, case: AnomalyCase | None) -> None:
    access.reach(principal)
    if not may_act(principal):
        _refuse(principal, case, "Only a privacy officer works on cases.")


def _refuse(principal: Principal, case: AnomalyCase | None, message: str) -> None:
    evidence.record(
        evidence.Event(
            kind="anomaly.case",
            outcome="denied",
            actor_id=principal.user_id,
            subject=case.pk if case else None,
            hospital=(case.hospital if case else principal.hospital) or None,
            details={"role": principal.role},
        )
    )
    raise PolicyDenied(message)


def _event(case: AnomalyCase, principal: Principal, outcome: str, **details: Any) -> evidence.Event:
    """Whom the case is about is in the private part of its first event only."""
    return evidence.Event(
        kind="anomaly.case",
        outcome=outcome,
        actor_id=principal.user_id,
        subject=case.pk,
        hospital=case.hospital or None,
        details={"state": case.state, "version": case.version, **details},
        private={"person": case.person_id} if outcome == "opened" else None,
    )
