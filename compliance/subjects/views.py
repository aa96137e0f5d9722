"""The pages of the patient access report and of disclosures: read the parameters, call one selector or service."""

from __future__ import annotations

from typing import Any

from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from accounts.principals import Principal
from compliance.subjects import disclosures, reports, selectors
from compliance.subjects.disclosures import DisclosureFilter
from compliance.subjects.forms import DisclosureForm, SubjectForm
from compliance.subjects.selectors import Access, Subject
from compliance.views import PAGE_ROWS, UNPROCESSABLE, portal_page
from fdrouter.errors import InvalidParameter


@require_http_methods(["GET", "HEAD", "POST"])
@portal_page
def patient(request: HttpRequest, principal: Principal) -> HttpResponse:
    """Who asked about a patient; by POST the answer, as a page or, with ``format``, as a file."""
    form = SubjectForm(principal, request.POST if request.method == "POST" else None)
    context: dict[str, Any] = {"form": form, "may_ask": reports.may_ask(principal), "limits": reports.LIMITS}
    if request.method == "POST":
        reports.require_officer(principal)
        asked = _asked(form, principal)
        if asked is not None and request.POST.get("format") in reports.FORMATS:
            return _file(principal, asked, request.POST["format"])
        if asked is not None:
            found = reports.look(principal, asked)
            context |= {"asked": asked, "counts": selectors.counts(found), "relations": selectors.relations(asked)}
            rows = _ordered(found, form.cleaned_data.get("order") or "-at")
            context["page"] = Paginator(rows, PAGE_ROWS).get_page(request.POST.get("page"))
    status = UNPROCESSABLE if form.is_bound and form.errors else 200
    response = render(request, "compliance/patient.html", context, status=status)
    response["Cache-Control"] = "no-store"
    return response


def _asked(form: SubjectForm, principal: Principal) -> Subject | None:
    if not form.is_valid():
        return None
    data = form.cleaned_data
    try:
        return selectors.subject(principal, data["hospital"], data["reference"], form.covered)
    except InvalidParameter as error:
        form.add_error("reference", error.message)
        return None


def _ordered(rows: list[Access], order: str) -> list[Access]:
    if order == "accounting":
        return sorted(rows, key=lambda row: not row.accounting.owed)
    column = order.removeprefix("-")
    return sorted(rows, key=lambda row: getattr(row, column), reverse=order.startswith("-"))


def _file(principal: Principal, asked: Subject, form: str) -> HttpResponse:
    """The name of the file does not say whom it is about."""
    content_type, make = reports.FORMATS[form]
    response = HttpResponse(make(principal, asked), content_type=content_type)
    name = f"patient-access-{timezone.localdate():%Y-%m-%d}.{form}"
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    response["Cache-Control"] = "no-store"
    return response


@require_safe
@portal_page
def disclosed(request: HttpRequest, principal: Principal) -> HttpResponse:
    """What left the system, newest first."""
    form = DisclosureForm(principal, request.GET)
    valid = form.is_valid()
    chosen = form.chosen() if valid else DisclosureFilter()
    sort = (form.cleaned_data.get("sort") if valid else "") or "-time"
    found: QuerySet[Any] = disclosures.disclosures(principal, chosen, sort)
    page = Paginator(found if valid else found.none(), PAGE_ROWS).get_page(request.GET.get("page"))
    context = {
        "form": form,
        "sort": sort,
        "page": page,
        "rows": [disclosures.told(event) for event in page],
        "export_query": request.GET.urlencode(),
    }
    return render(request, "compliance/disclosures.html", context, status=200 if valid else UNPROCESSABLE)


@require_safe
@portal_page
def disclosed_csv(request: HttpRequest, principal: Principal) -> HttpResponse:
    """The chosen disclosures as a file."""
    form = DisclosureForm(principal, request.GET)
    if not form.is_valid():
        return HttpResponse("A filter has no such value.", status=UNPROCESSABLE, content_type="text/plain")
    text = disclosures.as_csv(principal, form.chosen(), form.cleaned_data.get("sort") or "-time")
    response = HttpResponse(text, content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="disclosures-{timezone.localdate():%Y-%m-%d}.csv"'
    response["Cache-Control"] = "no-store"
    return response
