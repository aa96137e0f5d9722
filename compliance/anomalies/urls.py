"""The addresses of findings and cases, under ``/portal/``."""

from __future__ import annotations

from django.urls import path

from compliance.anomalies import case_views, views

urlpatterns = [
    path("anomalies", views.anomalies, name="anomalies"),
    path("anomalies.csv", views.anomalies_csv, name="anomalies-csv"),
    path("anomalies/rules", views.rules, name="anomaly-rules"),
    path("anomalies/watch", views.watch, name="anomaly-watch"),
    path("anomalies/watch/<int:watched_id>/end", views.unwatch, name="anomaly-watch-end"),
    path("cases", case_views.cases_page, name="cases"),
    path("cases/open", case_views.open_by_hand, name="case-open"),
    path("cases/from-findings", case_views.open_from_findings, name="case-from-findings"),
    path("cases/<uuid:case_id>", case_views.case, name="case"),
    path("cases/<uuid:case_id>/<slug:step>", case_views.step, name="case-step"),
]
