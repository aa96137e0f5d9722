"""The portal's pages: read the parameters, call one selector or service, render."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any, Concatenate, ParamSpec
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.handlers.asgi import ASGIRequest
from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, QueryDict, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_safe

from accounts import principals
from accounts.models import User
from accounts.principals import Principal
from compliance import access, budgets, charges, charts, export, period, selectors
from compliance import blocks as dataset_blocks
from compliance import reports as report_service
from compliance.anomalies.selectors import queue as review_queue
from compliance.forms import EventForm, LedgerForm, RangeForm, ReportForm, RequestForm
from compliance.models import REPORT_OPEN
from compliance.schedules.forms import ScheduleForm
from compliance.schedules.services import file_name
from compliance.selectors import EventFilter, RequestFilter
from fdrouter.errors import Conflict, NotFound, QuotaSpent, Unauthenticated
from privacy import grants
from privacy.models import QuotaGrant

P = ParamSpec("P")
PAGE_ROWS = 50
REPORT_ROWS = 20
UNPROCESSABLE = 422


def portal_page(
    view: Callable[Concatenate[HttpRequest, Principal, P], HttpResponseBase],
) -> Callable[Concatenate[HttpRequest, P], HttpResponseBase]:
    """Officers and auditors only. Signed out: to the sign-in page. Everybody else: there is no such page."""

    @wraps(view)
    def checked(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
        try:
            principal = principals.for_user(int(request.user.pk or 0))
            access.reach(principal)
            return view(request, principal, *args, **kwargs)
        except (Unauthenticated, NotFound):
            raise Http404 from None

    return login_required(checked)


def _page(rows: QuerySet[Any], parameters: QueryDict) -> Page[Any]:
    """The asked page; a number that is none, or too large, gives the nearest."""
    return Paginator(rows, PAGE_ROWS).get_page(parameters.get("page"))


def _status(form: RangeForm) -> int:
    return 200 if form.is_valid() else UNPROCESSABLE


@require_safe
@portal_page
def today(request: HttpRequest, principal: Principal) -> HttpResponse:
    """What happened today and what is left, each figure with the way to its rows."""
    day = period.today()
    asked, logged = RequestFilter(period=day), EventFilter(period=day)
    counts = selectors.request_counts(principal, asked)
    departments = budgets.departments(principal, day)
    events = {(row.kind, row.outcome): row.count for row in selectors.event_counts(principal, logged)}
    nodes = budgets.nodes(principal)
    return render(
        request,
        "compliance/today.html",
        {
            "day": day.start.isoformat(),
            "counts": counts,
            "total": selectors.total_of(counts),
            "departments": sorted(departments, key=lambda row: (row.left_today / max(row.cap, 1), row.name)),
            "spent_today": sum(row.spent_today for row in departments),
            "blocks": dataset_blocks.reported(principal),
            "nodes": nodes,
            "unseen": [node for node in nodes if not (node.seen and node.healthy)],
            "sign_ins": events.get(("session.sign_in", "ok"), 0),
            "failed_sign_ins": events.get(("session.sign_in", "failed"), 0),
            "denied": events.get(("policy.decision", "denied"), 0),
            "one_hospital": principal.hospital is not None,
            "queue": review_queue(principal),
            "checked_at": timezone.now(),
        },
    )


@require_safe
@portal_page
def ledger(request: HttpRequest, principal: Principal) -> HttpResponse:
    """Spent and left by department and hospital, and the hospitals' dataset blocks."""
    form = LedgerForm(principal, request.GET)
    status = _status(form)
    hospital = form.cleaned_data.get("hospital") or None
    covered = (form.period() if status == 200 else None) or period.month_to_date()
    departments = budgets.departments(principal, covered, hospital)
    hospitals = budgets.by_hospital(principal, covered, departments, hospital)
    blocks = dataset_blocks.reported(principal, hospital)
    daily = budgets.daily(principal, covered, hospital)
    drawn = {
        "chart-blocks": charts.of_blocks(blocks),
        "chart-departments": charts.by_department(departments, one_hospital=len(hospitals) == 1),
        "chart-hospitals": charts.by_hospital(hospitals),
        "chart-days": charts.of_days(covered.days, daily),
    }
    return render(
        request,
        "compliance/ledger.html",
        {
            "form": form,
            "export_query": request.GET.urlencode(),
            "start": covered.start.isoformat(),
            "end": covered.end.isoformat(),
            "departments": departments,
            "departments_sum": sum(row.spent for row in departments),
            "hospitals": hospitals,
            "blocks": blocks,
            "daily": [
                (day.isoformat(), [values[nth] for values in daily.values()]) for nth, day in enumerate(covered.days)
            ],
            "daily_names": list(daily),
            "charts": {name: chart.data() for name, chart in drawn.items() if not chart.is_empty},
        },
        status=status,
    )


