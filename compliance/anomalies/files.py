"""Findings as a table in a file; handing them out is an event."""

from __future__ import annotations

from datetime import UTC

from django.db import transaction

from accounts.principals import Principal
from compliance import export
from compliance.anomalies.models import AnomalyFinding
from compliance.anomalies.selectors import FindingFilter, findings
from fdrouter import evidence

COLUMNS = (
    "id",
    "rule",
    "version",
    "person",
    "hospital",
    "department",
    "patient_reference",
    "start",
    "end",
    "score",
    "sentence",
    "rows",
    "requests",
    "events",
    "found_at",
    "case",
    "case_state",
    "decision",
)


def _line(row: AnomalyFinding) -> str:
    times = [at.astimezone(UTC).isoformat(timespec="seconds") for at in (row.start, row.end, row.found_at)]
    case = row.case
    return export.line(
        (
            row.pk,
            row.rule,
            row.version,
            row.person.get_username(),
            row.hospital,
            row.department,
            row.patient_reference,
            times[0],
            times[1],
            row.score,
            row.sentence,
            row.weight,
            " ".join(map(str, row.requests)),
            " ".join(map(str, row.seqs)),
            times[2],
            case.pk if case else None,
            case.state if case else None,
            case.decision if case else None,
        )
    )


def as_csv(principal: Principal, chosen: FindingFilter, sort: str) -> str:
    """The chosen findings, safe to open in a spreadsheet."""
    named = {name: getattr(chosen, name) for name in ("hospital", "rule", "state") if getattr(chosen, name)}
    if chosen.person:
        named["person"] = "chosen"  # what was typed may be anybody's name
    if chosen.period is not None:
        named |= {"start": chosen.period.start.isoformat(), "end": chosen.period.end.isoformat()}
    with transaction.atomic():
        lines = [_line(row) for row in findings(principal, chosen, sort)]
        evidence.record(
            evidence.Event(
                kind="anomaly.export",
                actor_id=principal.user_id,
                hospital=principal.hospital,
                details={"rows": len(lines), "filter": named},
            )
        )
    return export.line(COLUMNS) + "".join(lines)
