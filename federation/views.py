"""The clinician's pages and the operator's: parse, authorise, ask one service, render."""

from __future__ import annotations

import json
import math
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.policy import PURPOSES
from accounts.principals import Principal
from accounts.views import principal_required
from fdrouter.errors import Conflict, DomainError, InvalidParameter, NotFound, PolicyDenied
from federation import asks, oversight, pages, quotes, selectors, troubles
from federation.answering import form_name, form_of
from federation.asks import PrivacyOptions
from federation.choosing import AUTO
from federation.models import ACROSS, Kind, RejectReason
from privacy import grants
from privacy.dp.text_plan import DEFAULT_EPSILON
from privacy.selectors import balances

PURPOSE_SECONDS = 180 * 24 * 3600


@require_safe
@never_cache
@principal_required
def ask(request: HttpRequest, principal: Principal) -> HttpResponse:
    """The Ask page. People whose post asks nothing go to the page that their post is about."""
    if not principal.is_clinical:
        return redirect("compliance:portal" if principal.sees_portal else "federation:nodes")
    again = _again(request, principal)
    context = {
        "composer": pages.composer(
            principal, kind=request.GET.get("kind", ""), purpose=request.COOKIES.get("purpose", ""), again=again
        ),
        "gauges": balances(principal),
        "recent": selectors.recent(principal),
        "asks_records": pages.asks_records(principal),
    }
    return render(request, "federation/ask.html", context)


@require_safe
@never_cache
@principal_required
def side(request: HttpRequest, principal: Principal) -> HttpResponse:
    """What is left, what was asked last and which costs still fit: read again by the Ask page after every answer."""
    context: dict[str, Any] = {"gauges": balances(principal), "recent": selectors.recent(principal), "again": True}
    context["asks_records"] = pages.asks_records(principal)
    if Kind.COHORT_TEXT in selectors.purposes_by_kind(principal):
        context["costs"] = pages.costs(principal, _number(request.GET.get("epsilon", "")) or DEFAULT_EPSILON)
    return render(request, "federation/_side.html", context)


def _again(request: HttpRequest, principal: Principal) -> selectors.Request | None:
    """The request to ask once more, when the address names one of the person's own."""
    try:
        return selectors.request(principal, UUID(request.GET["again"]))
    except (KeyError, ValueError, NotFound):
        return None


@require_POST
@never_cache
@principal_required
def quote(request: HttpRequest, principal: Principal) -> HttpResponse:
    """What sending would cost, as a part of the Ask page; also where the purpose of use is remembered.

    It changes nothing but that cookie. It is a POST because the question comes along, which no log of addresses keeps.
    """
    if not principal.is_clinical:
        raise NotFound
    purpose = request.POST.get("purpose", "")
    context: dict[str, Any] = {"purpose": purpose, "refusal": None}
    try:
        context |= _quoted(request, principal, purpose)
    except DomainError as error:
        context["refusal"] = error
    context["trouble"] = troubles.trouble(context["refusal"]) if context["refusal"] else None
    context["gauge"] = next((g for g in balances(principal) if g.scope == "user" and g.is_privacy), None)
    response = render(request, "federation/_quote.html", context)
    if purpose in PURPOSES:
        response.set_cookie(
            "purpose", purpose, max_age=PURPOSE_SECONDS, httponly=True, samesite="Lax", secure=request.is_secure()
        )
    return response


def _quoted(request: HttpRequest, principal: Principal, purpose: str) -> dict[str, Any]:
    """The quote for the page, or ``waiting`` while there is no question to choose a mechanism for."""
    kind, question = request.POST.get("kind", ""), request.POST.get("prompt", "").strip()
    if kind not in Kind.values:
        raise InvalidParameter("Choose what should answer.", field="kind")
    asked = form_of(request.POST.get("form", "")) if kind == Kind.COHORT_TEXT else kind
    options = tuple(line.strip() for line in request.POST.get("options", "").splitlines() if line.strip())
    if asked == AUTO:
        if not question:
            return {"waiting": True}
        left_open = PrivacyOptions(
            kind=AUTO,
            options=options,
            hospitals=request.POST.getlist("hospitals"),
            threshold=_threshold(request) if options else None,
            across=bool(request.POST.get("across")) or None,
        )
        chosen = asks.choose(left_open, question, selectors.published())
        answering = Kind(chosen.kind) if chosen else Kind.COHORT_TEXT
    else:
        answering = Kind(asked)
    across = answering in ACROSS and bool(request.POST.get("across"))
    found = quotes.quote(
        principal,
        kind=asked,
        question=question,
        options=options if answering == Kind.COHORT_CHOICE or asked == AUTO else (),
        epsilon=_epsilon(request, answering) if answering.is_cohort else None,
        hospitals=request.POST.getlist("hospitals"),
        threshold=_threshold(request) if answering == Kind.COHORT_CHOICE and not across else None,
        across=across,
    )
    refusal = found.refusal or _purpose_refusal(principal, answering, purpose)
    return {
        "quote": found,
        "refusal": refusal,
        "chosen": found.chosen,
        "chosen_name": found.chosen and form_name(found.chosen.kind),
        "blocks": pages.blocks(principal, found.block_left),
        "share": pages.share(principal, found.block_share, together=bool(found.hospitals)),
        "together": pages.names(principal, found.hospitals),
    }


