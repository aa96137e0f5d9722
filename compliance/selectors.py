"""Rows and counts of requests, evidence and reports, within the reach of who asks. Never prompts or answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from django.db.models import (
    BigIntegerField,
    Count,
    F,
    Max,
    Min,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    Sum,
    TextField,
    Value,
)
from django.db.models.fields.json import KeyTextTransform
from django.db.models.functions import Coalesce
from django.utils import timezone

from accounts.models import Membership, User
from accounts.principals import Principal
from compliance import access
from compliance.models import Event, Report
from compliance.period import Period
from federation.models import Inference, Kind
from federation.states import TERMINAL, InferenceState
from privacy.models import Entry, GrantState, QuotaGrant, ScopeKind, Unit

NO_CONTENT = ("request", "answer")
"""The sealed contents: no query of the portal loads them."""


# --- requests -----------------------------------------------------------------------------------------------------
def _requests(principal: Principal, hospital: str | None = None) -> QuerySet[Inference]:
    """Requests by a hospital's people and those that its node answered; all for the whole network."""
    within = access.reach(principal, hospital)
    rows = Inference.objects.all()
    if within is None:
        return rows
    together = Q(node=None, receipt__body__hospitals__contains=[within])
    return rows.filter(Q(department__hospital=within) | Q(node__hospital=within) | together)


def _charged(kind: ScopeKind) -> Subquery:
    """What a request's reservation (of the same id) still charges to its scope of this kind, in micro-epsilon."""
    lines = (
        Entry.objects.filter(reservation=OuterRef("pk"), scope__kind=kind, scope__unit=Unit.MICRO_EPSILON)
        .order_by()
        .values("reservation")
        .annotate(total=Sum("amount"))
        .values("total")
    )
    return Subquery(lines, output_field=BigIntegerField())


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFilter:
    """What the requests page may narrow by; empty values do not narrow."""

    period: Period | None = None
    hospital: str = ""
    department: str = ""
    kind: str = ""
    state: str = ""
    reason: str = ""
    node: str = ""
    user: str = ""
    id: UUID | None = None


REQUEST_SORTS = {
    "time": "created_at",
    "who": "user__username",
    "role": "membership__role",
    "department": "department__name",
    "hospital": "department__hospital_id",
    "kind": "kind",
    "state": "state",
    "reason": "reason",
    "node": "node_id",
    "cost": "charged",
    "receipt": "receipt_digest",
    "id": "id",
}


def requests(principal: Principal, chosen: RequestFilter, sort: str = "-time") -> QuerySet[Inference]:
    """The rows of the requests page: ``charged`` (micro-epsilon) and ``receipt_digest`` come with each."""
    rows = _narrow(_requests(principal, chosen.hospital), chosen)
    rows = rows.annotate(
        charged=Coalesce(_charged(ScopeKind.DEPARTMENT), _charged(ScopeKind.USER), Value(0, BigIntegerField())),
        receipt_digest=KeyTextTransform("digest", "receipt", output_field=TextField()),
    )
    rows = rows.select_related("user", "membership", "department__hospital", "node").defer(
        *NO_CONTENT, "receipt", "details", "parameters"
    )
    return rows.order_by(*_order(sort, REQUEST_SORTS, "created_at", "pk"))


def _narrow(rows: QuerySet[Inference], chosen: RequestFilter) -> QuerySet[Inference]:
    if chosen.period is not None:
        begin, end = chosen.period.bounds
        rows = rows.filter(created_at__gte=begin, created_at__lt=end)
    if chosen.state == "open":
        rows = rows.exclude(state__in=TERMINAL)
    elif chosen.state:
        rows = rows.filter(state=chosen.state)
    if chosen.user:
        rows = rows.filter(user__username__icontains=chosen.user)
    exact = {
        "department__code": chosen.department,
        "kind": chosen.kind,
        "reason": chosen.reason,
        "node_id": chosen.node,
        "pk": chosen.id,
    }
    return rows.filter(**{field: value for field, value in exact.items() if value})


def narrowed(principal: Principal, chosen: RequestFilter) -> QuerySet[Inference]:
    """The chosen requests, to count."""
    return _narrow(_requests(principal, chosen.hospital), chosen)


def _order(sort: str, allowed: dict[str, str], latest: str, unique: str) -> list[Any]:
    """Order by one column, empty values last; ties newest first, so that pages never overlap."""
    column = F(allowed[sort.removeprefix("-")])
    first = column.desc(nulls_last=True) if sort.startswith("-") else column.asc(nulls_last=True)
    return [first, F(latest).desc(), F(unique).desc()]


@dataclass(frozen=True, slots=True)
class KindCount:
    """Requests of one kind by how they stand."""

    kind: str
    label: str
    open: int
    done: int
    failed: int
    cancelled: int
    total: int


def request_counts(principal: Principal, chosen: RequestFilter) -> list[KindCount]:
    """Requests by kind and outcome; every kind has its line, also without requests."""
    rows = _narrow(_requests(principal, chosen.hospital), chosen).order_by()
    counts: dict[str, dict[str, int]] = {kind.value: {} for kind in Kind}
    for kind, state, count in rows.values_list("kind", "state").annotate(n=Count("pk")):
        counts.setdefault(kind, {})[state] = count
    labels = dict(Kind.choices)
    return [
        KindCount(
            kind=kind,
            label=str(labels.get(kind, kind)),
            open=sum(states.get(s, 0) for s in InferenceState if s not in TERMINAL),
            done=states.get(InferenceState.DONE, 0),
            failed=states.get(InferenceState.FAILED, 0),
            cancelled=states.get(InferenceState.CANCELLED, 0),
            total=sum(states.values()),
        )
        for kind, states in counts.items()
    ]


