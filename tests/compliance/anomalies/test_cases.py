"""Cases: states by random walks against the table, races, separation, notes, the clock, what the database refuses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest
from django.db import IntegrityError, InternalError, connection, transaction
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts import principals
from accounts.models import Role
from accounts.principals import Principal
from compliance.anomalies import cases, selectors
from compliance.anomalies.models import (
    CASE_TRANSITIONS,
    AnomalyCase,
    AnomalyCaseNote,
    CaseState,
    Decision,
)
from compliance.models import Event
from fdrouter.errors import Conflict, InvalidParameter, NotFound, PolicyDenied
from tests.accounts import people
from tests.compliance import network as networks
from tests.compliance.anomalies.made import finding
from tests.compliance.network import Network

WORDS = "Called the ward; the patient is her neighbour."


@pytest.fixture
def network(db: None, quick_passwords: None) -> Network:
    return networks.build()


def second_officer() -> Principal:
    return principals.for_user(people.person("second.officer", Role.PRIVACY_OFFICER, network=True).pk)


def opened(network: Network) -> AnomalyCase:
    return cases.open_from_findings(network.principal, [finding(network.clinician).pk])


def outcomes(case: AnomalyCase) -> list[str]:
    return list(Event.objects.filter(subject=case.pk).order_by("seq").values_list("outcome", flat=True))


Step = Callable[[Principal, UUID, int], AnomalyCase]
STEPS: dict[str, tuple[CaseState, Step]] = {
    "assigned": (CaseState.ASSIGNED, lambda who, case, version: cases.assign(who, case, version, who.user_id)),
    "decided": (CaseState.DECIDED, lambda who, case, version: cases.decide(who, case, version, "no_issue", WORDS)),
    "closed": (CaseState.CLOSED, cases.close),
    "reopened": (CaseState.OPEN, lambda who, case, version: cases.reopen(who, case, version, WORDS)),
}


@given(
    walk=st.lists(
        st.tuples(st.sampled_from(sorted(STEPS)), st.sampled_from([0, 0, 0, -1, 1]), st.integers(0, 1)), max_size=14
    )
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_case_moves_along_the_table_and_only_for_who_saw_it(
    network: Network, walk: list[tuple[str, int, int]]
) -> None:
    """The model: a state, a version and who has it. A step that it forbids changes and writes nothing."""
    with transaction.atomic():
        officers = [network.principal, second_officer()]
        case = opened(network)
        state, version, has = CaseState.OPEN, 1, -1
        told = ["opened"]
        for name, offset, who in walk:
            target, step = STEPS[name]
            allowed = target in CASE_TRANSITIONS[state] and offset == 0 and (name != "decided" or has == who)
            if not allowed:
                refused = name == "decided" and state == CaseState.ASSIGNED and has != who
                with pytest.raises(PolicyDenied if refused else Conflict):
                    step(officers[who], case.pk, version + offset)
                told += ["denied"] if refused else []
                continue
            step(officers[who], case.pk, version)
            state, version = target, version + 1
            has = who if name == "assigned" else -1 if name == "reopened" else has
            told += [name, "noted"] if name in ("decided", "reopened") else [name]
        case.refresh_from_db()
        assert (case.state, case.version) == (state, version)
        assert outcomes(case) == told
        transaction.set_rollback(True)


def test_the_table_of_the_database_is_the_table_of_the_model(network: Network) -> None:
    now = timezone.now()
    nothing = {"assignee": None, "decision": "", "decided_by": None, "decided_at": None, "closed_at": None}
    decided = {"decision": "no_issue", "decided_by": network.officer, "decided_at": now, "closed_at": None}
    fields: dict[CaseState, dict[str, Any]] = {
        CaseState.OPEN: nothing,
        CaseState.ASSIGNED: nothing | {"assignee": network.officer},
        CaseState.DECIDED: decided,
        CaseState.CLOSED: decided | {"closed_at": now},
    }
    way = {CaseState.OPEN: [], CaseState.ASSIGNED: [CaseState.ASSIGNED]}
    way[CaseState.DECIDED] = [CaseState.ASSIGNED, CaseState.DECIDED]
    way[CaseState.CLOSED] = [*way[CaseState.DECIDED], CaseState.CLOSED]
    for before in CaseState:
        for after in CaseState:
            case = AnomalyCase.objects.filter(pk=opened_by_hand(network).pk)
            for nth, state in enumerate(way[before]):
                case.update(state=state, version=nth + 2, **fields[state])
            step: dict[str, Any] = {"state": after, "version": len(way[before]) + 2, **fields[after]}
            if after in CASE_TRANSITIONS[before]:
                assert case.update(**step) == 1
            else:
                with pytest.raises(IntegrityError), transaction.atomic():
                    case.update(**step)


def opened_by_hand(network: Network) -> AnomalyCase:
    return cases.open_by_hand(network.principal, note=WORDS, username="clinician")


def test_nobody_decides_about_themselves(network: Network) -> None:
    case = cases.open_from_findings(network.principal, [finding(network.lakeside_officer).pk])
    themselves = principals.for_user(network.lakeside_officer.pk)
    for step in (
        lambda: cases.assign(themselves, case.pk, 1, themselves.user_id),
        lambda: cases.add_note(themselves, case.pk, WORDS),
        lambda: cases.link(themselves, case.pk, []),
    ):
        with pytest.raises(NotFound):
            step()
    with pytest.raises(InvalidParameter):
        cases.assign(network.principal, case.pk, 1, themselves.user_id)
    cases.assign(network.principal, case.pk, 1, network.officer.pk)
    with pytest.raises(NotFound):
        cases.decide(themselves, case.pk, 2, "no_issue", WORDS)
    row = AnomalyCase.objects.filter(pk=case.pk)
    for field in ("assignee", "decided_by"):  # and the database refuses it to whoever goes round the service
        with pytest.raises(IntegrityError), transaction.atomic():
            change = {"decision": "no_issue", "decided_at": timezone.now(), "decided_by": network.officer}
            row.update(state="decided", version=3, **(change | {field: network.lakeside_officer}))
    assert selectors.queue(themselves).waiting == 0


def test_only_officers_of_its_hospital_or_the_network_get_a_case(network: Network) -> None:
    case = opened(network)
    for other in (network.lakeside_officer, network.auditor, network.clinician, network.outsider):
        with pytest.raises(InvalidParameter):
            cases.assign(network.principal, case.pk, 1, other.pk)
    home = people.person("north.officer", Role.PRIVACY_OFFICER, at=people.hospital())
    assert cases.assign(network.principal, case.pk, 1, home.pk).assignee_id == home.pk


def test_notes_are_sealed_appended_and_read_with_an_event(network: Network) -> None:
    case = opened_by_hand(network)
    cases.add_note(network.principal, case.pk, "And a second one.")
    assert all(WORDS.encode() not in bytes(row.text) for row in AnomalyCaseNote.objects.all())
    assert [text for _, text in cases.notes(network.principal, case)] == [WORDS, "And a second one."]
    assert outcomes(case) == ["opened", "noted", "noted", "read"]
    every = list(Event.objects.filter(subject=case.pk))
    assert not any(WORDS in str(event.details) or "clinician" in str(event.details) for event in every)
    for change in (lambda: AnomalyCaseNote.objects.all().delete(), lambda: AnomalyCaseNote.objects.update(text=b"x")):
        with pytest.raises((IntegrityError, InternalError)), transaction.atomic():
            change()


def test_a_note_belongs_to_its_case(network: Network) -> None:
    one, two = opened_by_hand(network), opened_by_hand(network)
    stolen = one.notes.get()
    AnomalyCaseNote.objects.create(case=two, by=network.officer, at=timezone.now(), text=stolen.text)
    assert [text for _, text in cases.notes(network.principal, two)] == [WORDS, None]


@pytest.mark.parametrize("note", ["", "  ", "no", "x" * (cases.MAX_NOTE + 1)])
def test_a_decision_without_reasons_is_none(network: Network, note: str) -> None:
    case = opened(network)
    cases.assign(network.principal, case.pk, 1, network.officer.pk)
    with pytest.raises(InvalidParameter), transaction.atomic():
        cases.decide(network.principal, case.pk, 2, Decision.BREACH, note)
    case.refresh_from_db()
    assert (case.state, case.version) == ("assigned", 2)


def test_a_finding_has_one_case_and_a_decided_case_takes_no_more(network: Network) -> None:
    row, more = finding(network.clinician), finding(network.clinician, rule="vip")
    case = cases.open_from_findings(network.principal, [row.pk])
    with pytest.raises(Conflict):
        cases.open_from_findings(network.principal, [row.pk])
    with pytest.raises(NotFound):
        cases.link(network.principal, case.pk, [finding(network.neighbour).pk])
    cases.assign(network.principal, case.pk, 1, network.officer.pk)
    cases.decide(network.principal, case.pk, 2, Decision.REMINDER, WORDS)
    with pytest.raises(Conflict):
        cases.link(network.principal, case.pk, [more.pk])
    cases.reopen(network.principal, case.pk, 3, WORDS)
    cases.link(network.principal, case.pk, [more.pk])
    assert set(case.findings.values_list("pk", flat=True)) == {row.pk, more.pk}


def test_a_reopened_case_has_a_new_clock(network: Network) -> None:
    case = opened(network)
    past = timezone.now() - timedelta(days=30)
    AnomalyCase.objects.filter(pk=case.pk).update(state="assigned", assignee=network.officer, version=2, due_at=past)
    assert selectors.queue(network.principal).overdue == 1
    cases.decide(network.principal, case.pk, 2, Decision.SANCTION, WORDS)
    assert selectors.queue(network.principal).overdue == 0
    assert cases.reopen(network.principal, case.pk, 3, WORDS).due_at > timezone.now()
    assert Event.objects.get(subject=case.pk, outcome="reopened").details["before"] == "sanction_referred"


@pytest.mark.parametrize(
    ("opened_on", "days", "expected"),
    [
        ((2026, 3, 9), 5, (2026, 3, 16)),  # Monday
        ((2026, 3, 13), 1, (2026, 3, 16)),  # Friday
        ((2026, 3, 14), 5, (2026, 3, 20)),  # Saturday
        ((2026, 3, 15), 1, (2026, 3, 16)),  # Sunday
    ],
)
def test_the_clock_counts_working_days(
    opened_on: tuple[int, int, int], days: int, expected: tuple[int, int, int]
) -> None:
    assert cases.due(datetime(*opened_on, 14, 30, tzinfo=UTC), days) == datetime(*expected, 14, 30, tzinfo=UTC)


def at_once(steps: Sequence[Callable[[], object]]) -> list[str]:
    """Runs the steps in a thread each; what came of them, by name."""
    barrier, came = threading.Barrier(len(steps)), list[str]()

    def go(step: Callable[[], object]) -> None:
        try:
            barrier.wait()
            step()
            came.append("done")
        except BaseException as error:  # noqa: BLE001  (a thread's failure is the test's)
            came.append(type(error).__name__)
        finally:
            connection.close()

    threads = [threading.Thread(target=go, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(came)


@pytest.mark.django_db(transaction=True)
def test_of_steps_at_once_one_counts(quick_passwords: None) -> None:
    network = networks.build()
    officers, row = [network.principal, second_officer()], finding(network.clinician)
    came = at_once([partial(cases.open_from_findings, who, [row.pk]) for who in officers * 2])
    assert came == ["Conflict"] * 3 + ["done"]
    case = AnomalyCase.objects.get()
    came = at_once([partial(cases.assign, who, case.pk, 1, who.user_id) for who in officers * 2])
    assert came == ["Conflict"] * 3 + ["done"]
    case.refresh_from_db()
    holder = next(who for who in officers if who.user_id == case.assignee_id)
    decide = [partial(cases.decide, holder, case.pk, 2, decision, WORDS) for decision in Decision.values]
    assert at_once(decide) == ["Conflict"] * 3 + ["done"]
    assert outcomes(case) == ["opened", "assigned", "decided", "noted"]
    assert case.notes.count() == 1
