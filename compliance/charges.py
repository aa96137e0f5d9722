"""Every movement of a daily quota as CSV, with the request that it belongs to: what the ledger page adds up."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC

from django.db import transaction
from django.db.models import OuterRef, QuerySet, Subquery

from accounts.principals import Principal
from compliance import access, export
from compliance.period import Period
from fdrouter import evidence
from federation.models import Inference
from privacy.models import Entry, EntryKind, ScopeKind, Unit
from privacy.quotas import MICRO

COLUMNS = ("seq", "at", "day", "request", "kind", "movement", "quota", "of", "hospital", "epsilon", "unit", "bounds")
#: What the figure is of: the plain sum of claims, which each hold for one patient.
UNIT, BOUNDS = "epsilon per patient, plain sum", "what one answer may tell about any one patient on record"
_BATCH = 1000


def rows(principal: Principal, covered: Period, hospital: str | None = None) -> QuerySet[Entry]:
    """Charges and what was given back, by quota, within reach; ``request_kind`` with each. Refills are left out."""
    within = [place.code for place in access.hospitals(principal, hospital)]
    kind = Inference.objects.filter(pk=OuterRef("reservation_id")).values("kind")[:1]
    found = Entry.objects.filter(
        scope__unit=Unit.MICRO_EPSILON, scope__hospital__in=within, period__range=(covered.start, covered.end)
    )
    found = found.exclude(scope__kind=ScopeKind.BLOCK).exclude(kind=EntryKind.RESET)
    return found.select_related("scope").annotate(request_kind=Subquery(kind)).order_by("seq")


def begin(principal: Principal, covered: Period, hospital: str | None = None) -> int:
    """Records the export and returns the last movement that it will hold.

    Raises:
        NotFound: the portal or the hospital is not this person's.
    """
    with transaction.atomic():
        chosen = rows(principal, covered, hospital)
        last = chosen.values_list("seq", flat=True).last() or 0
        spelled = {"start": covered.start.isoformat(), "end": covered.end.isoformat()}
        details = {"rows": chosen.filter(seq__lte=last).count(), "upto": last, "filter": spelled}
        evidence.record(
            evidence.Event(
                kind="charges.export",
                actor_id=principal.user_id,
                hospital=principal.hospital or hospital or None,
                details=details,
            )
        )
    return last


def lines(principal: Principal, covered: Period, hospital: str | None, upto: int) -> Iterator[str]:
    """The file, a batch of movements at a time."""
    yield export.line(COLUMNS)
    after = 0
    while batch := list(rows(principal, covered, hospital).filter(seq__gt=after, seq__lte=upto)[:_BATCH]):
        yield "".join(_line(entry) for entry in batch)
        after = batch[-1].seq


def _line(entry: Entry) -> str:
    scope = entry.scope
    return export.line(
        (
            entry.seq,
            entry.at.astimezone(UTC).isoformat(timespec="milliseconds"),
            entry.period,
            entry.reservation_id,
            getattr(entry, "request_kind", None),
            "charged" if entry.kind == EntryKind.RESERVE else "given back",
            scope.kind,
            scope.label or scope.key,
            scope.hospital,
            # Signs would be taken for formulas: what was given back is named so, and its amount has none.
            f"{abs(entry.amount) / MICRO:.6f}",
            UNIT,
            BOUNDS,
        )
    )
