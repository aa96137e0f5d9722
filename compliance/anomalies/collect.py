"""Reads one window and the habits before it from the database, in the form that rules take. Contents are not read."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import available_timezones

from django.db import connection
from django.db.models import Q

from accounts.models import CareRelation, Hospital, Membership, User
from compliance.anomalies.models import WatchedPatient
from compliance.anomalies.rows import Asked, Care, PastDay, Person, Rows, Signal, Watched
from compliance.models import Event
from federation.models import Inference

SIGN_IN = "session.sign_in"
SIGN_INS_BEFORE = timedelta(hours=2)
"""A row of failed sign-ins may begin before midnight."""
_SIGNALS = (
    Q(kind=SIGN_IN)
    | Q(kind="policy.decision", outcome="denied")
    | Q(kind__in=("ledger.reserve", "request.fail"), outcome__in=("quota_spent", "block_exhausted"))
)
# Hours of the day are those of the hospital. A zone that is unknown here counts as UTC instead of failing the query.
_ZONES = "unnest(%(hospitals)s::text[], %(zones)s::text[]) AS z(hospital, zone)"
_WINDOW = f"""
SELECT i.id, i.user_id, i.created_at, extract(hour FROM i.created_at AT TIME ZONE coalesce(z.zone, 'UTC'))::int,
  i.kind, i.purpose, i.department_id, i.hospitals, i.patient_reference, i.request_digest, i.epsilon_micro,
  coalesce(octet_length(i.request), 0), i.reason
FROM federation_inference i LEFT JOIN accounts_department d ON d.id = i.department_id
  LEFT JOIN {_ZONES} ON z.hospital = d.hospital_id
WHERE i.created_at >= %(start)s AND i.created_at < %(end)s AND i.user_id = ANY(%(people)s)
"""  # noqa: S608  (constants of this module)
_PAST = """
WITH past AS (
  SELECT user_id, department_id, (created_at AT TIME ZONE %(zone)s)::date AS day,
    date_trunc('hour', created_at) AS hour, kind, hospitals, epsilon_micro, patient_reference, request_digest
  FROM federation_inference WHERE created_at >= %(since)s AND created_at < %(start)s
    AND (user_id = ANY(%(people)s) OR department_id = ANY(%(departments)s))
), busy AS (
  SELECT user_id, day, max(n) AS n FROM (SELECT user_id, day, count(DISTINCT patient_reference) AS n FROM past
    WHERE patient_reference <> '' AND user_id = ANY(%(people)s) GROUP BY user_id, day, hour) h GROUP BY user_id, day
), alike AS (
  SELECT user_id, day, max(n) AS n FROM (SELECT user_id, day, count(DISTINCT request_digest) AS n FROM past
    WHERE epsilon_micro > 0 AND user_id = ANY(%(people)s) GROUP BY user_id, day, kind, hospitals, epsilon_micro) g
    GROUP BY user_id, day
)
SELECT p.user_id, max(p.department_id), p.day, count(*), coalesce(max(busy.n), 0), coalesce(max(alike.n), 0)
FROM past p LEFT JOIN busy USING (user_id, day) LEFT JOIN alike USING (user_id, day) GROUP BY p.user_id, p.day
"""
_HOURS = f"""
SELECT i.user_id, extract(hour FROM i.created_at AT TIME ZONE coalesce(z.zone, 'UTC'))::int AS hour, count(*)
FROM federation_inference i LEFT JOIN accounts_department d ON d.id = i.department_id
  LEFT JOIN {_ZONES} ON z.hospital = d.hospital_id
