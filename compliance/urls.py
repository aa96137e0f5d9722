"""The addresses of the portal, under ``/portal/``."""

from __future__ import annotations

from django.urls import path

from compliance import registry_views, views
from compliance.anomalies.urls import urlpatterns as anomalies
from compliance.controls.urls import urlpatterns as controls
from compliance.people.urls import urlpatterns as people
from compliance.schedules import views as schedules
from compliance.subjects.urls import urlpatterns as subjects

app_name = "compliance"
urlpatterns = [
    path("", views.today, name="portal"),
    path("ledger", views.ledger, name="ledger"),
    path("blocks", views.block_plans, name="blocks"),
    path("charges.csv", views.charges_csv, name="charges-csv"),
    path("requests", views.requests, name="requests"),
    path("events", views.events, name="events"),
    path("events.csv", views.events_csv, name="events-csv"),
    path("registry.json", registry_views.registry_json, name="registry"),
    path("grants", views.quota_grants, name="grants"),
    *controls,
    *anomalies,
    *people,
    *subjects,
    path("reports", views.reports, name="reports"),
    path("reports/schedules", schedules.schedule, name="report-schedule"),
    path("reports/schedules/<uuid:schedule_id>", schedules.switch, name="report-schedule-switch"),
    path("reports/list", views.report_list, name="report-list"),
    path("reports/<uuid:report_id>/download", views.report_download, name="report-download"),
]
