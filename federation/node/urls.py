"""Addresses of a node."""

from django.urls import path

from federation.node import views

urlpatterns = [
    path("messages", views.messages),
    path("health", views.health_view),
    path("witness", views.witness),
]
