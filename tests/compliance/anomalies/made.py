"""Findings as rows, for the tests of pages and cases."""

from __future__ import annotations

from datetime import timedelta

from django.utils import timezone

from accounts import principals
from accounts.models import User
from compliance.anomalies.models import AnomalyFinding
from compliance.period import Period


def finding(
    user: User,
    *,
    rule: str = "serial-cases",
    score: int = 60,
    patient: str = "",
    days_ago: int = 0,
    sentence: str = "Asked about 14 different patients within 60 minutes, usually 3.",
) -> AnomalyFinding:
    """What a run would have written about this person."""
    who = principals.for_user(user.pk)
    day = timezone.localdate() - timedelta(days=days_ago)
    start, end = Period(day, day).bounds
    return AnomalyFinding.objects.create(
        rule=rule,
        version=1,
        person=user,
        hospital=who.hospital or "",
        department=who.department or "",
        patient_reference=patient,
        start=start,
        end=end,
        score=score,
        sentence=sentence,
        weight=14,
    )
