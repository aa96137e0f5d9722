"""What every page is made of: icons, navigation, moments in time and amounts."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from django import template
from django.contrib.staticfiles import finders
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from accounts.models import Role
from accounts.principals import Principal
from fdrouter.errors import DomainError
from federation import selectors
from federation.answering import form_name
from federation.troubles import Trouble, trouble
from privacy.dp.text_plan import COMFORTABLE_PUSH
from privacy.dp.units import MICRO

register = template.Library()

COST_MEANING = (
    "A privacy cost (epsilon) bounds, for each patient on record, how much an answer can tell about them: had their"
    " record been another one, any answer would have been at most e to the power of the cost times as likely or as"
    " unlikely, but for a small chance that is stated with it (delta)."
)

_NAME = re.compile(r"^[a-z0-9-]{1,40}$")
_SVG = re.compile(r"<svg[^>]*>(.*)</svg>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the navigation."""

    label: str
    view: str
    icon: str
    url: str = ""
    current: bool = False


CLINICAL_PAGES = (
    Entry("Ask", "federation:ask", "message-circle"),
    Entry("History", "federation:history", "history"),
    Entry("My budget", "federation:budget", "gauge"),
)
OPERATOR_PAGES = (Entry("Nodes", "federation:nodes", "server-2"),)
PORTAL_PAGES = (
    Entry("Today", "compliance:portal", "layout-dashboard"),
    Entry("Ledger", "compliance:ledger", "scale"),
    Entry("Blocks", "compliance:blocks", "database"),
    Entry("Requests", "compliance:requests", "list-details"),
    Entry("Events", "compliance:events", "shield-check"),
    Entry("Controls", "compliance:controls", "clipboard-check"),
    Entry("Anomalies", "compliance:anomalies", "alert-triangle"),
    Entry("People", "compliance:people", "users"),
    Entry("Grants", "compliance:grants", "gauge"),
    Entry("Reports", "compliance:reports", "report-analytics"),
)
# Pages that have no entry of their own belong to the one that leads to them.
_PARENTS = {
    "federation:inference": "federation:history",
    "compliance:control": "compliance:controls",
    "compliance:anomaly-rules": "compliance:anomalies",
    "compliance:anomaly-watch": "compliance:anomalies",
    "compliance:cases": "compliance:anomalies",
    "compliance:case": "compliance:anomalies",
    "compliance:person": "compliance:people",
    "compliance:access-reviews": "compliance:people",
    "compliance:access-review": "compliance:people",
    "compliance:patient": "compliance:people",
    "compliance:disclosures": "compliance:people",
}


def entries(principal: Principal | None) -> tuple[Entry, ...]:
    """The pages that this person's post gives them; none without a post."""
    if principal is None:
        return ()
    if principal.sees_portal:
        return PORTAL_PAGES
    if principal.role in (Role.NODE_OPERATOR, Role.ADMINISTRATOR):
        return OPERATOR_PAGES
    return CLINICAL_PAGES


@register.simple_tag(takes_context=True)
def navigation(context: template.Context) -> list[Entry]:
    """The entries for the person of this page, with addresses and the present one marked."""
    request: HttpRequest | None = context.get("request")
    match = request.resolver_match if request is not None else None
    here = match.view_name if match is not None else ""
    here = _PARENTS.get(here, here)
    return [
        Entry(entry.label, entry.view, entry.icon, reverse(entry.view), entry.view == here)
        for entry in entries(context.get("principal"))
    ]


@lru_cache(maxsize=256)
def _drawing(name: str) -> str:
    """The inside of an icon's SVG; empty when the set-up has not copied the icons."""
    found = finders.find(f"vendor/icons/{name}.svg") if _NAME.match(name) else None
    if not isinstance(found, str):
        return ""
    match = _SVG.search(Path(found).read_text(encoding="utf-8"))
    return " ".join(match.group(1).split()) if match else ""


