"""What pages read: nodes and hospitals, purposes, and a person's own sealed requests."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from accounts.models import Role
from fdrouter import crypto
from fdrouter.errors import NoNode, NotFound
from federation import selectors
from federation.models import Inference, Kind, Node
from tests.accounts.people import department, hospital, in_care, person, principal
from tests.federation import rows

pytestmark = pytest.mark.django_db


# --- nodes --------------------------------------------------------------------------------------------------------
def test_a_node_is_up_when_its_last_probe_was_good_and_recent() -> None:
    rows.node(hospital("a", "A"))
    rows.node(hospital("b", "B"), seen=timedelta(minutes=5))
    rows.node(hospital("c", "C"), status={"healthy": False})
    rows.node(hospital("d", "D"), active=False)
    assert selectors.count_nodes_up() == 1


def test_the_default_model_is_the_one_on_most_nodes() -> None:
    with pytest.raises(NoNode):
        selectors.default_model()
    rows.node(hospital("a", "A"), served_models=["small"])
    rows.node(hospital("b", "B"), served_models=["small", "big"])
    rows.node(hospital("c", "C"), served_models=["idle"], active=False)
    assert selectors.served_models() == ["small", "big"]
    assert selectors.default_model() == "small"


def test_sources_come_with_ones_own_hospital_first_and_sizes_as_bands() -> None:
    rows.node(hospital("aaa", "Aaa"))
    rows.node(hospital())
    found = selectors.sources(principal(person("ada")))
    assert [source.code for source in found] == ["northfield", "aaa"]
    assert found[0].band == "400–500"
    assert found[0].block is not None
    assert (found[0].block.largest, found[0].block.spent, found[0].block.percent_left) == (6.5, 4.5, 75.0)


def test_operators_see_the_nodes_of_their_hospital_and_administrators_of_the_network_all() -> None:
    rows.node(hospital())
    rows.node(hospital("lakeside", "Lakeside"))
    operator = principal(person("olga", Role.NODE_OPERATOR))
    assert [card.node.pk for card in selectors.nodes(operator)] == ["northfield"]
    assert len(selectors.nodes(principal(person("root", Role.ADMINISTRATOR, network=True)))) == 2


@pytest.mark.parametrize("role", [Role.ATTENDING, Role.RESEARCHER, Role.PRIVACY_OFFICER, Role.AUDITOR])
def test_for_others_there_are_no_nodes(role: Role) -> None:
    with pytest.raises(NotFound):
        selectors.nodes(principal(person("x", role)))


# --- policy and care ----------------------------------------------------------------------------------------------
def test_kinds_and_purposes_follow_the_policy() -> None:
    attending = selectors.purposes_by_kind(principal(person("ada")))
    assert attending[Kind.CHART] == ["TREAT", "ETREAT"]
    nurse = selectors.purposes_by_kind(principal(person("nora", Role.NURSE)))
    assert Kind.COHORT_TEXT not in nurse and Kind.COHORT_RELEASED in nurse
    researcher = selectors.purposes_by_kind(principal(person("rhea", Role.RESEARCHER)))
    assert researcher == {kind: ["HQUALIMP", "HRESCH"] for kind in Kind if kind != Kind.CHART}
    assert selectors.purposes_by_kind(principal(person("olga", Role.NODE_OPERATOR))) == {}


def test_patients_are_those_in_the_departments_care_now() -> None:
    in_care("mine")
    in_care("other", of=department("emergency"))
    gone = in_care("gone")
    gone.ended_at = timezone.now()
    gone.save()
    found = selectors.patients_in_care(principal(person("ada")))
    assert [relation.patient_reference for relation in found] == ["mine"]
    assert not selectors.patients_in_care(principal(person("olga", Role.NODE_OPERATOR)))


# --- own requests -------------------------------------------------------------------------------------------------
def test_history_is_ones_own_newest_first_and_opened() -> None:
    ada, ben = person("ada"), person("ben")
    now = timezone.now()
    rows.request(ada, "First?", "One.", created_at=now - timedelta(minutes=2))
    rows.request(ada, "Second?", "Two.", created_at=now)
    rows.request(ben, "Not yours?", "No.")
    page = selectors.history(principal(ada))
    assert [(r.question, r.answer) for r in page.rows] == [("Second?", "Two."), ("First?", "One.")]
    assert page.total == 2


def test_stored_contents_are_not_in_clear() -> None:
    row = rows.request(person("ada"), "A telling question", "A telling answer")
    raw = Inference.objects.get(pk=row.pk)
    assert b"telling" not in bytes(raw.request or b"") + bytes(raw.answer or b"")


def test_search_looks_into_sealed_questions_and_answers_whatever_their_case() -> None:
    ada = person("ada")
    rows.request(ada, "What about VELORAPINE?", "It may cause a cough.")
    rows.request(ada, "Something else?", "Straße and more.")
    who = principal(ada)
    assert [r.question for r in selectors.history(who, text="velorapine").rows] == ["What about VELORAPINE?"]
    assert [r.question for r in selectors.history(who, text="COUGH").rows] == ["What about VELORAPINE?"]
    assert selectors.history(who, text="strasse").total == 1
    assert selectors.history(who, text="absent").rows == []
    assert selectors.history(principal(person("ben")), text="velorapine").rows == []


def test_search_opens_only_the_latest_rows_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selectors, "SEARCHED_ROWS", 3)
    ada, now = person("ada"), timezone.now()
    for age in range(5):
        rows.request(ada, f"needle {age}", created_at=now - timedelta(minutes=age))
    page = selectors.history(principal(ada), text="needle")
    assert [r.question for r in page.rows] == ["needle 0", "needle 1", "needle 2"]
    assert page.limited


def test_filters_by_kind_and_outcome() -> None:
    ada = person("ada")
    rows.request(ada, "general, done")
    rows.request(ada, "cohort, failed", None, kind=Kind.COHORT_TEXT, epsilon=1.0, state="failed", reason="node_failed")
    rows.request(ada, "chart, open", None, kind=Kind.CHART, state="queued", patient_reference="p1")
    who = principal(ada)

    def questions(**filters: str) -> list[str]:
        return [r.question for r in selectors.history(who, **filters).rows]  # type: ignore[arg-type]

    assert questions(kind="cohort.text") == ["cohort, failed"]
    assert questions(outcome="running") == ["chart, open"]
    assert questions(outcome="done") == ["general, done"]
    assert questions(kind="general", outcome="failed") == []
    assert len(questions(kind="nonsense", outcome="nonsense")) == 3


def test_pages_are_cut_and_out_of_range_numbers_land_on_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selectors, "PAGE_ROWS", 2)
    ada, now = person("ada"), timezone.now()
    for age in range(5):
        rows.request(ada, f"q{age}", created_at=now - timedelta(minutes=age))
    who = principal(ada)
    assert [r.question for r in selectors.history(who, page=2).rows] == ["q2", "q3"]
    assert selectors.history(who, page=99).number == 3
    assert selectors.history(who, page=-4).number == 1
    assert [r.question for r in selectors.history(who, text="q", page=3).rows] == ["q4"]


def test_somebody_elses_request_is_not_there() -> None:
    row = rows.request(person("ada"), "Mine")
    with pytest.raises(NotFound):
        selectors.request(principal(person("ben")), row.pk)


def test_a_damaged_text_is_said_and_hides_nothing_else() -> None:
    ada = person("ada")
    row = rows.request(ada, "Readable")
    broken = rows.request(ada, "Damaged", kind=Kind.COHORT_TEXT, epsilon=2.0)
    Inference.objects.filter(pk=broken.pk).update(request=crypto.seal("request", row.pk.bytes, b"of another row"))
    found = {r.row.pk: r for r in selectors.history(principal(ada)).rows}
    assert found[row.pk].question == "Readable"
    assert (found[broken.pk].readable, found[broken.pk].question, found[broken.pk].cost) == (False, "", 2.0)


def test_the_cost_is_what_the_quota_keeps() -> None:
    ada = person("ada")
    rows.request(ada, "paid", kind=Kind.COHORT_TEXT, epsilon=3.0)
    rows.request(ada, "given back", None, kind=Kind.COHORT_TEXT, epsilon=1.0, state="cancelled")
    assert {r.question: r.cost for r in selectors.recent(principal(ada))} == {"paid": 3.0, "given back": 0.0}


def test_recent_since_a_moment() -> None:
    ada, now = person("ada"), timezone.now()
    rows.request(ada, "old", created_at=now - timedelta(days=2))
    rows.request(ada, "new", created_at=now)
    assert [r.question for r in selectors.recent(principal(ada), since=now - timedelta(hours=1))] == ["new"]


def test_nodes_without_any_status_do_not_break_the_pages() -> None:
    rows.node(hospital(), status={}, last_seen_at=None)
    (card,) = selectors.nodes(principal(person("olga", Role.NODE_OPERATOR)))
    assert (card.up, card.engine, card.block, card.state) == (False, "unknown", None, "not reachable")
    assert Node.objects.count() == 1
