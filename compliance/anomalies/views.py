"""The pages of findings, of the rules and of flagged patients: read the parameters, call one selector or service."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.principals import Principal
from compliance.anomalies import cases, files, selectors, services
from compliance.anomalies.forms import FindingForm, WatchForm
from compliance.anomalies.parameters import parameters
from compliance.anomalies.registry import RULES
from compliance.anomalies.selectors import FindingFilter
from compliance.views import PAGE_ROWS, UNPROCESSABLE, portal_page
from fdrouter.errors import Conflict, InvalidParameter


@require_safe
@portal_page
def anomalies(request: HttpRequest, principal: Principal) -> HttpResponse:
    """What the rules found, newest first."""
    form = FindingForm(principal, request.GET)
    valid = form.is_valid()
    chosen = form.chosen() if valid else FindingFilter()
    sort = (form.cleaned_data.get("sort") if valid else "") or "-time"
    found: QuerySet[Any] = selectors.findings(principal, chosen, sort)
    counts = selectors.rule_counts(principal, FindingFilter(period=chosen.period, hospital=chosen.hospital))
    return render(
        request,
        "compliance/anomalies.html",
        {
            "form": form,
            "sort": sort,
            "chosen": chosen,
            "page": Paginator(found if valid else found.none(), PAGE_ROWS).get_page(request.GET.get("page")),
            "titles": {rule.name: rule.title for rule in RULES.values()},
            "counts": [(RULES[name], number) for name, number in counts.items() if name in RULES],
            "export_query": request.GET.urlencode(),
            "may_act": cases.may_act(principal),
            "looked_at": selectors.looked_at(),
        },
        status=200 if valid else UNPROCESSABLE,
    )


@require_safe
@portal_page
def anomalies_csv(request: HttpRequest, principal: Principal) -> HttpResponse:
    """The chosen findings as a file."""
    form = FindingForm(principal, request.GET)
    if not form.is_valid():
        return HttpResponse("A filter has no such value.", status=UNPROCESSABLE, content_type="text/plain")
    text = files.as_csv(principal, form.chosen(), form.cleaned_data.get("sort") or "-time")
    response = HttpResponse(text, content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="anomalies-{timezone.localdate():%Y-%m-%d}.csv"'
    response["Cache-Control"] = "no-store"
    return response


def _limits(values: Any) -> list[tuple[str, str]]:
    """A rule's parameters as people read them."""
    spelled = []
    for name in values.__struct_fields__:
        value = getattr(values, name)
        if isinstance(value, dict):
            value = "; ".join(f"{role}: {', '.join(items)}" for role, items in value.items())
        spelled.append((name.replace("_", " "), str(value)))
    return spelled


@require_safe
@portal_page
def rules(request: HttpRequest, principal: Principal) -> HttpResponse:
    """What each rule looks for, at which limits, and what it cannot see."""
    limits = parameters()
    running = [(rule, _limits(values)) for rule, values in limits.running()]
    off = [rule for name, rule in sorted(RULES.items()) if name not in limits.rules]
    return render(request, "compliance/anomalies_rules.html", {"rules": running, "off": off, "limits": limits})


@require_http_methods(["GET", "POST"])
@portal_page
def watch(request: HttpRequest, principal: Principal) -> HttpResponse:
    """Flagged patients: who they are, by reference, and one more."""
    form = WatchForm(principal, request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        try:
            services.watch(principal, **form.cleaned_data)
        except InvalidParameter as error:
            form.add_error(str(error.details.get("field")), error.message)
        except Conflict as error:
            form.add_error("reference", error.message)
        else:
            messages.success(request, "The patient is flagged.")
            return redirect("compliance:anomaly-watch")
    context = {"form": form, "watched": selectors.watched(principal)[:500], "may_act": cases.may_act(principal)}
    status = UNPROCESSABLE if form.is_bound and form.errors else 200
    return render(request, "compliance/anomalies_watch.html", context, status=status)


@require_POST
@portal_page
def unwatch(request: HttpRequest, principal: Principal, watched_id: int) -> HttpResponse:
    """Takes a flag away."""
    try:
        services.unwatch(principal, watched_id)
    except Conflict as error:
        messages.error(request, error.message)
    return redirect("compliance:anomaly-watch")
