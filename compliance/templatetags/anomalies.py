"""Figures on the pages of findings and cases."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from django import template
from django.utils import timezone

register = template.Library()


@register.filter
def site_day(value: datetime) -> str:
    """The day of the site that a moment is in: findings are of whole days there, so no reader's zone moves them."""
    local = timezone.localtime(value)
    return f"{local.day} {local:%b %Y}"


@register.filter
def at(names: Mapping[str, str], key: str) -> str:
    """The name of a key; the key itself where it has none."""
    return names.get(key, key)
