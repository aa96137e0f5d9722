"""Evidence in the back office: to read only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest

from compliance.models import Event

if TYPE_CHECKING:
    _EventAdmin = admin.ModelAdmin[Event]
else:
    _EventAdmin = admin.ModelAdmin  # the class is generic in the stubs only


@admin.register(Event)
class EventAdmin(_EventAdmin):
    """Nothing can be added, changed or deleted here, and the database would refuse it anyway."""

    list_display = ("seq", "at", "kind", "outcome", "actor_id", "subject", "hospital", "department", "purpose")
    list_filter = ("kind", "hospital")
    search_fields = ("=subject",)
    ordering = ("-seq",)
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
