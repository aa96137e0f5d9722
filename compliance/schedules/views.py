"""Schedules on the page of reports: make one, stop it, start it again."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from accounts.principals import Principal
from compliance import access, views
from compliance.schedules import services
from compliance.schedules.forms import ScheduleForm


def rows(principal: Principal) -> dict[str, Any]:
    """What the page shows of schedules and of what they sent."""
    names = {place.code: place.name for place in access.hospitals(principal)}
    return {
        "schedules": [
            (row, names.get(row.hospital, row.hospital) or "All hospitals") for row in services.visible(principal)[:50]
        ],
        "deliveries": services.deliveries(principal)[: views.REPORT_ROWS],
    }


@require_POST
@views.portal_page
def schedule(request: HttpRequest, principal: Principal) -> HttpResponse:
    """Makes a schedule."""
    form = ScheduleForm(principal, request.POST)
    if not form.is_valid():
        return views.reports_page(request, principal, schedule_form=form, status=views.UNPROCESSABLE)
    data = form.cleaned_data
    services.create(
        principal,
        kind=data["every"],
        hospital=data["hospital"],
        recipients=data["recipients"],
        attach=data["attach"],
    )
    messages.success(request, "Scheduled. The first report is made when the present period is over.")
    return redirect("compliance:reports")


@require_POST
@views.portal_page
def switch(request: HttpRequest, principal: Principal, schedule_id: UUID) -> HttpResponse:
    """Stops a schedule, or starts it again."""
    services.set_active(principal, schedule_id, active=request.POST.get("active") == "true")
    return redirect("compliance:reports")
