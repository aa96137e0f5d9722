"""Everything that left the system, as its events tell it: files, reports, mails, streams, reads by other systems."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction
from django.db.models import F, QuerySet

from accounts.principals import Principal
from compliance import export, selectors
from compliance.models import Event
from compliance.period import Period
from compliance.selectors import EventFilter
from fdrouter import evidence

NAMES = {
    "anomaly.export": "Findings of the anomaly rules",
    "charges.export": "Charges of the privacy ledger",
    "controls.export": "Controls matrix",
    "disclosures.export": "List of disclosures",
    "events.export": "Events of the log",
    "events.stream": "Events to a monitoring system",
    "fhir.read": "FHIR read",
    "fhir.search": "FHIR search",
    "log.export": "Log with its proofs",
    "patient.export": "Patient access report",
    "people.export": "People",
    "registry.export": "Register of deployments",
    "report.download": "Report, signed document",
    "report.mail": "Report, by mail",
    "review.export": "Access review",
}
SORTS = {"time": "at", "kind": "kind", "actor": "actor", "hospital": "hospital", "purpose": "purpose", "seq": "seq"}
COLUMNS = ("seq", "at", "what", "kind", "outcome", "recipient", "hospital", "purpose", "range")
_HIDDEN = frozenset({"recipients", "to", "sha256", "filter", "rows", "start", "end"})
KINDS = """
WITH RECURSIVE step AS (
  (SELECT kind FROM compliance_event ORDER BY kind LIMIT 1)
  UNION ALL
  SELECT (SELECT e.kind FROM compliance_event e WHERE e.kind > step.kind ORDER BY e.kind LIMIT 1)
  FROM step WHERE step.kind IS NOT NULL
) SELECT kind FROM step WHERE kind IS NOT NULL
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DisclosureFilter:
    """What the page may narrow by; empty values do not narrow."""

    period: Period | None = None
    hospital: str = ""
    kind: str = ""
    actor: str = ""


def kinds() -> list[str]:
    """The kinds of events by which something left: each ``.export``, and those that are named here.

    Steps from kind to kind in the index, so it costs the same however long the log is.
    """
    with connection.cursor() as cursor:
        cursor.execute(KINDS)
        found = [kind for (kind,) in cursor.fetchall()]
    return [kind for kind in found if leaves(kind)]


def leaves(kind: str) -> bool:
    """Whether something leaves the system by events of this kind."""
    return kind in NAMES or kind.endswith(".export")


def disclosures(principal: Principal, chosen: DisclosureFilter, sort: str = "-time") -> QuerySet[Event]:
    """The chosen events, ``actor`` with each; refused attempts are not among them: nothing left."""
    narrowed = EventFilter(period=chosen.period, kind=chosen.kind, hospital=chosen.hospital, actor=chosen.actor)
    rows = selectors.events(principal, narrowed).filter(kind__in=kinds()).exclude(outcome="denied")
    column = F(SORTS[sort.removeprefix("-")])
    first = column.desc(nulls_last=True) if sort.startswith("-") else column.asc(nulls_last=True)
    return rows.defer("sealed", "commitment").order_by(first, "-seq")


@dataclass(frozen=True, slots=True)
class Disclosure:
    """One of them in words."""

    event: Event
    what: str
    recipient: str
    covers: str


def told(event: Event) -> Disclosure:
    """An event as a disclosure: what, to whom, what range of it."""
    return Disclosure(event, NAMES.get(event.kind, event.kind), _recipient(event), _covers(event.details))


def _recipient(event: Event) -> str:
    details = event.details
    if event.kind == "report.mail":
        number = details.get("recipients", 0)
        return f"{number} mail address{'' if number == 1 else 'es'} of the schedule"
    if event.kind == "events.stream":
        return f"a receiver by {details.get('to', 'an unknown way')}"
    return getattr(event, "actor", None) or "the command line of the server"


def _covers(details: dict[str, Any]) -> str:
    given = details.get("filter")
    filtered: dict[str, Any] = given if isinstance(given, dict) else {}
    days = [details.get(name) or filtered.get(name) for name in ("start", "end")]
    parts = [f"{days[0]} to {days[1]}"] if all(days) else []
    parts += [f"{name} {value}" for name, value in sorted(filtered.items()) if name not in ("start", "end")]
    if "rows" in details:
        parts.append(f"{details['rows']} row{'' if details['rows'] == 1 else 's'}")
    parts += [
        f"{name.replace('_', ' ')} {value}"
        for name, value in sorted(details.items())
        if name not in _HIDDEN and isinstance(value, str | int) and value != ""
    ]
    return "; ".join(parts)


def as_csv(principal: Principal, chosen: DisclosureFilter, sort: str) -> str:
    """The chosen ones as a file, safe to open in a spreadsheet; making it is one of them from then on."""
    named = {name: getattr(chosen, name) for name in ("hospital", "kind") if getattr(chosen, name)}
    if chosen.actor:
        named["actor"] = "chosen"  # what was typed may be anybody's name
    if chosen.period is not None:
        named |= {"start": chosen.period.start.isoformat(), "end": chosen.period.end.isoformat()}
    with transaction.atomic():
        found = [told(event) for event in disclosures(principal, chosen, sort)]
        evidence.record(
            evidence.Event(
                kind="disclosures.export",
                actor_id=principal.user_id,
                hospital=principal.hospital,
                details={"rows": len(found), "filter": named},
            )
        )
    return export.line(COLUMNS) + "".join(_line(row) for row in found)


def _line(row: Disclosure) -> str:
    event = row.event
    at = event.at.isoformat(timespec="seconds")
    return export.line(
        (event.seq, at, row.what, event.kind, event.outcome, row.recipient, event.hospital, event.purpose, row.covers)
    )
