"""Admission: the person is still who they were, the quotas can pay, and all of it is written together or none."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from accounts.models import ApiToken, Membership, Role, User
from compliance.models import Event
from fdrouter import crypto
from fdrouter.errors import NotFound, PolicyDenied, QuotaSpent, Unauthenticated
from federation import admission
from federation.admission import ADMITTED, NOT_TRIED, REPEAT, STALE, Actors, Credential
from federation.asks import Ask
from federation.models import Inference
from privacy.models import Entry, Reservation, Scope, ScopeKind, Unit
from tests.accounts import people
from tests.federation.desk import End, admit, ask, claim, cohort, events, finish, prepared, token_of
from tests.privacy.ledger.books import audit, race

EVIDENCE = ["policy.decision:allowed", "request.submit:ok", "ledger.reserve:ok"]


@pytest.fixture
def ada() -> User:
    return people.person("ada")


def used(user: User) -> dict[str, int]:
    rows = Scope.objects.filter(key=f"user:{user.pk}").values_list("unit", "used")
    return dict(rows)


def nothing_happened() -> bool:
    return not (
        Inference.objects.exists() or Reservation.objects.exists() or Entry.objects.exists() or Event.objects.exists()
    )


# --- what an admitted request leaves ---------------------------------------------------------------------------------


@pytest.mark.django_db
def test_an_admitted_request_is_queued_paid_and_on_record(ada: User) -> None:
    item = prepared(ada, cohort(hospitals=["northfield"]))
    assert admit(item) == [(ADMITTED, None)]
    row = Inference.objects.get(pk=item.id)
    assert (row.state, row.attempt, row.user_id, row.kind, row.reply_to) == (
        "queued",
        0,
        ada.pk,
        "cohort.text",
        "replies",
    )
    assert (row.epsilon_micro, row.delta, row.hospitals, row.purpose) == (3_000_000, 1e-5, ["northfield"], "TREAT")
    assert row.parameters["epsilon"] == 3.0 and row.parameters["adjacency"] == "swap"
    assert timezone.now() < row.lease <= timezone.now() + timedelta(seconds=settings.LEASE_SECONDS + 1)
    assert used(ada) == {Unit.MICRO_EPSILON: 3_000_000, Unit.REQUESTS: 1}
    assert Reservation.objects.get(pk=item.id).event == json.loads(json.dumps(row.parameters))
    assert events(item.id) == EVIDENCE
    audit()


@pytest.mark.django_db
def test_the_question_is_sealed_to_its_row_and_in_no_evidence(ada: User) -> None:
    item = prepared(ada, ask("Is Maria Gonzalez on warfarin?"))
    admit(item)
    row = Inference.objects.get(pk=item.id)
    assert b"Gonzalez" not in bytes(row.request or b"")
    assert b"Gonzalez" in crypto.unseal("request", item.id.bytes, row.request or b"")
    with pytest.raises(crypto.Unreadable):
        crypto.unseal("request", uuid.uuid4().bytes, row.request or b"")
    assert "Gonzalez" not in json.dumps(list(Event.objects.values_list("details", flat=True)))


@pytest.mark.django_db
def test_evidence_names_person_place_policy_and_charges(ada: User) -> None:
    item = prepared(ada, cohort())
    admit(item)
    decision, submit, reserve = Event.objects.filter(subject=item.id).order_by("seq")
    for event in (decision, submit, reserve):
        assert (event.actor_id, event.hospital, event.department, event.purpose) == (
            ada.pk,
            "northfield",
            "cardiology",
            "TREAT",
        )
    assert decision.details["policies"] == ["cohort-for-prescribers-and-researchers"]
    assert submit.details["digest"] == item.digest.hex() and submit.details["kind"] == "cohort.text"
    assert reserve.details["epsilon_micro"] == 3_000_000
    assert sorted(amount for _, amount in reserve.details["charges"]) == [1, 1, 3_000_000, 3_000_000, 3_000_000]


@pytest.mark.django_db
def test_a_batchs_evidence_is_in_the_batchs_order(ada: User) -> None:
    items = [prepared(ada) for _ in range(5)]
    admit(*items)
    order = list(Event.objects.order_by("seq").values_list("subject", flat=True))
    assert order == [item.id for item in items for _ in EVIDENCE]


@pytest.mark.django_db
@pytest.mark.parametrize("wrong", ["purpose", "hospital", "model"])
def test_what_cannot_be_recorded_does_not_happen(wrong: str, ada: User) -> None:
    """A row or evidence that the database refuses takes reservation and queue with it."""
    item, good = prepared(ada, cohort()), prepared(ada)
    if wrong == "hospital":
        item.actor = replace(item.actor, principal=replace(item.actor.principal, hospital="h" * 41))
    else:
        item.ask = replace(item.ask, purpose="x" * 121) if wrong == "purpose" else replace(item.ask, model="x" * 121)
    with pytest.raises(psycopg.DataError), transaction.atomic():
        admit(good, item)
    assert nothing_happened()
    assert not Scope.objects.exclude(used=0).exists()


@pytest.mark.django_db(transaction=True)
def test_nobody_sees_a_part_of_it(ada: User) -> None:
    item = prepared(ada, cohort())

    def counts(cursor: Any) -> list[int]:
        found = []
        for table in ("federation_inference", "privacy_reservation", "privacy_entry", "compliance_event"):
            found.append(cursor.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
        return found

    with psycopg.connect(settings.DATABASE_URL, autocommit=True) as other:
        with transaction.atomic():
            admit(item)
            assert counts(other) == [0, 0, 0, 0]
        assert counts(other) == [1, 1, 5, 4]  # three events of the request, one of the ledger


# --- who may -------------------------------------------------------------------------------------------------------


def revoke(user: User) -> None:
    ApiToken.objects.update(revoked_at=timezone.now())


def run_out(user: User) -> None:
    ApiToken.objects.update(expires_at=timezone.now() - timedelta(seconds=1))


def deactivate(user: User) -> None:
    User.objects.filter(pk=user.pk).update(is_active=False)


def leave(user: User) -> None:
    Membership.objects.filter(user=user).update(active=False)


def change_role(user: User) -> None:
    Membership.objects.filter(user=user).update(role=Role.NURSE)


def delete_token(user: User) -> None:
    ApiToken.objects.all().delete()


@pytest.mark.django_db
@pytest.mark.parametrize("change", [revoke, run_out, deactivate, leave, change_role, delete_token])
@pytest.mark.parametrize("by_token", [True, False])
def test_a_change_since_the_decision_makes_it_stale(change: Any, by_token: bool, ada: User) -> None:
    item = prepared(ada, token=token_of(ada) if by_token else None)
    change(ada)
    about_token = change in (revoke, run_out, delete_token)
    if about_token and not by_token:
        assert admit(item) == [(ADMITTED, None)], "a session does not depend on a token"
        return
    assert admit(item) == [(STALE, None)]
    assert nothing_happened()


@pytest.mark.django_db
def test_a_good_token_is_admitted_and_one_of_somebody_else_is_not(ada: User) -> None:
    ben = people.person("ben")
    theirs = token_of(ben)
    assert admit(prepared(ada, token=token_of(ada))) == [(ADMITTED, None)]
    assert admit(prepared(ada, token=theirs)) == [(STALE, None)]


@pytest.mark.django_db
def test_one_stale_person_stops_the_batch_before_anything_is_charged(ada: User) -> None:
    ben = people.person("ben")
    items = [prepared(ada), prepared(ben), prepared(ada)]
    change_role(ben)
    assert [verdict for verdict, _ in admit(*items)] == [NOT_TRIED, STALE, NOT_TRIED]
    assert nothing_happened()
    assert [verdict for verdict, _ in admit(items[0], items[2])] == [ADMITTED, ADMITTED], (
        "they may come again as they are"
    )


# --- who can pay -----------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_quota_that_cannot_pay_is_named_and_recorded(ada: User) -> None:
    admit(prepared(ada, cohort(8.0)))
    item = prepared(ada, cohort(3.0))
    ((verdict, existing),) = admit(item)
    assert existing is None and verdict == item.actor.scopes.user_epsilon
    assert not Inference.objects.filter(pk=item.id).exists() and events(item.id) == []
    error = admission.refuse(item, verdict)
    assert isinstance(error, QuotaSpent)
    assert (error.details["scope"], error.details["used"], error.details["needed"]) == (
        ScopeKind.USER,
        8_000_000,
        3_000_000,
    )
    refusal = Event.objects.latest("seq")
    assert (refusal.kind, refusal.outcome, refusal.actor_id) == ("ledger.reserve", "quota_spent", ada.pk)
    audit()


@pytest.mark.django_db
def test_the_department_is_named_when_it_is_the_departments(ada: User) -> None:
    colleague = people.person("ben")
    admit(prepared(colleague, cohort(8.0)))
    item = prepared(ada, cohort(3.0))
    ((verdict, _),) = admit(item)
    assert verdict == item.actor.scopes.department_epsilon
    assert admission.refuse(item, verdict).details["scope"] == ScopeKind.DEPARTMENT


@pytest.mark.django_db
def test_a_batch_is_served_in_order_and_free_questions_go_on(ada: User) -> None:
    items = [
        prepared(ada, cohort(5.0)),
        prepared(ada, cohort(6.0)),
        prepared(ada),
        prepared(ada, cohort(5.0)),
        prepared(ada),
    ]
    scope = items[0].actor.scopes.user_epsilon
    assert [v for v, _ in admit(*items)] == [ADMITTED, scope, ADMITTED, ADMITTED, ADMITTED]
    assert used(ada) == {Unit.MICRO_EPSILON: 10_000_000, Unit.REQUESTS: 4}
    assert set(Inference.objects.values_list("pk", flat=True)) == {items[n].id for n in (0, 2, 3, 4)}
    audit()


@pytest.mark.django_db(transaction=True)
def test_batches_from_many_processes_never_overspend(ada: User) -> None:
    batches = [[prepared(ada, cohort(2.0)) for _ in range(3)] for _ in range(8)]

    def send(batch: list[Any]) -> Any:
        def run() -> int:
            with transaction.atomic():
                return sum(verdict == ADMITTED for verdict, _ in admit(*batch))

        return run

    assert sum(race([send(batch) for batch in batches])) == 5
    assert Inference.objects.count() == 5
    assert Event.objects.exclude(kind="ledger.entries").count() == 15
    audit()


# --- the same key twice ----------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_repeated_key_finds_the_first_request_and_costs_nothing(ada: User) -> None:
    first, again = (prepared(ada, cohort(idempotency_key="k")) for _ in range(2))
    assert admit(first) == [(ADMITTED, None)]
    assert admit(again) == [(REPEAT, first.id)]
    claim(first.id)
    finish(End(first.id))
    assert admit(prepared(ada, cohort(idempotency_key="k"))) == [(REPEAT, first.id)], "also when it has ended"
    assert Inference.objects.count() == 1 and used(ada)[Unit.MICRO_EPSILON] == 3_000_000
    assert events(again.id) == []


@pytest.mark.django_db
def test_a_key_twice_in_one_batch(ada: User) -> None:
    items = [prepared(ada, ask(idempotency_key=key)) for key in ("a", "b", "a", None, "a")]
    verdicts = admit(*items)
    assert verdicts == [
        (ADMITTED, None),
        (ADMITTED, None),
        (REPEAT, items[0].id),
        (ADMITTED, None),
        (REPEAT, items[0].id),
    ]
    assert used(ada)[Unit.REQUESTS] == 3


@pytest.mark.django_db
def test_two_people_may_use_the_same_key(ada: User) -> None:
    ben = people.person("ben")
    verdicts = admit(prepared(ada, ask(idempotency_key="k")), prepared(ben, ask(idempotency_key="k")))
    assert verdicts == [(ADMITTED, None)] * 2


@pytest.mark.django_db(transaction=True)
def test_one_key_from_many_processes_is_one_request(ada: User) -> None:
    items = [prepared(ada, cohort(idempotency_key="k")) for _ in range(8)]

    def send(item: Any) -> Any:
        def run() -> tuple[int, uuid.UUID | None]:
            with transaction.atomic():
                return admit(item)[0]

        return run

    verdicts = race([send(item) for item in items])
    winner = Inference.objects.get().pk
    assert sorted(verdicts, key=str) == sorted([(ADMITTED, None), *[(REPEAT, winner)] * 7], key=str)
    assert used(ada)[Unit.MICRO_EPSILON] == 3_000_000
    audit()


# --- prepare: the policy's decision ----------------------------------------------------------------------------------


def prepare(actors: Actors, user: User, wish: Ask, **options: Any) -> admission.Prepared:
    return async_to_sync(admission.prepare)(actors, Credential(user_id=user.pk), wish, **options)


def unsaid(wish: Ask) -> Ask:
    return replace(wish, purpose="")


@pytest.mark.django_db(transaction=True)
def test_an_unsaid_purpose_is_the_roles_usual_one(ada: User) -> None:
    rea = people.person("rea", Role.RESEARCHER, works_in=people.department("research"))
    assert prepare(Actors(), ada, unsaid(ask())).ask.purpose == "TREAT"
    assert prepare(Actors(), rea, unsaid(ask())).ask.purpose == "HRESCH"


@pytest.mark.django_db(transaction=True)
def test_a_denial_is_an_error_with_its_policies_and_on_record(ada: User) -> None:
    rea = people.person("rea", Role.RESEARCHER, works_in=people.department("research"))
    with pytest.raises(PolicyDenied) as denied:
        prepare(Actors(), rea, cohort())
    assert denied.value.details["policies"] == ["researchers-only-for-research"]
    event = Event.objects.get()
    assert (event.kind, event.outcome, event.actor_id, event.purpose) == ("policy.decision", "denied", rea.pk, "TREAT")
    assert event.details["policies"] == ["researchers-only-for-research"]
    assert not Reservation.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_chart_needs_the_patient_in_the_departments_care_at_home(ada: User) -> None:
    wish = ask(kind="chart", patient="nf-1")
    people.in_care("nf-1", of=people.department("oncology"))
    with pytest.raises(PolicyDenied):
        prepare(Actors(), ada, wish)
    relation = people.in_care("nf-1")
    assert prepare(Actors(), ada, wish).decision.policies == ("chart-for-the-care-team",)
    with pytest.raises(PolicyDenied):
        prepare(Actors(), ada, replace(wish, hospitals=("lakeside",)))
    relation.ended_at = timezone.now()
    relation.save()
    with pytest.raises(PolicyDenied):
        prepare(Actors(), ada, wish)


@pytest.mark.django_db(transaction=True)
def test_a_promotion_counts_at_once_though_the_old_post_is_cached(ada: User) -> None:
    Membership.objects.update(role=Role.NURSE)
    actors = Actors()
    with pytest.raises(PolicyDenied):
        prepare(actors, ada, cohort())
    Membership.objects.update(role=Role.ATTENDING)
    assert prepare(actors, ada, cohort()).actor.principal.role == "attending"


@pytest.mark.django_db(transaction=True)
def test_a_demotion_counts_at_once_though_the_old_post_is_cached(ada: User) -> None:
    actors = Actors()
    prepare(actors, ada, cohort())
    Membership.objects.update(role=Role.NURSE)
    item = prepare(actors, ada, cohort())
    assert item.actor.principal.role == "attending", "the cache does not know yet"
    assert admit(item) == [(STALE, None)], "the transaction does"
    with pytest.raises(PolicyDenied):
        prepare(actors, ada, cohort(), fresh=True)
    with pytest.raises(PolicyDenied):
        prepare(actors, ada, cohort())


@pytest.mark.django_db(transaction=True)
def test_somebody_who_has_left_is_nobody(ada: User) -> None:
    actors = Actors()
    prepare(actors, ada, ask())
    leave(ada)
    assert admit(prepare(actors, ada, ask())) == [(STALE, None)]
    with pytest.raises(Unauthenticated):
        prepare(actors, ada, ask(), fresh=True)


@pytest.mark.django_db(transaction=True)
def test_unknown_hospitals_are_refused_before_anything_is_paid(ada: User) -> None:
    with pytest.raises(NotFound) as refused:
        prepare(Actors(), ada, cohort(hospitals=["northfield", "atlantis"]))
    assert refused.value.details["missing"] == ["atlantis"]
    assert not Reservation.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_the_digest_is_of_everything_that_makes_the_request(ada: User) -> None:
    people.hospital("lakeside", "Lakeside")
    actors = Actors()
    base = cohort(3.0)
    wishes = [
        base,
        cohort(3.5),
        cohort(3.0, delta=2e-5),
        cohort(3.0, hospitals=["lakeside"]),
        replace(base, purpose="HQUALIMP"),
        replace(base, messages=({"role": "user", "content": "why not?"},)),
        replace(base, model="another"),
        replace(base, temperature=0.5),
        ask(kind="cohort.text", epsilon=3.0, contexts=120, max_tokens=8),
        ask(kind="cohort.text", epsilon=3.0, contexts=128, max_tokens=9),
    ]
    digests = {prepare(actors, ada, wish).digest for wish in wishes}
    assert len(digests) == len(wishes)
    assert prepare(actors, ada, replace(cohort(3.0), idempotency_key="k")).digest in digests, "the key is no part of it"


@pytest.mark.django_db(transaction=True)
def test_the_cache_of_people_is_bounded() -> None:
    actors = Actors(size=2)
    people_ = [people.person(name) for name in ("a", "b", "c")]
    for user in people_:
        async_to_sync(actors.get)(Credential(user_id=user.pk))
    assert len(actors._found) == 2
    assert Credential(user_id=people_[0].pk) not in actors._found
    connection.close()