def total_of(counts: list[KindCount]) -> KindCount:
    """The bottom line."""
    fields = ("open", "done", "failed", "cancelled", "total")
    sums = {field: sum(asdict(count)[field] for count in counts) for field in fields}
    return KindCount(kind="", label="All kinds", **sums)


def request_reasons(principal: Principal, chosen: RequestFilter) -> list[tuple[str, str, int]]:
    """(state, reason, count) of the requests that did not end well, most frequent first."""
    rows = _narrow(_requests(principal, chosen.hospital), chosen)
    rows = rows.filter(state__in=[InferenceState.FAILED, InferenceState.CANCELLED]).order_by()
    found = rows.values_list("state", "reason").annotate(n=Count("pk"))
    return [(s, r, n) for s, r, n in found.order_by("-n", "state", "reason")]


# --- evidence -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """What the events page may narrow by; empty values do not narrow."""

    period: Period | None = None
    kind: str = ""
    outcome: str = ""
    hospital: str = ""
    department: str = ""
    actor: str = ""
    subject: UUID | None = None
    purpose: str = ""


EVENT_SORTS = {
    "seq": "seq",
    "time": "at",
    "kind": "kind",
    "outcome": "outcome",
    "actor": "actor",
    "subject": "subject",
    "hospital": "hospital",
    "department": "department",
    "purpose": "purpose",
    "details": "details",
}


def _events(principal: Principal, hospital: str | None = None) -> QuerySet[Event]:
    """A hospital's events: those that name it, and what its people did. All for the whole network."""
    within = access.reach(principal, hospital)
    rows = Event.objects.all()
    if within is None:
        return rows
    people = Membership.objects.filter(hospital=within, active=True).values("user_id")
    return rows.filter(Q(hospital=within) | Q(hospital__isnull=True, actor_id__in=people))


def events(principal: Principal, chosen: EventFilter) -> QuerySet[Event]:
    """The chosen evidence, ``actor`` (a username) with each row, unordered."""
    rows = _events(principal, chosen.hospital)
    name = User.objects.filter(pk=OuterRef("actor_id")).values("username")[:1]
    rows = rows.annotate(actor=Subquery(name))
    if chosen.period is not None:
        begin, end = chosen.period.bounds
        rows = rows.filter(at__gte=begin, at__lt=end)
    if chosen.actor:
        rows = rows.filter(actor_id__in=User.objects.filter(username__icontains=chosen.actor).values("pk"))
    exact = {
        "kind": chosen.kind,
        "outcome": chosen.outcome,
        "department": chosen.department,
        "subject": chosen.subject,
        "purpose": chosen.purpose,
    }
    return rows.filter(**{field: value for field, value in exact.items() if value})


def sorted_events(principal: Principal, chosen: EventFilter, sort: str = "-seq") -> QuerySet[Event]:
    """The rows of the events page."""
    return events(principal, chosen).order_by(*_order(sort, EVENT_SORTS, "at", "seq"))


def events_after(principal: Principal, chosen: EventFilter, *, upto: int, batch: int = 1000) -> Iterator[list[Event]]:
    """The chosen events in log order up to row ``upto``, in batches found by key, so that a long read holds nothing."""
    after = 0
    while True:
        found = list(events(principal, chosen).filter(seq__gt=after, seq__lte=upto).order_by("seq")[:batch])
        if not found:
            return
        yield found
        after = found[-1].seq


@dataclass(frozen=True, slots=True)
class EventCount:
    """Evidence rows of one kind and outcome."""

    kind: str
    outcome: str
    count: int


def event_counts(principal: Principal, chosen: EventFilter) -> list[EventCount]:
    """Evidence rows by kind and outcome, by name."""
    rows = events(principal, chosen).order_by()
    found = rows.values_list("kind", "outcome").annotate(n=Count("seq"))
    return [EventCount(kind, outcome, count) for kind, outcome, count in found.order_by("kind", "outcome")]


def event_range(principal: Principal, chosen: EventFilter) -> tuple[int | None, int | None]:
    """The first and the last sequence number of the chosen evidence."""
    found = events(principal, chosen).aggregate(first=Min("seq"), last=Max("seq"))
    return found["first"], found["last"]


def event_kinds(principal: Principal) -> list[str]:
    """The kinds that occur within reach, for the filter."""
    return list(_events(principal).order_by("kind").values_list("kind", flat=True).distinct())


def event_outcomes(principal: Principal) -> list[str]:
    """The outcomes that occur within reach, for the filter."""
    return list(_events(principal).order_by("outcome").values_list("outcome", flat=True).distinct())


# --- reports ------------------------------------------------------------------------------------------------------
def reports(principal: Principal) -> QuerySet[Report]:
    """Reports within reach, newest first, without their contents. A hospital's people see that hospital's only."""
    within = access.reach(principal)
    rows = Report.objects.select_related("requested_by").defer("pdf", "facts", "attached").order_by("-requested_at")
    return rows if within is None else rows.filter(hospital=within)


def decided_grants(principal: Principal) -> QuerySet[QuotaGrant]:
    """Wishes for more quota at the hospitals this person sees that were decided, or whose day is over; newest first."""
    within = [place.code for place in access.hospitals(principal)]
    rows = QuotaGrant.objects.filter(scope__hospital__in=within).select_related("scope", "source")
    over = Q(state=GrantState.REQUESTED, period__lt=timezone.localdate())
    return rows.filter(~Q(state=GrantState.REQUESTED) | over).order_by("-requested_at", "pk")
