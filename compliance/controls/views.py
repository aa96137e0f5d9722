"""The controls' pages: read the parameters, look at the evidence, render."""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST, require_safe

from accounts.principals import Principal
from compliance.controls import exceptions, files, matrix
from compliance.controls.evidence import QUERIES, Table
from compliance.controls.forms import ControlForm, ExceptionForm
from compliance.controls.matrix import SHOWN, MatrixFilter, Row
from compliance.views import PAGE_ROWS, UNPROCESSABLE, portal_page
from fdrouter.errors import Conflict, InvalidParameter, NotFound


def _grouped(found: list[Row]) -> list[tuple[Any, list[Row], dict[str, int]]]:
    """Rows by regulation, each with its own counts."""
    groups = [(library, list(rows)) for library, rows in groupby(found, key=lambda row: row.library)]
    return [(library, rows, matrix.counts(rows)) for library, rows in groups]


@require_safe
@portal_page
def controls(request: HttpRequest, principal: Principal) -> HttpResponse:
    """The matrix of all regulations, narrowed by regulation, status and owner."""
    form = ControlForm(principal, request.GET)
    status = 200 if form.is_valid() else UNPROCESSABLE
    covered = form.covered()
    chosen = form.chosen() if status == 200 else MatrixFilter()
    # The counts are of everything but the status, so that one status can be changed for another.
    open_to = matrix.rows(principal, covered, MatrixFilter(regulation=chosen.regulation, owner=chosen.owner))
    found = [row for row in open_to if chosen.status in ("", row.status)] if status == 200 else []
    tally = matrix.counts(open_to)
    return render(
        request,
        "compliance/controls.html",
        {
            "form": form,
            "groups": _grouped(found),
            "tally": [(key, name, tally[key]) for key, name in SHOWN.items()],
            "total": len(open_to),
            "chosen": chosen,
            "start": covered.start.isoformat(),
            "end": covered.end.isoformat(),
            "export_query": request.GET.urlencode(),
            "checked_at": timezone.now(),
        },
        status=status,
    )


@require_safe
@portal_page
def controls_file(request: HttpRequest, principal: Principal, form: str) -> HttpResponse:
    """The chosen rows as CSV or JSON; handing them out is an event."""
    asked = ControlForm(principal, request.GET)
    if not asked.is_valid():
        return HttpResponse("A filter has no such value.", status=UNPROCESSABLE, content_type="text/plain")
    covered = asked.covered()
    facts = matrix.export(principal, covered, asked.chosen(), form)
    if form == "csv":
        response = HttpResponse(files.as_csv(facts), content_type="text/csv; charset=utf-8")
    else:
        document = {"start": covered.start, "end": covered.end, "made_at": timezone.now(), "controls": facts}
        text = json.dumps(document, indent=1, ensure_ascii=False, default=str)
        response = HttpResponse(text, content_type="application/json")
    response["Content-Disposition"] = f'attachment; filename="controls-{timezone.localdate():%Y-%m-%d}.{form}"'
    response["Cache-Control"] = "no-store"
    return response


@require_safe
@portal_page
def control(request: HttpRequest, principal: Principal, control_id: str) -> HttpResponse:
    """One control: what it asks, what answers it, its evidence down to the rows, its exceptions."""
    return _control(request, principal, control_id)


def _control(
    request: HttpRequest, principal: Principal, control_id: str, wrong: ExceptionForm | None = None
) -> HttpResponse:
    form = ControlForm(principal, request.GET)
    form.is_valid()
    covered = form.covered()
    row = matrix.one(principal, covered, control_id)
    table = row.evidence.table
    return render(
        request,
        "compliance/control.html",
        {
            "row": row,
            "control": row.control,
            "evidence": row.evidence,
            "says": QUERIES[row.control.evidence.query].says,
            "start": covered.start.isoformat(),
            "end": covered.end.isoformat(),
            "columns": table.columns if table else (),
            **(_page_of(table, request) if table else {"page": None}),
            "exceptions": exceptions.visible(principal).filter(control=control_id)[:PAGE_ROWS],
            "mine": principal.hospital or "",
            "may_except": exceptions.may_except(principal),
            "today": timezone.localdate(),
            "form": wrong or ExceptionForm(principal),
        },
        status=UNPROCESSABLE if wrong else 200,
    )


def _page_of(table: Table, request: HttpRequest) -> dict[str, Any]:
    page = Paginator(table.rows, PAGE_ROWS).get_page(request.GET.get("page"))
    return {"page": page, "cells": [list(zip(table.columns, table.cells(row), strict=True)) for row in page]}


@require_POST
@portal_page
def make_exception(request: HttpRequest, principal: Principal, control_id: str) -> HttpResponse:
    """Accepts that the control is not met, for a while."""
    form = ExceptionForm(principal, request.POST)
    if not form.is_valid() and exceptions.may_except(principal):
        return _control(request, principal, control_id, form)
    data = form.cleaned_data
    try:
        exceptions.make(
            principal,
            control=control_id,
            reason=data.get("reason", ""),
            owner=data.get("owner", ""),
            expires_on=data.get("expires_on") or timezone.localdate(),
        )
    except InvalidParameter as error:
        form.add_error(str(error.details.get("field")), error.message)
        return _control(request, principal, control_id, form)
    except Conflict as error:
        messages.error(request, error.message)
    else:
        messages.success(request, "The exception is in force.")
    return redirect("compliance:control", control_id)


@require_POST
@portal_page
def end_exception(request: HttpRequest, principal: Principal, control_id: str) -> HttpResponse:
    """Withdraws an exception."""
    try:
        exceptions.withdraw(principal, UUID(request.POST.get("exception", "")))
    except ValueError:
        raise NotFound from None
    except Conflict as error:
        messages.error(request, error.message)
    else:
        messages.success(request, "The exception is withdrawn.")
    return redirect("compliance:control", control_id)
