"""The coordinator's side of a hospital's block: what signed receipts prove was spent, against what the node reports.

The node's ledger decides; the coordinator only watches it. A node that reports less than its own receipts add up to has
lost charges (a restored backup, an altered ledger): its claims do not hold any more, and that is an incident.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q

from fdrouter.errors import DomainError
from fdrouter.evidence import Event, record
from federation.models import MECHANISMS, Inference, Node, Transport
from federation.states import InferenceState
from privacy.dp.accounting import nano_rdp_up
from privacy.dp.cohort_plans import plan_of
from privacy.dp.confident_plans import ConfidentChoicePlan
from privacy.dp.text_plan import TextPlan

#: A report is stamped when it has arrived; what it says is older by no more than a probe's time-out.
REPORT_TAKES = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One block, in nano-units of divergence at its order: ``reported`` by the node, ``proven`` by older receipts.

    ``unreadable`` counts receipts whose plan does not add up; they prove nothing.
    """

    node: str
    hospital: str
    block: str
    reported: int
    proven: int
    unreadable: int

    @property
    def is_incident(self) -> bool:
        return self.reported < self.proven


def _spent(row: Inference, node: str, alphas: Mapping[str, float]) -> dict[str, int]:
    """What a receipt of the node proves of each block; nothing for a repeat of a stored release."""
    receipt = row.receipt or {}
    body = receipt["body"]
    if body["mechanism"].get("repeat_of"):
        return {}
    if row.node_id is None:  # several hospitals answered together, and each signed
        body = next(signed["body"] for signed in receipt["receipts"] if signed["body"]["node"] == node)
    plan, keys = plan_of(row.parameters), body["mechanism"].get("blocks") or [body["block"]["key"]]
    tokens = body["tokens"]
    if isinstance(plan, TextPlan):
        return {key: nano_rdp_up(plan.rho_of(tokens), alphas[key]) for key in keys}
    if isinstance(plan, ConfidentChoicePlan) and body["mechanism"].get("withheld"):
        return {key: plan.nano_of_check(alphas[key]) for key in keys}
    return {key: plan.nano_at(alphas[key]) for key in keys}


def compare(node: Node) -> list[Comparison]:
    """The node's last report against all receipts that it had issued by then; empty without a report that is current.

    A block that receipts name and the report does not counts as one of which nothing was reported.
    """
    status = node.status
    told = status.get("blocks") or ([status["block"]] if status.get("block") else [])
    if not told or not status.get("healthy") or not status.get("checked_at"):
        return []
    told_at = datetime.fromisoformat(status["checked_at"]) - REPORT_TAKES
    together = Q(node=None, receipt__receipts__contains=[{"body": {"node": node.pk}}])
    rows = Inference.objects.filter(
        Q(node=node) | together,
        kind__in=MECHANISMS,
        state=InferenceState.DONE,
        receipt__isnull=False,
        finished_at__lt=told_at,
    )
    reported = {str(block["key"]): int(block["used"]) for block in told}
    alphas = defaultdict(lambda: float(told[0]["alpha"]), {str(block["key"]): float(block["alpha"]) for block in told})
    proven: Counter[str] = Counter()
    unreadable = 0
    for row in rows.only("receipt", "parameters", "node_id").iterator():
        try:
            proven.update(_spent(row, node.pk, alphas))
        except (DomainError, KeyError, TypeError, ValueError):
            unreadable += 1
    return [
        Comparison(node.pk, node.hospital_id, key, reported.get(key, 0), proven[key], unreadable)
        for key in sorted(reported.keys() | proven.keys())
    ]


def reconcile() -> list[Comparison]:
    """Compares every hospital's blocks. A mismatch is recorded as evidence, once for what a node reports."""
    found = []
    for node in Node.objects.filter(active=True, transport=Transport.SEALED).order_by("pk"):
        comparisons = compare(node)
        found += comparisons
        incidents = [comparison for comparison in comparisons if comparison.is_incident]
        mismatch = {incident.block: incident.reported for incident in incidents}
        if incidents and node.status.get("mismatch") != mismatch:
            with transaction.atomic():
                node.status = {**node.status, "mismatch": mismatch}
                node.save(update_fields=["status"])
                for incident in incidents:
                    figures = {"reported": incident.reported, "proven": incident.proven}
                    details = {"node": node.pk, "block": incident.block, **figures}
                    record(
                        Event(kind="ledger.mismatch", outcome="incident", hospital=node.hospital_id, details=details)
                    )
    return found
