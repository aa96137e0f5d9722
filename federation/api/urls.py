"""Addresses under ``/api/``."""

from django.urls import path, re_path

from federation.api import rest

urlpatterns = [
    path("me", rest.Me.as_view(), name="api-me"),
    path("models", rest.Models.as_view(), name="api-models"),
    path("quote", rest.Quote.as_view(), name="api-quote"),
    path("budget", rest.Budget.as_view(), name="api-budget"),
    path("budget/grants", rest.Grants.as_view(), name="api-grants"),
    path("budget/grants/<uuid:grant_id>", rest.GrantDecision.as_view(), name="api-grant"),
    path("router", rest.Router.as_view(), name="api-router"),
    path("nodes", rest.Nodes.as_view(), name="api-nodes"),
    path("inferences", rest.Inferences.as_view(), name="api-inferences"),
    path("inferences/<uuid:request_id>", rest.InferenceDetail.as_view(), name="api-inference"),
    path("inferences/<uuid:request_id>/review", rest.Reviews.as_view(), name="api-review"),
    re_path(r"^(?!schema$|docs$)", rest.Unknown.as_view()),  # those two are the project's
]
