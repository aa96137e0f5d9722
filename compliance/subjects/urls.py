"""The addresses of the patient access report and of disclosures, under ``/portal/``."""

from __future__ import annotations

from django.urls import path

from compliance.subjects import views

urlpatterns = [
    path("patient", views.patient, name="patient"),
    path("disclosures", views.disclosed, name="disclosures"),
    path("disclosures.csv", views.disclosed_csv, name="disclosures-csv"),
]
