"""Evidence about privacy: dataset blocks, the ledger's sums, daily limits and claim sheets."""

from __future__ import annotations

from django.db.models import BigIntegerField, F, OuterRef, QuerySet, Subquery, Sum, Value
from django.db.models.functions import Coalesce

from accounts.models import Department
from accounts.principals import Principal
from compliance import access, blocks
from compliance.charts import figure
from compliance.controls.evidence import (
    MET,
    NOT_MET,
    PARTIAL,
    Count,
    Evidence,
    Table,
    counted,
    event_table,
    found_under,
    logged,
    query,
    sentence,
    seqs,
)
from compliance.findings import tiny
from compliance.period import Period
from fdrouter.errors import ClaimMissing, InvalidParameter
from federation.models import Node, Transport
from privacy import claims
from privacy import limits as effective_limits
from privacy.models import Entry, LimitDocument, Scope, ScopeKind, Unit
from privacy.quotas import MICRO, department_key


@query("blocks.spent")
def spent(principal: Principal, period: Period, /) -> Evidence:
    """What each hospital's dataset block was opened for and has paid in its whole life: it never refills."""
    found = blocks.reported(principal)
    nodes = Node.objects.filter(active=True, transport=Transport.SEALED, hospital__in=access.hospitals(principal))
    silent = set(nodes.values_list("hospital__name", flat=True)) - {block.hospital_name for block in found}
    over = [block for block in found if block.left_share < 0]
    status = NOT_MET if over or not found else PARTIAL if silent else MET
    said = sentence(
        f"{counted(len(found), 'block reports', 'blocks report')} what was paid over the whole life;"
        f" {'none has' if not over else f'{len(over)} have'} paid more than its bound.",
        f"No block is reported by the node of {', '.join(sorted(silent))}." if silent else "",
    )
    rows = [
        (b.title or b.hospital_name, b.epsilon, tiny(b.delta), figure(b.composed), figure(b.plain_sum), b.checked)
        for b in found
    ]
    table = Table(("Block", "Epsilon bound", "Delta", "Composed so far", "Plain sum of claims", "Reported"), rows)
    counts = (Count("Blocks", len(found)), Count("Over their bound", len(over)), Count("Nodes without", len(silent)))
    return Evidence(status=status, sentence=said, counts=counts, table=table)


def _scopes(principal: Principal) -> QuerySet[Scope]:
    within = access.reach(principal)
    return Scope.objects.all() if within is None else Scope.objects.filter(hospital=within)


@query("ledger.adds_up")
def adds_up(principal: Principal, period: Period, /) -> Evidence:
    """Whether the entries of every budget add up to what it says was used, and none is over its limit."""
    entries = Entry.objects.filter(scope=OuterRef("pk")).order_by().values("scope").annotate(n=Sum("amount"))
    total = Coalesce(Subquery(entries.values("n"), output_field=BigIntegerField()), Value(0, BigIntegerField()))
    scopes = _scopes(principal).annotate(entered=total)
    wrong = scopes.exclude(used=F("entered")) | scopes.filter(used__gt=F("cap") + F("extra"))
    budgets, faults = scopes.count(), wrong.count()
    said = sentence(
        f"The entries of {budgets - faults:,} of {counted(budgets, 'budget', 'budgets')} add up to what each says was"
        " used, within its limit.",
        f"{faults:,} do not." if faults else "",
        "There is no budget yet." if not budgets else "",
    )
    begin, end = period.bounds
    moved = Entry.objects.filter(scope__in=_scopes(principal), at__gte=begin, at__lt=end).count()
    counts = (Count("Budgets", budgets), Count("Do not add up", faults), Count("Entries of the period", moved))
    table = Table(
        ("Budget", "Unit", "Limit", "Used", "Entries add up to"),
        (wrong if faults else scopes).order_by("-used", "pk"),
        lambda row: (row.label or row.key, row.unit, row.limit, row.used, row.entered),
    )
    status = NOT_MET if faults else MET if budgets else PARTIAL
    return Evidence(status=status, sentence=said, counts=counts, table=table)


