"""The pages of cases: the list, one case with its timeline and notes, and its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from accounts.models import User
from accounts.principals import Principal
from compliance.anomalies import cases, selectors
from compliance.anomalies.forms import AssignForm, CaseForm, DecideForm, NoteForm, OpenForm
from compliance.anomalies.models import CASE_WAITING, AnomalyCase, Decision
from compliance.anomalies.registry import RULES
from compliance.anomalies.selectors import CaseFilter
from compliance.findings import count
from compliance.views import PAGE_ROWS, UNPROCESSABLE, portal_page
from fdrouter.errors import Conflict, InvalidParameter, NotFound

LINKED_ROWS = 50


@require_safe
@portal_page
def cases_page(request: HttpRequest, principal: Principal) -> HttpResponse:
    """Cases, the one that waits longest first."""
    return _cases(request, principal)


def _cases(request: HttpRequest, principal: Principal, wrong: OpenForm | None = None) -> HttpResponse:
    form = CaseForm(principal, request.GET)
    valid = form.is_valid()
    chosen = form.chosen() if valid else CaseFilter()
    sort = (form.cleaned_data.get("sort") if valid else "") or "due"
    found: QuerySet[Any] = selectors.cases(principal, chosen, sort)
    return render(
        request,
        "compliance/cases.html",
        {
            "form": form,
            "sort": sort,
            "page": Paginator(found if valid else found.none(), PAGE_ROWS).get_page(request.GET.get("page")),
            "open_form": wrong or OpenForm(),
            "may_act": cases.may_act(principal),
            "now": timezone.now(),
        },
        status=UNPROCESSABLE if wrong or not valid else 200,
    )


@require_POST
@portal_page
def open_by_hand(request: HttpRequest, principal: Principal) -> HttpResponse:
    """Opens a case that no rule found."""
    form = OpenForm(request.POST)
    if not form.is_valid() and cases.may_act(principal):
        return _cases(request, principal, form)
    data = form.cleaned_data
    try:
        case = cases.open_by_hand(principal, note=data.get("note", ""), username=data.get("username", ""))
    except InvalidParameter as error:
        form.add_error(str(error.details.get("field")), error.message)
        return _cases(request, principal, form)
    return redirect("compliance:case", case_id=case.pk)


@require_POST
@portal_page
def open_from_findings(request: HttpRequest, principal: Principal) -> HttpResponse:
    """Opens a case from the marked findings."""
    try:
        case = cases.open_from_findings(principal, _keys(request.POST))
    except (Conflict, InvalidParameter) as error:
        messages.error(request, error.message)
        return redirect("compliance:anomalies")
    return redirect("compliance:case", case_id=case.pk)


def _keys(data: QueryDict) -> list[UUID]:
    try:
        return [UUID(value) for value in data.getlist("finding")]
    except ValueError:
        raise NotFound from None


@require_safe
@portal_page
def case(request: HttpRequest, principal: Principal, case_id: UUID) -> HttpResponse:
    """One case: how it stands, its steps, its notes and what it rests on."""
    return _case(request, principal, case_id)


def _case(
    request: HttpRequest, principal: Principal, case_id: UUID, wrong: dict[str, Any] | None = None
) -> HttpResponse:
    row = selectors.cases(principal, CaseFilter()).filter(pk=case_id).first()
    if row is None:
        raise NotFound
    findings = list(row.findings.order_by("-start", "-score", "pk")[: cases.MAX_FINDINGS])
    return render(
        request,
        "compliance/case.html",
        {
            "case": row,
            "waiting": row.state in CASE_WAITING,
            "overdue": row.state in CASE_WAITING and row.due_at < timezone.now(),
            "steps": _told(selectors.timeline(principal, row)),
            "notes": cases.notes(principal, row),
            "findings": findings,
            "titles": {rule.name: rule.title for rule in RULES.values()},
            "requests": selectors.linked_requests(findings, LINKED_ROWS),
            "events": selectors.linked_events(findings, LINKED_ROWS),
            "linkable": selectors.linkable(principal, row)[:LINKED_ROWS] if row.state in CASE_WAITING else [],
            "may_act": cases.may_act(principal),
            "mine": row.assignee_id == principal.user_id,
            "assign_form": AssignForm(principal, row),
            "decide_form": DecideForm(),
            "note_form": NoteForm(),
            "reopen_form": NoteForm(label="Why again", prefix="reopen"),
            **(wrong or {}),
        },
        status=UNPROCESSABLE if wrong else 200,
    )


def _findings(facts: dict[str, Any]) -> str:
    return count(int(facts.get("findings", 0)), "finding", "findings")


def _told(events: QuerySet[Any]) -> list[tuple[Any, str]]:
    """Each step with a few words about it."""
    rows = list(events)
    ids = {row.details["assignee"] for row in rows if "assignee" in row.details}
    names = {user.pk: user.get_full_name() or user.get_username() for user in User.objects.filter(pk__in=ids)}
    decisions = dict(Decision.choices)
    said = []
    for row in rows:
        facts = row.details
        words = {
            "opened": f"with {_findings(facts)}" if facts.get("findings") else "by hand",
            "assigned": f"to {names.get(facts.get('assignee'), 'somebody')}",
            "decided": str(decisions.get(facts.get("decision", ""), "")).lower(),
            "reopened": f"after: {str(decisions.get(facts.get('before', ''), '')).lower()}",
            "linked": f"{_findings(facts)} more",
            "denied": "an attempt was refused",
        }
        said.append((row, words.get(row.outcome, "")))
    return said


# --- steps --------------------------------------------------------------------------------------------------------
def _version(data: QueryDict) -> int:
    try:
        return int(data.get("version", ""))
    except ValueError:
        raise NotFound from None


def _assign(principal: Principal, case_id: UUID, data: QueryDict) -> AnomalyCase:
    try:
        chosen = int(data.get("assignee", ""))
    except ValueError:
        raise InvalidParameter("Choose an officer.", field="assignee") from None
    return cases.assign(principal, case_id, _version(data), chosen)


def _decide(principal: Principal, case_id: UUID, data: QueryDict) -> AnomalyCase:
    decision, note = data.get("decide-decision", ""), data.get("decide-note", "")
    return cases.decide(principal, case_id, _version(data), decision, note)


def _reopen(principal: Principal, case_id: UUID, data: QueryDict) -> AnomalyCase:
    return cases.reopen(principal, case_id, _version(data), data.get("reopen-note", ""))


_STEPS: dict[str, Callable[[Principal, UUID, QueryDict], object]] = {
    "assign": _assign,
    "decide": _decide,
    "close": lambda principal, case_id, data: cases.close(principal, case_id, _version(data)),
    "reopen": _reopen,
    "note": lambda principal, case_id, data: cases.add_note(principal, case_id, data.get("note-note", "")),
    "link": lambda principal, case_id, data: cases.link(principal, case_id, _keys(data)),
}


@require_POST
@portal_page
def step(request: HttpRequest, principal: Principal, case_id: UUID, step: str) -> HttpResponse:
    """One step of a case; what was written stays in the form where it was wrong."""
    take = _STEPS.get(step)
    if take is None:
        raise NotFound
    try:
        take(principal, case_id, request.POST)
    except Conflict as error:
        messages.error(request, error.message)
    except InvalidParameter as error:
        return _case(request, principal, case_id, _wrong(principal, case_id, step, request.POST, error))
    return redirect("compliance:case", case_id=case_id)


def _wrong(principal: Principal, case_id: UUID, name: str, data: QueryDict, error: InvalidParameter) -> dict[str, Any]:
    forms: dict[str, Any] = {
        "decide": DecideForm(data),
        "note": NoteForm(data),
        "reopen": NoteForm(data, label="Why again", prefix="reopen"),
    }
    row = selectors.visible_cases(principal).get(pk=case_id)
    form = forms.get(name) or AssignForm(principal, row, data)
    form.is_valid()
    field = str(error.details.get("field"))
    if field in form.fields and field not in form.errors:
        form.add_error(field, error.message)
    return {f"{name}_form": form}
