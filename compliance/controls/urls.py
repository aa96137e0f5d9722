"""The addresses of the controls' pages, under ``/portal/``."""

from __future__ import annotations

from django.urls import path, re_path

from compliance.controls import views

urlpatterns = [
    path("controls", views.controls, name="controls"),
    re_path(r"^controls\.(?P<form>csv|json)$", views.controls_file, name="controls-file"),
    path("controls/<slug:control_id>", views.control, name="control"),
    path("controls/<slug:control_id>/exception", views.make_exception, name="control-exception"),
    path("controls/<slug:control_id>/exception/end", views.end_exception, name="control-exception-end"),
]
