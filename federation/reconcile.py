"""The coordinator's side of a hospital's block: what signed receipts prove was spent, against what the node reports.

The node's ledger decides; the coordinator only watches it. A node that reports less than its own receipts add up to has
lost charges (a restored backup, an altered ledger): its claims do not hold any more, and that is an incident.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction

from fdrouter.errors import DomainError
from fdrouter.evidence import Event, record
from federation.models import MECHANISMS, Inference, Node, Transport
from federation.states import InferenceState
from privacy.dp.accounting import nano_rdp_up
from privacy.dp.cohort_plans import plan_of
from privacy.dp.text_plan import TextPlan

#: A report is stamped when it has arrived; what it says is older by no more than a probe's time-out.
REPORT_TAKES = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Comparison:
    """In nano-units of divergence at the block's order: ``reported`` by the node, ``proven`` by receipts before that.

    ``unreadable`` counts receipts whose plan does not add up; they prove nothing.
    """

    node: str
    hospital: str
    reported: int
    proven: int
    unreadable: int

    @property
    def is_incident(self) -> bool:
        return self.reported < self.proven


def _spent(row: Inference, alpha: float) -> int:
    """What one receipt proves; 0 for a repeat of a stored release."""
    body = (row.receipt or {})["body"]
    if body["mechanism"].get("repeat_of"):
        return 0
    plan = plan_of(row.parameters)
    return nano_rdp_up(plan.rho_of(body["tokens"]), alpha) if isinstance(plan, TextPlan) else plan.nano_at(alpha)


def compare(node: Node) -> Comparison | None:
    """The node's last report against all receipts that it had issued by then; None without a report that is current."""
    block = node.status.get("block")
    if not block or not node.status.get("healthy") or not node.status.get("checked_at"):
        return None
    told_at = datetime.fromisoformat(node.status["checked_at"]) - REPORT_TAKES
    rows = Inference.objects.filter(
        node=node, kind__in=MECHANISMS, state=InferenceState.DONE, receipt__isnull=False, finished_at__lt=told_at
    )
    proven = unreadable = 0
    for row in rows.only("receipt", "parameters").iterator():
        try:
            proven += _spent(row, block["alpha"])
        except (DomainError, KeyError, TypeError, ValueError):
            unreadable += 1
    return Comparison(node.pk, node.hospital_id, int(block["used"]), proven, unreadable)


def reconcile() -> list[Comparison]:
    """Compares every hospital's block. A mismatch is recorded as evidence, once for each figure that a node reports."""
    found = []
    for node in Node.objects.filter(active=True, transport=Transport.SEALED).order_by("pk"):
        comparison = compare(node)
        if comparison is None:
            continue
        found.append(comparison)
        if comparison.is_incident and node.status.get("mismatch") != comparison.reported:
            with transaction.atomic():
                node.status = {**node.status, "mismatch": comparison.reported}
                node.save(update_fields=["status"])
                details = {"node": node.pk, "reported": comparison.reported, "proven": comparison.proven}
                record(Event(kind="ledger.mismatch", outcome="incident", hospital=comparison.hospital, details=details))
    return found