@query("ledger.reconciled")
def reconciled(principal: Principal, period: Period, /) -> Evidence:
    """Nodes that report less of their block than the receipts that they signed add up to."""
    rows = logged(principal, period, ["ledger.mismatch"])
    nodes = Node.objects.filter(active=True, transport=Transport.SEALED, hospital__in=access.hospitals(principal))
    lost = [node for node in nodes if node.status.get("mismatch")]
    said = sentence(
        f"Of {counted(len(nodes), 'node', 'nodes')}, {len(lost) or 'none'} report less than their own receipts prove;"
        f" {counted(rows.count(), 'incident was', 'incidents were')} recorded in this period."
    )
    counts = (
        Count("Nodes", len(nodes)),
        Count("Lost charges now", len(lost)),
        Count("Incidents", rows.count(), found_under(period, kind="ledger.mismatch") if rows else None),
    )
    status = NOT_MET if lost else PARTIAL if rows or not nodes else MET
    return Evidence(status=status, sentence=said, counts=counts, table=event_table(rows), span=seqs(rows))


FIELD_WORDS = {
    "claim": "guarantee",
    "unit": "unit of privacy",
    "adjacency": "neighbouring datasets",
    "contribution": "contribution bound",
    "exhaustion": "end of its budget",
    "trusted": "trust in each party",
    "not_protected": "limits: what it does not protect",
}
"""Fields of a claim sheet in words, where their name does not say it."""


@query("claims.sheets")
def sheets(principal: Principal, period: Period, /, *, field: str = "claim") -> Evidence:
    """The claim sheet of every mechanism: complete, of the code's version, and what it says of one field."""
    rows: list[tuple[str, str, str, str]] = []
    missing: list[str] = []
    for mechanism in claims.IMPLEMENTED:
        try:
            sheet = claims.sheet(mechanism)
            rows.append((mechanism, str(sheet.fields["version"]), str(sheet.fields[field]), sheet.digest[:16]))
        except (ClaimMissing, KeyError):
            missing.append(mechanism)
    total, words = len(claims.IMPLEMENTED), FIELD_WORDS.get(field, field.replace("_", " "))
    said = sentence(
        f"{len(rows)} of {counted(total, 'mechanism has', 'mechanisms have')} a current claim sheet that states its"
        f" {words}.",
        f"Without one: {', '.join(missing)}." if missing else "A mechanism without one does not run.",
    )
    counts = (Count("Mechanisms", total), Count("Without a sheet", len(missing)))
    table = Table(("Mechanism", "Version", words.capitalize(), "SHA-256"), rows)
    return Evidence(status=NOT_MET if missing else MET, sentence=said, counts=counts, table=table)


def _above(scopes: QuerySet[Scope]) -> list[int]:
    """The daily budgets whose cap is more than the limits in force allow; by primary key."""
    allowed = effective_limits.effective()
    codes = {department_key(pk): code for pk, code in Department.objects.values_list("pk", "code")}
    found = []
    for scope in scopes:
        try:
            most = allowed.cap(ScopeKind(scope.kind), Unit(scope.unit), scope.hospital, codes.get(scope.key, ""))
        except InvalidParameter:  # no limit is set for it, so nothing allows it
            most = -1
        if scope.cap > most:
            found.append(scope.pk)
    return found


@query("quotas.limits")
def limits(principal: Principal, period: Period, /) -> Evidence:
    """The document of daily limits in force, whether every daily budget is within it, and the grants beyond it."""
    last = LimitDocument.objects.order_by("-pk").first()
    decided = logged(principal, period, ["quota.grant", "quota.deny"])
    scopes = _scopes(principal).filter(resets=True)
    above = _above(scopes)
    total = scopes.count()
    said = sentence(
        f"Limits with digest {last.digest[:12]} were applied on {last.applied_at:%-d %B %Y}."
        if last
        else "The limits of the shipped document are in force; no other one was applied.",
        f"Of {counted(total, 'daily budget', 'daily budgets')}, {len(above) or 'none'} are above them.",
    )
    counts = (
        Count("Daily budgets", total),
        Count("Above the limits", len(above)),
        Count("Documents applied", LimitDocument.objects.count()),
        Count("Decisions about more", decided.count()),
    )
    table = Table(
        ("Budget", "Unit", "Limit", "Used", "Day"),
        (scopes.filter(pk__in=above) if above else scopes).order_by("-used", "pk"),
        lambda row: (
            row.label or row.key,
            "epsilon" if row.unit == Unit.MICRO_EPSILON else row.unit,
            row.limit / MICRO if row.unit == Unit.MICRO_EPSILON else row.limit,
            row.used / MICRO if row.unit == Unit.MICRO_EPSILON else row.used,
            row.period,
        ),
    )
    status = NOT_MET if above else MET if total else PARTIAL
    return Evidence(status=status, sentence=said, counts=counts, table=table, span=seqs(decided))
