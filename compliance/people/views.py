"""The pages of people and of access reviews: read the parameters, call one selector or service."""

from __future__ import annotations

from uuid import UUID

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import F
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from accounts.principals import Principal
from compliance import period
from compliance.people import files, reviews, selectors
from compliance.people.forms import DAYS, PeopleForm, StartForm
from compliance.people.models import AccessReview, LineState
from compliance.people.selectors import STANDINGS, PeopleFilter
from compliance.views import PAGE_ROWS, UNPROCESSABLE, portal_page
from fdrouter.errors import Conflict, InvalidParameter, NotFound, PolicyDenied

CSV = "text/csv; charset=utf-8"


def _file(text: str, name: str) -> HttpResponse:
    response = HttpResponse(text, content_type=CSV)
    response["Content-Disposition"] = f'attachment; filename="{name}-{timezone.localdate():%Y-%m-%d}.csv"'
    response["Cache-Control"] = "no-store"
    return response


@require_safe
@portal_page
def people(request: HttpRequest, principal: Principal) -> HttpResponse:
    """Accounts with their posts and use."""
    form = PeopleForm(principal, request.GET)
    valid = form.is_valid()
    chosen = form.chosen() if valid else PeopleFilter(period=period.last_days(DAYS))
    sort = (form.cleaned_data.get("sort") if valid else "") or "user"
    rows = selectors.people(principal, chosen, sort) if valid else []
    context = {
        "form": form,
        "sort": sort,
        "page": Paginator(rows, PAGE_ROWS).get_page(request.GET.get("page")),
        "counts": [(label, sum(name in row.standing for row in rows)) for name, label in STANDINGS.items()],
        "export_query": request.GET.urlencode(),
    }
    return render(request, "compliance/people.html", context, status=200 if valid else UNPROCESSABLE)


@require_safe
@portal_page
def people_csv(request: HttpRequest, principal: Principal) -> HttpResponse:
    """The chosen accounts as a file."""
    form = PeopleForm(principal, request.GET)
    if not form.is_valid():
        return HttpResponse("A filter has no such value.", status=UNPROCESSABLE, content_type="text/plain")
    return _file(files.people_csv(principal, form.chosen(), form.cleaned_data.get("sort") or "user"), "people")


@require_safe
@portal_page
def person(request: HttpRequest, principal: Principal, user_id: int) -> HttpResponse:
    """One account: its posts, tokens and events."""
    context = {
        "person": selectors.person(principal, user_id, period.last_days(DAYS)),
        "days": DAYS,
        "posts": selectors.posts(principal, user_id),
        "tokens": selectors.tokens(user_id),
        "api_used": selectors.last_api_request(user_id),
        "events": selectors.events(principal, user_id)[: selectors.PERSON_EVENTS],
    }
    return render(request, "compliance/person.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
@portal_page
def access_reviews(request: HttpRequest, principal: Principal) -> HttpResponse:
    """Reviews and their progress; by POST a new one."""
    form = StartForm(principal, request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        hospital, department, due = form.chosen()
        try:
            review = reviews.start(principal, hospital=hospital, department=department, due=due)
        except InvalidParameter as error:
            form.add_error("due" if error.details.get("field") == "due" else "scope", error.message)
        except Conflict as error:
            form.add_error("scope", error.message)
        else:
            return redirect("compliance:access-review", review_id=review.pk)
    elif request.method == "POST":
        reviews.require_officer(principal)
    context = {
        "form": form,
        "page": Paginator(reviews.visible(principal), PAGE_ROWS).get_page(request.GET.get("page")),
        "may_act": reviews.may_act(principal),
        "today": timezone.localdate(),
    }
    status = UNPROCESSABLE if form.is_bound and form.errors else 200
    return render(request, "compliance/access_reviews.html", context, status=status)


def _review(principal: Principal, review_id: UUID) -> AccessReview:
    found = reviews.visible(principal).filter(pk=review_id).first()
    if found is None:
        raise NotFound
    return found


@require_safe
@portal_page
def access_review(request: HttpRequest, principal: Principal, review_id: UUID) -> HttpResponse:
    """One review: its progress and its lines, open ones first."""
    review = _review(principal, review_id)
    state = request.GET.get("state", "")
    rows = review.lines.select_related("decided_by")
    rows = rows.filter(state=state) if state in LineState.values else rows
    rows = rows.order_by(F("decided_at").desc(nulls_first=True), "username", "pk")
    context = {
        "review": review,
        "state": state,
        "states": LineState.choices,
        "page": Paginator(rows, PAGE_ROWS).get_page(request.GET.get("page")),
        "may_act": reviews.may_act(principal) and review.state == "open",
        "overdue": review.state == "open" and review.due < timezone.localdate(),
        "left": review.lines.filter(state=LineState.OPEN).count(),
    }
    return render(request, "compliance/access_review.html", context)


@require_POST
@portal_page
def decide(request: HttpRequest, principal: Principal, review_id: UUID, line_id: int) -> HttpResponse:
    """Certifies or revokes one line."""
    data = request.POST
    try:
        line = reviews.decide(principal, review_id, line_id, data.get("state", ""), data.get("reason", ""))
    except (Conflict, InvalidParameter, PolicyDenied) as error:
        if not reviews.may_act(principal):
            raise
        messages.error(request, error.message)
    else:
        if line.state == LineState.OVERTAKEN:
            messages.warning(request, f"The post of {line.username} has changed or ended since: the line is overtaken.")
        else:
            messages.success(request, f"{line.username}: {line.get_state_display().lower()}.")
    return redirect("compliance:access-review", review_id=review_id)


@require_POST
@portal_page
def close(request: HttpRequest, principal: Principal, review_id: UUID) -> HttpResponse:
    """Closes a review early."""
    try:
        reviews.close(principal, review_id)
    except Conflict as error:
        messages.error(request, error.message)
    return redirect("compliance:access-review", review_id=review_id)


@require_safe
@portal_page
def access_review_csv(request: HttpRequest, principal: Principal, review_id: UUID) -> HttpResponse:
    """A review's lines as a file."""
    return _file(files.review_csv(principal, _review(principal, review_id)), f"access-review-{str(review_id)[:8]}")