def _number(text: str) -> float | None:
    """A finite number or ``None``."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _epsilon(request: HttpRequest, kind: Kind) -> float | None:
    name = "epsilon" if kind is Kind.COHORT_TEXT else f"epsilon-{kind}"
    if name not in request.POST:
        return None
    value = _number(request.POST[name].strip())
    if value is None:
        raise InvalidParameter("The privacy cost must be a number.", field="epsilon")
    return value


def _threshold(request: HttpRequest) -> int | None:
    text = request.POST.get("threshold", "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise InvalidParameter("How many records must agree is a whole number.", field="threshold")
    return int(text)


def _purpose_refusal(principal: Principal, kind: Kind, purpose: str) -> PolicyDenied | None:
    allowed = selectors.purposes_by_kind(principal).get(kind, [])
    if purpose in allowed:
        return None
    words = " or ".join(PURPOSES[name].lower() for name in allowed) or "no purpose"
    return PolicyDenied(f"This may be asked for {words}. Choose the purpose that is true.", purposes=allowed)


@require_safe
@never_cache
@principal_required
def history(request: HttpRequest, principal: Principal) -> HttpResponse:
    """The person's own requests: search, filters, pages."""
    filters = {name: request.GET.get(name, "") for name in ("text", "kind", "outcome")}
    number = request.GET.get("page", "1")
    page = selectors.history(principal, **filters, page=int(number) if number.isdecimal() and len(number) < 7 else 1)
    context = {
        "page": page,
        "filters": filters,
        "filtered": any(filters.values()),
        "kinds": Kind.choices,
        "outcomes": selectors.OUTCOMES.items(),
    }
    return render(request, "federation/history.html", context)


@require_safe
@never_cache
@principal_required
def inference(request: HttpRequest, principal: Principal, request_id: UUID) -> HttpResponse:
    """One of the person's own requests."""
    found = selectors.request(principal, request_id)
    return _entry(request, found, _review(found))


def _entry(request: HttpRequest, found: selectors.Request, review: dict[str, Any]) -> HttpResponse:
    context = {
        "found": found,
        "receipt": pages.receipt_view(found),
        "written_by_model": pages.written_by_model(found.row),
        "steps": pages.steps(found),
        "trouble": troubles.trouble_of(found),
        "purpose": PURPOSES.get(found.row.purpose, found.row.purpose),
    }
    return render(request, "federation/inference.html", context | review, status=422 if review.get("error") else 200)


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@principal_required
def review(request: HttpRequest, principal: Principal, request_id: UUID) -> HttpResponse:
    """The asker's decision about an answer, as a part of the Ask page; without scripts it leads back to the entry."""
    error, given = None, {name: request.POST.get(name, "") for name in ("verdict", "text", "reason")}
    if request.method == "POST":
        try:
            oversight.review(principal, request_id, **given)
        except (InvalidParameter, Conflict) as refused:
            error = refused
        if error is None and not request.headers.get("HX-Request"):
            return redirect("federation:inference", request_id)
    found = selectors.request(principal, request_id)
    context = {"found": found, **_review(found), "error": error, "verdict": given["verdict"], "written": given["text"]}
    partial = request.headers.get("HX-Request") or request.method != "POST"
    # htmx shows no part that came with an error's status, so a refused decision is a part like any other.
    return render(request, "federation/_review.html", context) if partial else _entry(request, found, context)


def _review(found: selectors.Request) -> dict[str, Any]:
    return {"review": oversight.latest(found.row), "reasons": RejectReason.choices}


@require_safe
@never_cache
@principal_required
def receipt(request: HttpRequest, principal: Principal, request_id: UUID) -> HttpResponse:
    """The receipt of one of the person's own requests, as a part of the Ask page."""
    found = selectors.request(principal, request_id)
    return render(
        request,
        "federation/_receipt.html",
        {"found": found, "receipt": pages.receipt_view(found)},
    )


@require_safe
@never_cache
@principal_required
def receipt_file(request: HttpRequest, principal: Principal, request_id: UUID) -> HttpResponse:
    """The receipt as the node signed it, to keep and to verify elsewhere."""
    found = selectors.request(principal, request_id)
    if found.row.receipt is None:
        raise NotFound
    body = json.dumps(found.row.receipt, sort_keys=True, indent=2, ensure_ascii=False)
    response = HttpResponse(body + "\n", content_type="application/json")
    response["Content-Disposition"] = f'attachment; filename="receipt-{request_id}.json"'
    return response


@require_safe
@never_cache
@principal_required
def budget(request: HttpRequest, principal: Principal) -> HttpResponse:
    """What is left today, what used it, and when it refills."""
    gauges = balances(principal)
    since = min((gauge.started_at for gauge in gauges), default=None)
    context = {
        "gauges": gauges,
        "asks_records": pages.asks_records(principal),
        "privacy_gauges": [gauge for gauge in gauges if gauge.is_privacy],
        "request_gauges": [gauge for gauge in gauges if not gauge.is_privacy],
        "sources": selectors.sources(principal) if gauges else [],
        "used": selectors.recent(principal, since=since, limit=100) if since else [],
        "wishes": grants.visible(principal).filter(requested_at__gte=since)[:10] if since else [],
    }
    return render(request, "federation/budget.html", context)


@require_POST
@principal_required
def more_budget(request: HttpRequest, principal: Principal) -> HttpResponse:
    """Asks for more of a daily quota; somebody else decides."""
    try:
        grants.request(
            principal,
            target=request.POST.get("target", ""),
            epsilon=_number(request.POST.get("epsilon", "")),
            reason=request.POST.get("reason", ""),
        )
    except DomainError as error:
        messages.error(request, error.message)
    else:
        messages.success(request, "Your request was sent to the privacy officer. It counts for today only.")
    return redirect("federation:budget")


@require_safe
@never_cache
@principal_required
def nodes(request: HttpRequest, principal: Principal) -> HttpResponse:
    """The nodes that an operator looks after."""
    return render(request, "federation/nodes.html", {"cards": selectors.nodes(principal)})