@require_safe
@portal_page
def block_plans(request: HttpRequest, principal: Principal) -> HttpResponse:
    """Of each dataset block: what was published from it, what it can still answer, what single questions take."""
    return render(request, "compliance/blocks.html", {"plans": dataset_blocks.plans(principal)})


@require_safe
@portal_page
def requests(request: HttpRequest, principal: Principal) -> HttpResponse:
    """Requests by kind and outcome, and their rows, without contents."""
    form = RequestForm(principal, request.GET)
    status = _status(form)
    chosen = form.chosen() if status == 200 else RequestFilter(period=period.last_days(30))
    sort = (form.cleaned_data.get("sort") if status == 200 else "") or "-time"
    rows = selectors.requests(principal, chosen, sort)
    counts = selectors.request_counts(principal, chosen)
    chart = charts.of_requests(counts)
    return render(
        request,
        "compliance/requests.html",
        {
            "form": form,
            "sort": sort,
            "chosen": chosen,
            "page": _page(rows if status == 200 else rows.none(), request.GET),
            "counts": counts,
            "total": selectors.total_of(counts),
            "reasons": selectors.request_reasons(principal, chosen),
            "charts": {} if chart.is_empty else {"chart-requests": chart.data()},
        },
        status=status,
    )


@require_safe
@portal_page
def events(request: HttpRequest, principal: Principal) -> HttpResponse:
    """The rows of the log."""
    form = EventForm(principal, request.GET)
    status = _status(form)
    chosen = form.chosen() if status == 200 else EventFilter()
    sort = (form.cleaned_data.get("sort") if status == 200 else "") or "-seq"
    rows = selectors.sorted_events(principal, chosen, sort)
    query = request.GET.copy()
    for name in ("page", "sort"):
        query.pop(name, None)
    return render(
        request,
        "compliance/events.html",
        {
            "form": form,
            "sort": sort,
            "page": _page(rows if status == 200 else rows.none(), request.GET),
            "outcomes": selectors.event_outcomes(principal),
            "export_query": query.urlencode(),
        },
        status=status,
    )


@require_safe
@portal_page
def events_csv(request: HttpRequest, principal: Principal) -> HttpResponseBase:
    """The same rows as a file, in log order; the export is evidence itself."""
    form = EventForm(principal, request.GET)
    if not form.is_valid():
        problems = "; ".join(f"{name}: {' '.join(map(str, errors))}" for name, errors in form.errors.items())
        return HttpResponse(problems, status=UNPROCESSABLE, content_type="text/plain; charset=utf-8")
    chosen = form.chosen()
    upto = export.begin(principal, chosen)
    return _csv(request, export.lines(principal, chosen, upto), f"events-{timezone.localdate():%Y-%m-%d}")


@require_safe
@portal_page
def charges_csv(request: HttpRequest, principal: Principal) -> HttpResponseBase:
    """Every charge of the ledger page's range as a file, each with its request; the export is evidence itself."""
    form = LedgerForm(principal, request.GET)
    covered = form.period() if form.is_valid() else None
    if covered is None:
        return HttpResponse("Choose a range.", status=UNPROCESSABLE, content_type="text/plain; charset=utf-8")
    hospital = form.cleaned_data.get("hospital") or None
    upto = charges.begin(principal, covered, hospital)
    chunks = charges.lines(principal, covered, hospital, upto)
    return _csv(request, chunks, f"charges-{covered.start:%Y-%m-%d}-{covered.end:%Y-%m-%d}")


