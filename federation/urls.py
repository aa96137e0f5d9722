"""Addresses of the clinician's and the operator's pages."""

from __future__ import annotations

from django.urls import path

from federation import views

app_name = "federation"
urlpatterns = [
    path("", views.ask, name="ask"),
    path("ask/quote", views.quote, name="quote"),
    path("ask/side", views.side, name="side"),
    path("history", views.history, name="history"),
    path("history/<uuid:request_id>", views.inference, name="inference"),
    path("history/<uuid:request_id>/receipt", views.receipt, name="receipt"),
    path("history/<uuid:request_id>/receipt.json", views.receipt_file, name="receipt-file"),
    path("history/<uuid:request_id>/review", views.review, name="review"),
    path("budget", views.budget, name="budget"),
    path("budget/more", views.more_budget, name="more-budget"),
    path("nodes", views.nodes, name="nodes"),
]
