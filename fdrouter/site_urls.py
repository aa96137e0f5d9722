"""The coordinator's addresses: pages, REST and its documentation, and Django's admin."""

from __future__ import annotations

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from compliance.fhir.views import smart_configuration

site: list[URLPattern | URLResolver] = [
    path("", include("accounts.urls")),
    path("", include("federation.urls")),
    path("portal/", include("compliance.urls")),
    path("fhir/", include("compliance.fhir.urls")),
    path(".well-known/smart-configuration", smart_configuration),
    path("", include("compliance.cds.views")),
    path("api/", include("federation.api.urls")),
    path("api/schema", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs", SpectacularSwaggerSplitView.as_view(url_name="schema"), name="api-docs"),
    path("admin/", admin.site.urls),
]