@register.simple_tag
def icon(name: str, classes: str = "") -> SafeString:
    """A decorative icon, drawn in the text's colour and hidden from screen readers: a word always stands beside it."""
    return format_html(
        '<svg class="icon {}" viewBox="0 0 24 24" width="24" height="24" fill="none" stroke="currentColor"'
        ' stroke-width="1.75" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true" focusable="false">'
        "{}</svg>",
        classes,
        mark_safe(_drawing(name)),  # noqa: S308  (a file of the pinned icon package)
    )


@register.simple_tag
def moment(value: datetime | None, style: str = "full") -> SafeString | str:
    """A point in time: UTC from the server, turned into the reader's zone by ``page.js`` with UTC as its title.

    ``style``: ``full`` (date and time), ``time`` or ``ago``.
    """
    if value is None:
        return "never"
    utc = value.astimezone(UTC)
    shown = utc.strftime("%H:%M" if style == "time" else "%-d %b %Y, %H:%M")
    return format_html(
        '<time datetime="{}" data-style="{}" title="{} UTC">{} UTC</time>',
        utc.isoformat(timespec="seconds"),
        style,
        utc.strftime("%Y-%m-%d %H:%M:%S"),
        shown,
    )


_TONES = {
    "done": "state-good",
    "withheld": "state-warn",
    "failed": "state-bad",
    "cancelled": "state-warn",
    "running": "state-live",
}


@register.simple_tag
def state(outcome: str) -> SafeString:
    """How a request ended, as a word with a coloured dot."""
    return format_html('<span class="state {}">{}</span>', _TONES[outcome], selectors.OUTCOMES[outcome])


@register.simple_tag
def trouble_for(error: DomainError) -> Trouble:
    """An error in words, with those next steps that are addresses: a page of its own has no form to act on."""
    found = trouble(error)
    return replace(found, steps=found.links)


@register.filter
def post_name(role: str) -> str:
    """A role in words."""
    return str(Role(role).label).capitalize() if role in Role.values else role


@register.simple_tag
def cost_meaning() -> str:
    """What every privacy cost on a page bounds, and for whom: said wherever a figure stands."""
    return COST_MEANING


@register.filter
def is_faint(push: float) -> bool:
    """Whether a text's records are heard less than is aimed at; the figure itself is the expert's."""
    return push < COMFORTABLE_PUSH


@register.filter
def form_word(kind: str) -> str:
    """The way in which records were asked, in words."""
    return form_name(kind)


@register.filter
def micro(value: int) -> float:
    """Whole millionths as a privacy cost."""
    return value / MICRO


@register.filter
def amount(value: float | int | None) -> str:
    """A privacy cost or a count: at most two decimals, none where they are zero, a thin gap between thousands."""
    if value is None:
        return "–"
    rounded = round(float(value), 2)
    text = f"{rounded:,.2f}".rstrip("0").rstrip(".").replace(",", "\u202f")
    if rounded == 0 and value > 0:
        return "<0.01"
    return text


@register.filter
def minus(value: float, other: float) -> float:
    """The difference, never below zero."""
    return max(0.0, value - other)


@register.filter
def words(tokens: int) -> int:
    """About how many English words that many tokens make: three for four."""
    return max(1, round(tokens * 0.75))


@register.filter
def scientific(value: float | None) -> str:
    """Three significant digits, with an exponent where the number is very small: 1×10⁻⁵."""
    if value is None:
        return "–"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa.rstrip('0').rstrip('.')}×10{raised}"


@register.filter
def odds(epsilon: float) -> str:
    """e to the epsilon, rounded up to two digits: the factor that a guarantee speaks of."""
    factor = math.exp(epsilon)
    scale = 10 ** max(0, math.floor(math.log10(factor)) - 1)
    rounded = math.ceil(factor / scale) * scale if factor >= 10 else math.ceil(factor * 10) / 10
    return f"{rounded:,.10g}".replace(",", "\u202f")


@register.filter
def one_in(delta: float) -> str:
    """A small probability as "1 in so many", rounded down to the safe side."""
    return f"{math.floor(1 / delta + 1e-6):,}".replace(",", "\u202f") if delta > 0 else "∞"
