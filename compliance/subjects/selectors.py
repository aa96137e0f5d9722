"""Accesses to one patient's chart, as the coordinator knows them. Nobody's name: patients are references here."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db.models import Q, QuerySet

from accounts.models import CareRelation, User
from accounts.policy import PURPOSES
from accounts.principals import Principal
from compliance import access
from compliance.models import Event
from compliance.period import Period
from compliance.subjects.accounting import Accounting, classify
from fdrouter.errors import InvalidParameter, NotFound
from federation.models import Inference, Kind

MAX_REFERENCE = 64
_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A patient of a hospital, by the hospital's own reference, and the days asked about."""

    hospital: str
    reference: str
    period: Period


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """An event about an access, and who did it."""

    seq: int
    at: datetime
    kind: str
    outcome: str
    actor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """One request that named the patient. ``in_care``: the coordinator knew a care relation at that time."""

    request: UUID
    at: datetime
    username: str
    name: str
    role: str
    department: str
    hospital: str
    kind: str
    purpose: str
    outcome: str
    reason: str
    node: str
    in_care: bool
    accounting: Accounting
    steps: list[Step]


def subject(principal: Principal, hospital: str, reference: str, period: Period) -> Subject:
    """A checked question. Whether there is such a patient is not known here, and makes no difference.

    Raises:
        NotFound: the hospital is not within reach. InvalidParameter: nothing that could be a reference.
    """
    within = access.reach(principal, hospital)
    if within is None or not access.hospitals(principal, within).exists():
        raise NotFound
    words = reference.strip()
    if len(words) > MAX_REFERENCE or not _REFERENCE.fullmatch(words):
        raise InvalidParameter(
            f"A reference has up to {MAX_REFERENCE} letters, digits and . _ : / @ - and begins with one of the first.",
            field="reference",
        )
    return Subject(hospital=within, reference=words, period=period)


def rows(asked: Subject) -> QuerySet[Inference]:
    """The requests that named this patient of this hospital, newest first; without contents."""
    begin, end = asked.period.bounds
    found = Inference.objects.filter(patient_reference=asked.reference, created_at__gte=begin, created_at__lt=end)
    found = found.exclude(patient_reference="")  # as the index says it
    here = Q(hospitals__contains=[asked.hospital]) | Q(node__hospital=asked.hospital)
    found = found.filter(here | Q(hospitals=[], department__hospital=asked.hospital))
    found = found.select_related("user", "membership", "department", "node").order_by("-created_at", "pk")
    return found.defer("request", "answer", "receipt", "details", "parameters")


def relations(asked: Subject) -> list[CareRelation]:
    """Care relations that the coordinator was told, whenever they were, the latest first."""
    found = CareRelation.objects.filter(patient_reference=asked.reference, department__hospital=asked.hospital)
    return list(found.select_related("department").order_by("-since", "pk"))


def accesses(asked: Subject, limit: int | None = None) -> list[Access]:
    """Every access of the period, newest first, each with the events about it."""
    found = list(rows(asked)[:limit])
    cared = relations(asked)
    steps = _steps([row.pk for row in found])
    return [_access(asked, row, cared, steps[row.pk]) for row in found]


def _steps(keys: list[UUID]) -> dict[UUID, list[Step]]:
    events = list(Event.objects.filter(subject__in=keys).defer("sealed", "commitment", "details").order_by("seq"))
    names = dict(User.objects.filter(pk__in={e.actor_id for e in events}).values_list("pk", "username"))
    told: dict[UUID, list[Step]] = defaultdict(list)
    for event in events:
        if event.subject is not None:
            actor = names.get(event.actor_id or 0, "")
            step = Step(seq=event.seq, at=event.at, kind=event.kind, outcome=event.outcome, actor=actor)
            told[event.subject].append(step)
    return told


def _access(asked: Subject, row: Inference, cared: list[CareRelation], steps: list[Step]) -> Access:
    place = row.department
    home = place.hospital_id if place else row.membership.hospital_id or ""
    inside = home == asked.hospital and (row.node is None or row.node.hospital_id == asked.hospital)
    return Access(
        request=row.pk,
        at=row.created_at,
        username=row.user.get_username(),
        name=row.user.get_full_name() or row.user.get_username(),
        role=str(row.membership.get_role_display()),
        department=place.name if place else "",
        hospital=home,
        kind=str(Kind(row.kind).label) if row.kind in Kind.values else row.kind,
        purpose=PURPOSES.get(row.purpose, row.purpose),
        outcome=row.state,
        reason=row.reason,
        node=row.node_id or "",
        in_care=any(_held(relation, row) for relation in cared),
        accounting=classify(row.purpose, inside=inside),
        steps=steps,
    )


def _held(relation: CareRelation, row: Inference) -> bool:
    """Whether the patient was in the care of the asking department at the time of the request."""
    ended = relation.ended_at
    return (
        relation.department_id == row.department_id
        and relation.since <= row.created_at
        and (ended is None or ended > row.created_at)
    )


def counts(found: list[Access]) -> dict[str, int]:
    """The figures above the rows."""
    by_class = Counter("owed" if row.accounting.owed else "exempt" for row in found)
    return {
        "accesses": len(found),
        "people": len({row.username for row in found}),
        "outside_care": sum(not row.in_care for row in found),
        "owed": by_class["owed"],
        "exempt": by_class["exempt"],
    }
