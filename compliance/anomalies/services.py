"""The only writer of findings and of flagged patients.

A run reads and compares outside of any transaction and then writes each window in one short transaction, one writer at
a time. Findings have a key (rule, person, patient, start of the window) and only grow, so that a run which is repeated,
or runs beside another one, writes nothing twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from accounts.models import Membership, User
from accounts.principals import Principal
from compliance import access
from compliance.anomalies import collect
from compliance.anomalies.models import AnomalyCursor, AnomalyFinding, WatchedPatient, WatchKind
from compliance.anomalies.parameters import parameters
from compliance.anomalies.registry import Rule
from compliance.anomalies.rows import Hit, Rows
from compliance.period import Period
from fdrouter import evidence
from fdrouter.errors import Conflict, InvalidParameter, NotFound, PolicyDenied

KEPT_ROWS = 200
MAX_REFERENCE = 64
_LOCK = 0x616E6F6D  # "anom": the advisory lock of those who write findings
WATCHED_ONCE = "watched_patient_once"


@dataclass(slots=True)
class Run:
    """What a run did: days looked at, findings made, findings that grew."""

    days: int = 0
    found: int = 0
    grown: int = 0


def run(since: datetime | None = None) -> Run:
    """Looks at everything since the last run, or since a time, by whole days of the site. Safe to run twice at once."""
    limits, began = parameters(), timezone.now()
    seen = AnomalyCursor.objects.values_list("upto", flat=True).first()
    from_cursor = (
        began - timedelta(days=limits.first_days) if seen is None else seen - timedelta(minutes=limits.late_minutes)
    )
    start, done = since or from_cursor, Run()
    for day in Period(timezone.localdate(start), timezone.localdate(began)).days:
        begin, end = Period(day, day).bounds
        people = collect.active(max(begin, start), end)
        if not people:
            continue
        zone = timezone.get_current_timezone_name()
        rows = collect.rows(people, begin, end, past_days=limits.past_days, zone=zone)
        hits = [(rule, hit) for rule, values in limits.running() for hit in rule.find(rows, values)]
        done.days += 1
        _write(rows, hits, done)
    if start <= (seen or from_cursor):  # otherwise rows before the start have been seen by nobody
        _move_on(began)
    return done


def _move_on(upto: datetime) -> None:
    AnomalyCursor.objects.bulk_create([AnomalyCursor(upto=upto)], ignore_conflicts=True)
    AnomalyCursor.objects.filter(upto__lt=upto).update(upto=upto)


def _write(rows: Rows, hits: list[tuple[Rule, Hit]], done: Run) -> None:
    if not hits:
        return
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        kept = AnomalyFinding.objects.filter(start=rows.start, person__in={hit.person for _, hit in hits})
        known = {(row.rule, row.person_id, row.patient_reference): row for row in kept}
        for rule, hit in hits:
            row = known.get((rule.name, hit.person, hit.patient))
            if row is None:
                _make(rows, rule, hit)
                done.found += 1
            elif hit.weight > row.weight:
                _grow(row, rule, hit)
                done.grown += 1


def _facts(hit: Hit) -> dict[str, object]:
    return {
        "score": hit.score,
        "sentence": hit.sentence,
        "requests": list(hit.requests[:KEPT_ROWS]),
        "seqs": list(hit.seqs[:KEPT_ROWS]),
        "weight": hit.weight,
    }


def _make(rows: Rows, rule: Rule, hit: Hit) -> None:
    person = rows.people[hit.person]
    row = AnomalyFinding.objects.create(
        rule=rule.name,
        version=rule.version,
        person_id=hit.person,
        hospital=person.hospital,
        department=person.department_code,
        patient_reference=hit.patient,
        start=rows.start,
        end=rows.end,
        **_facts(hit),
    )
    evidence.record(_event(row, "found"))


def _grow(row: AnomalyFinding, rule: Rule, hit: Hit) -> None:
    AnomalyFinding.objects.filter(pk=row.pk).update(version=rule.version, **_facts(hit))
    row.refresh_from_db()
    evidence.record(_event(row, "grown"))


def _event(row: AnomalyFinding, outcome: str) -> evidence.Event:
    """Whom it is about stays in the private part: the log's pages are read by more people than a suspicion is for."""
    return evidence.Event(
        kind="anomaly.finding",
        outcome=outcome,
        subject=row.pk,
        hospital=row.hospital or None,
        details={"rule": row.rule, "version": row.version, "score": row.score, "rows": row.weight},
        private={"person": row.person_id, "patient": row.patient_reference},
    )


def watch(principal: Principal, *, hospital: str, reference: str, kind: str, username: str = "") -> WatchedPatient:
    """Flags a patient of a hospital within reach; ``username`` is the patient's own account, if there is one.

    Raises:
        NotFound: the portal or the hospital is not there for this person. PolicyDenied: not an officer.
        InvalidParameter: no reference, an unknown kind, or nobody of that name at the hospital.
        Conflict: flagged already.
    """
    within = access.reach(principal, hospital)
    if within is None or not access.hospitals(principal, within).exists():
        raise NotFound
    _officers_only(principal)
    reference = reference.strip()
    if not 1 <= len(reference) <= MAX_REFERENCE:
        raise InvalidParameter(f"Give the patient's reference, at most {MAX_REFERENCE} characters.", field="reference")
    if kind not in WatchKind.values:
        raise InvalidParameter("Choose why.", field="kind")
    user: User | None = None
    if username:
        post = Membership.objects.filter(user__username=username, hospital=within, active=True).first()
        if post is None:
            raise InvalidParameter("Nobody at this hospital has this user name.", field="username")
        user = post.user
    try:
        with transaction.atomic():
            row = WatchedPatient.objects.create(
                hospital=within, patient_reference=reference, kind=kind, user=user, added_by_id=principal.user_id
            )
            evidence.record(_watch_event(row, "added", principal.user_id))
    except IntegrityError as error:
        if WATCHED_ONCE not in str(error):
            raise
        raise Conflict("This patient is flagged already.") from None
    return row


def unwatch(principal: Principal, watched_id: int) -> None:
    """Takes a flag away; findings that it led to stay.

    Raises:
        NotFound: there is none within reach. PolicyDenied: not an officer. Conflict: it was taken away already.
    """
    within = access.reach(principal)
    rows = WatchedPatient.objects.filter(pk=watched_id)
    row = (rows if within is None else rows.filter(hospital=within)).first()
    if row is None:
        raise NotFound
    _officers_only(principal)
    with transaction.atomic():
        taken = WatchedPatient.objects.filter(pk=row.pk, removed_at=None).update(
            removed_at=timezone.now(), removed_by_id=principal.user_id
        )
        if not taken:
            raise Conflict("The flag was taken away already.")
        evidence.record(_watch_event(row, "removed", principal.user_id))


def _officers_only(principal: Principal) -> None:
    if access.may_request_reports(principal):
        return
    evidence.record(
        evidence.Event(kind="anomaly.watch", outcome="denied", actor_id=principal.user_id, hospital=principal.hospital)
    )
    raise PolicyDenied("Only a privacy officer can flag patients.")


def _watch_event(row: WatchedPatient, outcome: str, actor: int) -> evidence.Event:
    return evidence.Event(
        kind="anomaly.watch",
        outcome=outcome,
        actor_id=actor,
        hospital=row.hospital,
        details={"kind": row.kind},
        private={"patient": row.patient_reference, "account": row.user_id},
    )