def _csv(request: HttpRequest, chunks: Iterator[str], name: str) -> StreamingHttpResponse:
    streamed = export.aside(chunks) if isinstance(request, ASGIRequest) else chunks
    response = StreamingHttpResponse(streamed, content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{name}.csv"'
    response["Cache-Control"] = "no-store"
    return response


@require_http_methods(["GET", "POST"])
@portal_page
def quota_grants(request: HttpRequest, principal: Principal) -> HttpResponse:
    """Wishes for more of a daily quota: those that wait for this person's decision, and what was decided."""
    if request.method == "POST":
        try:
            decided = grants.decide(
                principal, UUID(request.POST.get("grant", "")), approve=request.POST.get("decision") == "approve"
            )
        except ValueError:
            raise NotFound from None
        except (Conflict, QuotaSpent) as error:
            messages.error(request, error.message)
        else:
            messages.success(request, f"{decided.get_state_display().capitalize()}.")
        return redirect("compliance:grants")
    waiting = grants.waiting(principal)
    return render(
        request,
        "compliance/grants.html",
        {
            "waiting": _named(waiting),
            "decides": grants.may_decide(principal),
            "recent": _named(selectors.decided_grants(principal)[:REPORT_ROWS]),
        },
    )


def _named(rows: Iterable[QuotaGrant]) -> list[tuple[QuotaGrant, str, str]]:
    """Each with the names of who asked and who decided."""
    found = list(rows)
    ids = {pk for grant in found for pk in (grant.requested_by, grant.decided_by) if pk}
    names = {user.pk: user.get_full_name() or user.get_username() for user in User.objects.filter(pk__in=ids)}
    return [(g, names.get(g.requested_by, "–"), names.get(g.decided_by or 0, "–")) for g in found]


def _report_rows(principal: Principal) -> dict[str, Any]:
    rows = list(selectors.reports(principal)[:REPORT_ROWS])
    names = {place.code: place.name for place in access.hospitals(principal)}
    return {
        "reports": [
            (row, names.get(row.hospital, row.hospital) or "All hospitals", period.name(row.start, row.end, row.kind))
            for row in rows
        ],
        "working": any(row.state in REPORT_OPEN for row in rows),
        "may_request": access.may_request_reports(principal),
    }


@require_http_methods(["GET", "POST"])
@portal_page
def reports(request: HttpRequest, principal: Principal) -> HttpResponse:
    """Reports of any period: ask for one, watch it, take it."""
    if request.method != "POST":
        return reports_page(request, principal)
    form = ReportForm(principal, request.POST)
    if not form.is_valid():
        return reports_page(request, principal, form=form, status=UNPROCESSABLE)
    data = form.cleaned_data
    _, created = report_service.request(principal, form.covered, kind=data["kind"], hospital=data["hospital"])
    if not created:
        messages.info(request, "This report is already being made.")
    return redirect("compliance:reports")


def reports_page(
    request: HttpRequest,
    principal: Principal,
    *,
    form: ReportForm | None = None,
    schedule_form: ScheduleForm | None = None,
    status: int = 200,
) -> HttpResponse:
    """The page, with the form that was sent where it was wrong."""
    from compliance.schedules import views as schedules  # its views stand on this module

    context = {
        "form": form or ReportForm(principal),
        "schedule_form": schedule_form or ScheduleForm(principal),
        **_report_rows(principal),
        **schedules.rows(principal),
    }
    return render(request, "compliance/reports.html", context, status=status)


@require_safe
@portal_page
def report_list(request: HttpRequest, principal: Principal) -> HttpResponse:
    """The list alone: the page asks for it while a report is being made."""
    return render(request, "compliance/_reports.html", _report_rows(principal))


@require_safe
@portal_page
def report_download(request: HttpRequest, principal: Principal, report_id: Any) -> HttpResponse:
    """The PDF."""
    report = report_service.download(principal, report_id)
    response = HttpResponse(bytes(report.pdf or b""), content_type="application/pdf")
    response["Content-Disposition"] = f'attachment; filename="{file_name(report)}"'
    response["Cache-Control"] = "no-store"
    return response
