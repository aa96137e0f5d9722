"""Figures in the portal and the report, and links that keep the page's filters."""

from __future__ import annotations

from datetime import date
from typing import Any

from django import template
from django.http import HttpRequest

from compliance.charts import OUTCOMES, figure
from compliance.findings import tiny, words
from federation.models import Kind
from privacy.quotas import MICRO

register = template.Library()
register.filter("tiny", tiny)

STATE_WORDS = dict(OUTCOMES) | {"queued": "Waiting", "dispatched": "Under way"}
STATE_MARKS = {"done": "good", "failed": "bad", "queued": "live", "dispatched": "live", "rendering": "live"}


@register.filter
def micro(value: int | None) -> str:
    """Micro-epsilon as epsilon: at most two decimals, and never 0 for something."""
    if value is None:
        return "–"
    shown = figure(value / MICRO)
    return "<0.01" if shown == "0" and value > 0 else shown


@register.filter
def number(value: float | int | None) -> str:
    """A figure with at most two decimals."""
    return "–" if value is None else figure(float(value))


@register.filter
def percent(share: float) -> str:
    """A share as whole per cent, below ten with a decimal."""
    value = 100 * share
    return f"{value:.1f}%" if 0 < value < 9.95 else f"{round(value)}%"


@register.filter
def day(value: str | None) -> str:
    """An ISO date in words."""
    return words(value) if value else "–"


@register.filter
def short_day(value: str) -> str:
    """An ISO date as ``3 Mar``."""
    found = date.fromisoformat(value)
    return f"{found.day} {found:%b}"


@register.filter
def state_word(state: str) -> str:
    """How a request stands, in the words of the clinicians' pages."""
    return STATE_WORDS.get(state, state.capitalize())


@register.filter
def state_mark(state: str) -> str:
    """The colour class of a state."""
    return f"state-{STATE_MARKS[state]}" if state in STATE_MARKS else ""


REPORT_REASONS = {
    "timed_out": "Making the document took too long.",
    "render_failed": "The document could not be made. The worker's log has the kind of error and the report's id.",
    "unauthenticated": "Who asked for it has no post here any more.",
    "conflict": "The log is not a continuation of its last checkpoint. Nothing is reported until somebody has looked.",
    "not_found": "Who asked for it may no longer see this hospital.",
}


@register.filter
def report_reason(reason: str) -> str:
    """Why a report failed, as a sentence."""
    return REPORT_REASONS.get(reason, "It could not be made.")


@register.filter
def delivery_reason(reason: str) -> str:
    """Why the mail of a scheduled report did not go out, as a sentence."""
    if reason.startswith("report_"):
        return f"The report was not made. {report_reason(reason.removeprefix('report_'))}"
    said = {
        "no_mail_server": "No mail server is configured (FDROUTER_SMTP_HOST). The report itself is in the list above.",
        "mail_refused": "The mail server did not take it. The report itself is in the list above.",
    }
    return said.get(reason, "It could not be sent.")


@register.filter
def kind_word(kind: str) -> str:
    """What the kind of a request does."""
    return str(Kind(kind).label) if kind in Kind.values else kind


@register.inclusion_tag("compliance/_sort.html", takes_context=True)
def sort(context: template.Context, column: str, label: str, classes: str = "") -> dict[str, Any]:
    """A table's heading that sorts by its column; again, the other way round."""
    request: HttpRequest = context["request"]
    present = str(context.get("sort", ""))
    ascending, descending = present == column, present == f"-{column}"
    query = request.GET.copy()
    query["sort"] = f"-{column}" if ascending else column
    query.pop("page", None)
    return {
        "label": label,
        "query": query.urlencode(),
        "classes": classes,
        "aria": "ascending" if ascending else "descending" if descending else "",
    }


@register.filter
def share(value: int, part: float) -> int:
    """A part of a whole number."""
    return round(value * part)
