"""The life of an inference: the table in Python and the trigger in SQL say the same about every pair."""

from __future__ import annotations

from datetime import timedelta
from itertools import permutations

import pytest
from django.db import IntegrityError, transaction
from django.utils import timezone

from federation.models import Inference
from federation.states import TERMINAL, TRANSITIONS, InferenceState
from tests.accounts import people
from tests.federation import rows

ENDED = {str(state) for state in TERMINAL}


def test_every_state_has_a_line_and_the_ended_ones_lead_nowhere() -> None:
    assert set(TRANSITIONS) == set(InferenceState)
    assert set(TERMINAL) == {InferenceState.DONE, InferenceState.FAILED, InferenceState.CANCELLED}
    assert all(target in TRANSITIONS for targets in TRANSITIONS.values() for target in targets)


def test_an_answer_comes_only_from_a_dispatched_request() -> None:
    assert [s for s, following in TRANSITIONS.items() if InferenceState.DONE in following] == [
        InferenceState.DISPATCHED
    ]


def _row(state: str) -> Inference:
    return rows.request(people.person("ada"), "why?", state=state)


@pytest.mark.django_db
@pytest.mark.parametrize(("old", "new"), list(permutations(InferenceState, 2)))
def test_the_database_allows_what_the_table_allows(old: InferenceState, new: InferenceState) -> None:
    row = _row(old)
    change = {"state": new, "finished_at": timezone.now() if new in TERMINAL else None}
    if new in TRANSITIONS[old]:
        assert Inference.objects.filter(pk=row.pk).update(**change) == 1
        return
    with pytest.raises(IntegrityError, match=f"cannot go from {old} to {new}"), transaction.atomic():
        Inference.objects.filter(pk=row.pk).update(**change)
    row.refresh_from_db()
    assert row.state == old


@pytest.mark.django_db
@pytest.mark.parametrize("state", list(InferenceState))
def test_staying_where_one_is_is_no_transition(state: InferenceState) -> None:
    """A lease is renewed, and a lost row claimed again, without a change of state."""
    row = _row(state)
    assert Inference.objects.filter(pk=row.pk).update(state=state, lease=timezone.now() + timedelta(seconds=9)) == 1


@pytest.mark.django_db
@pytest.mark.parametrize("state", list(InferenceState))
def test_only_what_has_ended_has_an_end(state: InferenceState) -> None:
    row = _row(state)
    wrong = None if state in TERMINAL else timezone.now()
    with pytest.raises(IntegrityError, match="inference_ended_has_a_time"), transaction.atomic():
        Inference.objects.filter(pk=row.pk).update(finished_at=wrong)


@pytest.mark.django_db
def test_a_cohort_answer_without_a_cost_cannot_be_written() -> None:
    row = _row("queued")
    with pytest.raises(IntegrityError, match="cohort_answer_has_a_cost"), transaction.atomic():
        Inference.objects.filter(pk=row.pk).update(kind="cohort.text")


@pytest.mark.django_db
def test_an_answer_from_what_was_published_costs_nothing_and_no_other_can_be_written() -> None:
    row = _row("queued")
    assert Inference.objects.filter(pk=row.pk).update(kind="cohort.released") == 1
    with pytest.raises(IntegrityError, match="cohort_answer_has_a_cost"), transaction.atomic():
        Inference.objects.filter(pk=row.pk).update(epsilon_micro=1, delta=1e-5)
