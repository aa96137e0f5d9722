"""The addresses under ``/fhir``."""

from __future__ import annotations

from django.urls import path, re_path

from compliance.fhir import views

app_name = "fhir"
urlpatterns = [
    path("metadata", views.Metadata.as_view(), name="metadata"),
    path(".well-known/smart-configuration", views.smart_configuration, name="smart-configuration"),
    path("AuditEvent", views.AuditEvents.as_view(), name="audit-events"),
    path("AuditEvent/<int:seq>", views.AuditEvent.as_view(), name="audit-event"),
    path("Provenance", views.Provenances.as_view(), name="provenances"),
    path("Provenance/<uuid:request_id>", views.Provenance.as_view(), name="provenance"),
    re_path(r"", views.Unknown.as_view(), name="unknown"),
]
