"""The addresses of people and access reviews, under ``/portal/``."""

from __future__ import annotations

from django.urls import path

from compliance.people import views

urlpatterns = [
    path("people", views.people, name="people"),
    path("people.csv", views.people_csv, name="people-csv"),
    path("people/<int:user_id>", views.person, name="person"),
    path("access-reviews", views.access_reviews, name="access-reviews"),
    path("access-reviews/<uuid:review_id>", views.access_review, name="access-review"),
    path("access-reviews/<uuid:review_id>/lines/<int:line_id>", views.decide, name="access-review-decide"),
    path("access-reviews/<uuid:review_id>/close", views.close, name="access-review-close"),
    path("access-reviews/<uuid:review_id>/lines.csv", views.access_review_csv, name="access-review-csv"),
]
