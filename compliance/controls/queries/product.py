"""Evidence about what the product has at all: features, documents, reports; and what is not its business."""

from __future__ import annotations

import hashlib
from importlib.util import find_spec

from django.conf import settings

from accounts.principals import Principal
from compliance import selectors
from compliance.controls.evidence import (
    MET,
    NOT_APPLICABLE,
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
from compliance.models import ReportState
from compliance.period import Period


def _there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


@query("product.feature")
def feature(principal: Principal, period: Period, /, *, what: str, modules: list[str], kinds: list[str]) -> Evidence:
    """Whether a part of the product is installed, and whether the log shows that it is used."""
    missing = [module for module in modules if not _there(module)]
    used = logged(principal, period, kinds) if kinds else None
    ever = logged(principal, None, kinds).exists() if kinds else True
    number = used.count() if used is not None else 0
    if missing:
        status, said = NOT_MET, f"The product has no {what}."
    elif not ever:
        status, said = PARTIAL, f"The product has {what}, and the log has never seen it used or drilled."
    else:
        status = MET
        said = f"The product has {what}; it left {counted(number, 'event', 'events')} in this period."
    counts = (
        Count("Parts missing", len(missing)),
        *(
            Count(kind, n, found_under(period, kind=kind) if n else None)
            for kind, n in _by_kind(principal, period, kinds)
        ),
    )
    span = seqs(used) if used is not None else (None, None)
    table = event_table(used) if used is not None else None
    return Evidence(status=status, sentence=said, counts=counts, table=table, span=span)


def _by_kind(principal: Principal, period: Period, kinds: list[str]) -> list[tuple[str, int]]:
    rows = logged(principal, period, kinds) if kinds else None
    return [(kind, rows.filter(kind=kind).count()) for kind in kinds] if rows is not None else []


@query("product.documents")
def documents(principal: Principal, period: Period, /, *, paths: list[str], missing_part: str) -> Evidence:
    """Documents that ship with the product, by digest. A document is never more than a part of what a rule asks."""
    rows, absent = [], []
    for name in paths:
        file = settings.BASE_DIR / name
        if file.is_file():
            data = file.read_bytes()
            rows.append((name, len(data), hashlib.sha256(data).hexdigest()[:16]))
        else:
            absent.append(name)
    said = sentence(
        f"{counted(len(rows), 'document ships', 'documents ship')} with the product"
        f"{'; missing: ' + ', '.join(absent) if absent else ''}.",
        missing_part,
    )
    counts = (Count("Documents", len(rows)), Count("Missing", len(absent)))
    status = NOT_MET if not rows else PARTIAL
    return Evidence(status=status, sentence=said, counts=counts, table=Table(("Document", "Bytes", "SHA-256"), rows))


@query("reports.made")
def reports(principal: Principal, period: Period, /) -> Evidence:
    """Reports that were asked for in the period, and how they ended."""
    begin, end = period.bounds
    rows = selectors.reports(principal).filter(requested_at__gte=begin, requested_at__lt=end)
    done, failed = rows.filter(state=ReportState.DONE).count(), rows.filter(state=ReportState.FAILED).count()
    said = f"{counted(done, 'report was', 'reports were')} made in this period; {failed:,} failed."
    table = Table(
        ("Period", "Hospital", "Asked", "State", "SHA-256 of the PDF"),
        rows,
        lambda row: (
            f"{row.start} to {row.end}",
            row.hospital or "network",
            row.requested_at,
            row.state,
            row.pdf_sha256[:16],
        ),
    )
    events = logged(principal, period, ["report.request", "report.finish", "report.download"])
    counts = (Count("Made", done), Count("Failed", failed), Count("Events about reports", events.count()))
    return Evidence(
        status=MET if done else PARTIAL,
        sentence=said[:1].upper() + said[1:],
        counts=counts,
        table=table,
        span=seqs(events),
    )


@query("exports.recorded")
def exports(principal: Principal, period: Period, /, *, kinds: list[str]) -> Evidence:
    """Exports in the period: each is an event. Whether they were disclosures is not told apart."""
    rows = logged(principal, period, kinds)
    number = rows.count()
    said = sentence(
        f"{counted(number, 'export or download was', 'exports or downloads were')} recorded with who took what.",
        "Use and disclosure are not told apart, and no recipient is named.",
    )
    counts = tuple(
        Count(kind, n, found_under(period, kind=kind) if n else None) for kind, n in _by_kind(principal, period, kinds)
    )
    return Evidence(status=PARTIAL, sentence=said, counts=counts, table=event_table(rows), span=seqs(rows))


@query("scope.not_applicable")
def not_applicable(principal: Principal, period: Period, /, *, reason: str) -> Evidence:
    """The rule is not about this product; the library says why."""
    return Evidence(status=NOT_APPLICABLE, sentence=reason)
