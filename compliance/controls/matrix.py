"""The matrix: every control with its evidence of this moment. Nothing is kept between two looks at it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from django.db import transaction

from accounts.principals import Principal
from compliance import access
from compliance.controls import exceptions
from compliance.controls.evidence import MET, PARTIAL, STATUSES, Evidence, run
from compliance.controls.library import Control, Library, libraries
from compliance.controls.models import ControlException
from compliance.period import Period
from fdrouter import evidence
from fdrouter.errors import NotFound

EXCEPTED = "excepted"
SHOWN = STATUSES | {EXCEPTED: "Excepted"}
"""What a row may show: how the evidence stands, or that an exception excuses it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A control, its evidence, and the exception in force if there is one."""

    library: Library
    control: Control
    evidence: Evidence
    exception: ControlException | None = None

    @property
    def status(self) -> str:
        """An exception excuses what is not, or partly, met; it makes nothing met."""
        excused = self.exception is not None and self.evidence.status not in (MET, "not_applicable")
        return EXCEPTED if excused else self.evidence.status

    @property
    def status_name(self) -> str:
        return SHOWN[self.status]


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixFilter:
    """What the page may narrow by; empty values do not narrow."""

    regulation: str = ""
    status: str = ""
    owner: str = ""


def _proven(control: Control, found: Evidence) -> Evidence:
    """Evidence of a control that no code or no test stands for is never more than a part."""
    if found.status != MET or (control.mechanism and control.tests):
        return found
    return replace(found, status=PARTIAL, sentence=f"{found.sentence} No test of the product guards it.")


class _Look:
    """One look: rows that share a query and its parameters share the answer."""

    def __init__(self, principal: Principal, period: Period) -> None:
        self._principal, self._period = principal, period
        self._found: dict[str, Evidence] = {}

    def at(self, control: Control) -> Evidence:
        source = control.evidence
        key = json.dumps([source.query, source.parameters], sort_keys=True)
        if key not in self._found:
            self._found[key] = run(source.query, source.parameters, self._principal, self._period)
        return _proven(control, self._found[key])


def rows(principal: Principal, period: Period, chosen: MatrixFilter | None = None) -> list[Row]:
    """The matrix in the libraries' order.

    Raises:
        NotFound: the portal does not exist for this person.
    """
    access.reach(principal)
    chosen = chosen or MatrixFilter()
    look, excused = _Look(principal, period), exceptions.in_force(principal)
    found = [
        Row(library, control, look.at(control), excused.get(control.id))
        for library in libraries()
        if chosen.regulation in ("", library.regulation)
        for control in library.controls
        if chosen.owner in ("", control.owner)
    ]
    return [row for row in found if chosen.status in ("", row.status)]


def one(principal: Principal, period: Period, control_id: str) -> Row:
    """One row.

    Raises:
        NotFound: no such control, or no portal for this person.
    """
    access.reach(principal)
    for library in libraries():
        for control in library.controls:
            if control.id == control_id:
                found = _Look(principal, period).at(control)
                return Row(library, control, found, exceptions.in_force(principal).get(control.id))
    raise NotFound


def counts(found: Iterable[Row]) -> dict[str, int]:
    """How many rows show each status; every status has its figure."""
    tally = Counter(row.status for row in found)
    return {status: tally.get(status, 0) for status in SHOWN}


# --- handing out --------------------------------------------------------------------------------------------------
def as_facts(row: Row) -> dict[str, Any]:
    """A row as JSON takes it. Rows of the evidence are not in it: the page leads to them."""
    control, found = row.control, row.evidence
    return {
        "id": control.id,
        "regulation": row.library.title,
        "citation": control.citation,
        "title": control.title,
        "asks": control.asks,
        "status": row.status,
        "evidence_status": found.status,
        "sentence": found.sentence,
        "counts": {count.label: count.value for count in found.counts},
        "first_event": found.first,
        "last_event": found.last,
        "checked_at": _instant(found.checked_at),
        "query": control.evidence.query,
        "parameters": control.evidence.parameters,
        "mechanism": list(control.mechanism),
        "tests": list(control.tests),
        "owner": control.owner,
        "review_months": control.review_months,
        "residual_risk": control.residual,
        "exception": _exception(row.exception),
    }


def _exception(row: ControlException | None) -> dict[str, str] | None:
    if row is None:
        return None
    return {"reason": row.reason, "owner": row.owner, "expires_on": row.expires_on.isoformat()}


def _instant(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="milliseconds")


def export(principal: Principal, period: Period, chosen: MatrixFilter, form: str) -> list[dict[str, Any]]:
    """The chosen rows for a file; handing them out is recorded in the same transaction."""
    with transaction.atomic():
        found = rows(principal, period, chosen)
        spelled = {name: value for name in chosen.__slots__ if (value := getattr(chosen, name))}
        spelled |= {"start": period.start.isoformat(), "end": period.end.isoformat()}
        evidence.record(
            evidence.Event(
                kind="controls.export",
                actor_id=principal.user_id,
                hospital=principal.hospital,
                details={"format": form, "rows": len(found), "filter": spelled, "counts": counts(found)},
            )
        )
    return [as_facts(row) for row in found]