WHERE i.created_at >= %(since)s AND i.created_at < %(start)s AND i.user_id = ANY(%(people)s) GROUP BY 1, 2
"""  # noqa: S608  (constants of this module)


def active(start: datetime, end: datetime) -> set[int]:
    """Who asked something, signed in or was refused in ``[start, end)``."""
    asked = Inference.objects.filter(created_at__gte=start, created_at__lt=end).order_by()
    events = Event.objects.filter(_SIGNALS, at__gte=start, at__lt=end, actor_id__isnull=False).order_by()
    return set(asked.values_list("user_id", flat=True).distinct()) | {
        actor for actor in events.values_list("actor_id", flat=True).distinct() if actor is not None
    }


def rows(people: set[int], start: datetime, end: datetime, *, past_days: int, zone: str) -> Rows:
    """What the rules look at about ``people`` in ``[start, end)``. ``zone`` says where days of the past begin."""
    known = _people(people)
    departments = sorted({p.department for p in known.values() if p.id in people and p.department is not None})
    places = list(Hospital.objects.values_list("code", "time_zone"))
    zones = available_timezones()
    values: dict[str, Any] = {
        "people": sorted(people),
        "departments": departments,
        "start": start,
        "end": end,
        "since": start - timedelta(days=past_days),
        "zone": zone,
        "hospitals": [code for code, _ in places],
        "zones": [name if name in zones else "UTC" for _, name in places],
    }
    asked = tuple(_asked(row) for row in _read(_WINDOW, values))
    return Rows(
        start=start,
        end=end,
        people=known,
        asked=asked,
        signals=_signals(people, start, end),
        care=_care({row.patient for row in asked if row.patient}),
        watched=_watched({row.patient for row in asked if row.patient}),
        past=tuple(PastDay(**dict(zip(_PAST_FIELDS, row, strict=True))) for row in _read(_PAST, values)),
        hours=_hours(_read(_HOURS, values)),
    )


_PAST_FIELDS = ("person", "department", "day", "requests", "patients", "alike")


def _read(sql: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        found: list[tuple[Any, ...]] = cursor.fetchall()
    return found


def _asked(row: tuple[Any, ...]) -> Asked:
    key, person, at, hour, kind, purpose, department, hospitals, patient, digest, epsilon, size, reason = row
    return Asked(
        id=key,
        person=person,
        at=at,
        hour=hour,
        kind=kind,
        purpose=purpose,
        department=department,
        hospitals=tuple(sorted(hospitals)),
        patient=patient,
        digest=bytes(digest),
        epsilon_micro=epsilon,
        size=size,
        reason=reason,
    )


def _hours(found: Iterable[tuple[Any, ...]]) -> dict[int, tuple[int, ...]]:
    hours: dict[int, list[int]] = {}
    for person, hour, number in found:
        hours.setdefault(person, [0] * 24)[hour] = number
    return {person: tuple(counts) for person, counts in hours.items()}


def _people(active_ids: set[int]) -> dict[int, Person]:
    """The active ones and everybody at their hospitals: a patient's label may name a colleague who does nothing."""
    posts = Membership.objects.filter(active=True)
    places = posts.filter(user_id__in=active_ids, hospital__isnull=False).values("hospital_id")
    found = {
        post.user_id: Person(
            id=post.user_id,
            given=post.user.first_name,
            surname=post.user.last_name,
            role=post.role,
            hospital=post.hospital_id or "",
            department=post.department_id,
            department_code=post.department.code if post.department else "",
        )
        for post in posts.filter(Q(user_id__in=active_ids) | Q(hospital_id__in=places)).select_related(
            "user", "department"
        )
    }
    without = User.objects.filter(pk__in=active_ids - set(found))
    return found | {user.pk: Person(id=user.pk, given=user.first_name, surname=user.last_name) for user in without}


def _signals(people: set[int], start: datetime, end: datetime) -> tuple[Signal, ...]:
    recent = Q(at__gte=start) | Q(kind=SIGN_IN, at__gte=start - SIGN_INS_BEFORE)
    found = Event.objects.filter(_SIGNALS, recent, at__lt=end, at__gte=start - SIGN_INS_BEFORE, actor_id__in=people)
    return tuple(
        Signal(seq=seq, person=actor or 0, at=at, kind=kind, outcome=outcome, asked=str(details.get("kind", "")))
        for seq, actor, at, kind, outcome, details in found.order_by("seq").values_list(
            "seq", "actor_id", "at", "kind", "outcome", "details"
        )
    )


def _care(patients: set[str]) -> tuple[Care, ...]:
    columns = ("patient_reference", "department_id", "since", "ended_at", "label")
    found = CareRelation.objects.filter(patient_reference__in=patients).values_list(*columns)
    return tuple(
        Care(patient=patient, department=department, since=since, ended=ended, label=label)
        for patient, department, since, ended, label in found
    )


def _watched(patients: set[str]) -> tuple[Watched, ...]:
    found = WatchedPatient.objects.filter(patient_reference__in=patients, removed_at=None)
    return tuple(
        Watched(patient=row.patient_reference, hospital=row.hospital, kind=row.kind, user=row.user_id) for row in found
    )
