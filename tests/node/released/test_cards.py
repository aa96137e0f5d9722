"""Statistics cards from plan to answer: paid once by the block, asked without cost, told with their bands."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext

from federation import gateway, receipts
from federation.models import NodeCall
from federation.node import health
from federation.node.models import Patient
from federation.node.released import cards, contributions, publish, vocabulary
from federation.node.released.models import Release, ReleasedCard
from federation.node.released.states import ReleaseState
from privacy import statement, verify
from privacy.dp.release_plans import CardsPlan, sum_cells
from privacy.models import Reservation, Scope
from tests.federation.keys import ring
from tests.node.released.stage import TOPICS, approved_cards, ask, published_cards

pytestmark = pytest.mark.django_db(transaction=True)


def used(block: Scope) -> int:
    block.refresh_from_db()
    return block.used


def test_cards_are_paid_once_and_then_answer_counts_for_nothing(block: Scope) -> None:
    release = approved_cards()
    assert used(block) == 0, "neither a plan nor an approval costs anything"
    publish.begin(release)
    paid = used(block)
    plan = publish.plan_of(release)
    assert isinstance(plan, CardsPlan) and paid == plan.nano_at(3.4) > 0
    cards.make(release)
    last = ask("How many patients on velorapine had a dry cough?")[-1]
    assert last["type"] == "answer"
    found = re.match(
        r"About (\d+) patients were counted: velorapine with dry cough\. The noise leaves (\d+) to (\d+) ", last["text"]
    )
    assert found and int(found[2]) <= 62 <= int(found[3]), "62 of the small cohort of 72 have it"
    assert used(block) == paid
    assert Reservation.objects.count() == 1
    assert not verify.verify().faults
    assert statement.of(block).plain_sum == 8.0


def test_the_answer_says_what_it_is_made_of_and_the_receipt_proves_it(block: Scope) -> None:
    release = published_cards()
    wish = ask("How many patients take tamurexin?")
    last = wish[-1]
    day = release.published_at.date().isoformat() if release.published_at else ""
    assert f"From 1 statistics card published on {day} at epsilon 8 per patient. That was paid" in last["text"]
    body = last["receipt"]["body"]
    assert body["mechanism"] is None and body["block"] is None
    assert body["released"]["cards"] == ["treatments"] and body["released"]["notes"] == 0
    assert body["released"]["releases"][0]["id"] == str(release.pk)
    assert body["released"]["releases"][0]["epsilon"] == 8.0
    node = ring().identity("northfield").public
    assert receipts.covers(last["receipt"], node, message_id=body["message_id"], answer=last["text"])
    call = gateway.Call(body["message_id"], "cohort.released", "m", False, body["request_digest"], {"parameters": {}})
    assert gateway._speaks_of(body, last["text"], call), "the coordinator accepts it"


def test_an_answer_looks_at_no_patient(block: Scope) -> None:
    published_cards()
    Patient.objects.all().delete()
    with CaptureQueriesContext(connection) as queries:
        last = ask("How many patients on velorapine had a dry cough?")[-1]
    assert last["type"] == "answer"
    told = " ".join(query["sql"] for query in queries.captured_queries)
    for table in ("node_patient", "node_note", "node_resource", "node_careassignment", "node_releasemember"):
        assert f"{table} " not in told.replace('"', " ") and f"{table}." not in told, table


@pytest.mark.parametrize(
    ("question", "told"),
    [
        ("How many women are on record?", "patients were counted: female"),
        ("How many patients have asthma?", "patients were counted: asthma"),
        ("How many patients were seen in cardiology?", "patients were counted: cardiology"),
        ("What number of patients by age band?", "- age 30 to 39: about"),
        ("How many patients had a dry cough, by treatment?", "- velorapine with dry cough: about"),
        ("How many patients had a dry cough?", "- velorapine with dry cough: about"),
    ],
)
def test_questions_find_their_card(block: Scope, question: str, told: str | None) -> None:
    published_cards()
    last = ask(question)[-1]
    if told is None:
        assert last["code"] == "nothing_released"
    else:
        assert told in last["text"]


@pytest.mark.parametrize(
    ("question", "code", "why"),
    [
        ("How many women have asthma?", "nothing_released", "apart, not together"),
        ("How many patients on velorapine had purple ears?", "nothing_released", "of your question"),
        ("How many patients on velorapine had no dry cough?", "nothing_released", "without a negation"),
        ("How many submarines?", "nothing_released", "word \u201csubmarines\u201d of your question"),
        ("What is the weather like?", "nothing_released", "privacy cost"),
    ],
)
def test_what_the_cards_do_not_hold_is_refused_with_what_to_do(
    block: Scope, question: str, code: str, why: str
) -> None:
    published_cards()
    last = ask(question)[-1]
    assert (last["type"], last["code"], last["charged"], last["broken"]) == ("error", code, False, False)
    assert why in last["details"]["why"]


def test_a_choice_is_answered_from_the_cells_of_its_options(block: Scope) -> None:
    published_cards()
    last = ask("Which side effect did velorapine have?", options=["nausea", "dry cough", "headache"])[-1]
    assert last["text"].startswith("Published most often: velorapine with dry cough.\n")
    assert last["text"].count("- velorapine with") == 3
    last = ask("Which treatment is used most?", options=["velorapine", "tamurexin"])[-1]
    assert last["text"].startswith("Published most often: velorapine")
    assert ask("Which side effect did velorapine have?", options=["nausea", "a cold"])[-1]["code"] == "nothing_released"


def test_nothing_published_is_refused_and_names_what_to_do(block: Scope) -> None:
    last = ask("How many patients take velorapine?")[-1]
    assert (last["type"], last["code"], last["charged"]) == ("error", "nothing_released", False)
    assert "has published nothing yet" in last["details"]["why"] and "privacy cost" in last["details"]["why"]
    assert NodeCall.objects.get().code == "nothing_released"


def test_who_may_not_ask_does_not_learn_what_is_published(block: Scope) -> None:
    published_cards()
    officer = {"id": 7, "role": "privacy_officer", "hospital": "northfield", "department": None}
    assert ask("How many patients take velorapine?", actor=officer)[-1]["code"] == "policy_denied"


def test_cards_are_made_from_their_block_alone(block: Scope) -> None:
    Patient.objects.filter(pk__in=Patient.objects.order_by("pk").values("pk")[:40]).update(block=2)
    lists = vocabulary.lists_for(TOPICS)
    by_name = {card.name: card for card in vocabulary.cards_of(lists)}
    counted = {
        number: {name: len(contributions.cells(card, lists, number, 2026)) for name, card in by_name.items()}
        for number in (1, 2, 3)
    }
    assert counted[1]["sex"] == 50 and counted[2]["sex"] == 40 and not any(counted[3].values())
    assert counted[1]["treatments"] + counted[2]["treatments"] == len(contributions.topics_of(TOPICS, 1)) + len(
        contributions.topics_of(TOPICS, 2)
    )


def test_a_record_that_says_nothing_usual_is_counted_as_not_known(block: Scope) -> None:
    lists = vocabulary.lists_for(TOPICS)
    by_name = {card.name: card for card in vocabulary.cards_of(lists)}
    Patient.objects.update(sex="x", birth_year=1800)
    last = len(by_name["age"].labels) - 1
    assert list(contributions.cells(by_name["age"], lists, 1, 2026).values()) == [[last]] * 90
    assert list(contributions.cells(by_name["sex"], lists, 1, 2026).values()) == [[3]] * 90
    Patient.objects.update(codes=[f"I{n}" for n in range(10, 99)] * 2)
    card = by_name["conditions"]
    held, lot = contributions.cells(card, lists, 1, 2026), contributions.lot(uuid.uuid4(), card)
    assert len(set(next(iter(held.values())))) > 6
    assert all(sum(sum_cells({patient: places}, card.card, lot)) == 6 for patient, places in held.items())
    assert sum(sum_cells(held, card.card, lot)) == 6 * 90, "six conditions of a patient count, not more"


def test_a_record_moves_the_cards_by_its_own_cells_only(block: Scope) -> None:
    """Contribution: each patient's cells are the same whoever else is on record."""
    lists = vocabulary.lists_for(TOPICS)
    card = next(card for card in vocabulary.cards_of(lists) if card.name == "effects")
    whole = contributions.cells(card, lists, 1, 2026)
    gone = Patient.objects.order_by("pk").first()
    assert gone is not None
    gone.delete()
    rest = contributions.cells(card, lists, 1, 2026)
    assert {patient: sorted(places) for patient, places in whole.items() if patient != gone.reference} == {
        patient: sorted(places) for patient, places in rest.items()
    }


def test_which_cells_count_of_a_patient_is_their_own_lot_and_another_release_s_is_another(block: Scope) -> None:
    lists = vocabulary.lists_for()
    card = next(card for card in vocabulary.cards_of(lists) if card.name == "treatments")
    everybody = {f"patient {n}": list(range(len(card.labels))) for n in range(400)}
    one, other = (sum_cells(everybody, card.card, contributions.lot(uuid.uuid4(), card)) for _ in range(2))
    assert one != other
    share = card.max_cells / len(card.labels)
    for counts in (one, other):
        assert all(abs(count - 400 * share) < 5 * (400 * share * (1 - share)) ** 0.5 for count in counts)
    lot = contributions.lot(uuid.UUID(int=1), card)
    turned = vocabulary.CardCells(card.name, card.title, card.labels[::-1], card.max_cells)
    again = contributions.lot(uuid.UUID(int=1), turned)
    counted = sum_cells(everybody, card.card, lot)
    assert sum_cells(everybody, turned.card, again)[::-1] == counted, "the order of names moves nothing"


def test_the_published_figures_are_noisy_and_signed(block: Scope) -> None:
    release = published_cards()
    sex = ReleasedCard.objects.get(release=release, name="sex")
    assert sex.labels == [["female"], ["male"], ["other"], ["unknown"]]
    again = published_cards(epsilon=1.0)
    assert ReleasedCard.objects.get(release=again, name="effects").counts != (
        ReleasedCard.objects.get(release=release, name="effects").counts
    )
    node = ring().identity("northfield").public
    assert publish.is_genuine(release, node)
    sex.counts = [45, 45, 0, 0]
    sex.save()
    assert not publish.is_genuine(release, node), "a figure that was changed afterwards is not what was signed"


def test_of_two_publications_of_a_block_the_newer_one_answers(block: Scope) -> None:
    published_cards(epsilon=1.0)
    newer = published_cards(epsilon=6.0)
    body = ask("How many patients take velorapine?")[-1]["receipt"]["body"]
    assert [entry["id"] for entry in body["released"]["releases"]] == [str(newer.pk)]


def test_health_lists_what_is_published(block: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "engine_state", lambda: "ok")
    assert health.document()["releases"] == []
    release = published_cards()
    (told,) = health.document()["releases"]
    assert (told["id"], told["kind"], told["block"]) == (str(release.pk), "cards", "block:northfield:1")
    assert (told["epsilon"], told["delta"], told["topics"]) == (8.0, 1e-5, ["metformin", "tamurexin", "velorapine"])
    assert {"velorapine", "tamurexin"} <= set(told["words"]) and "dry cough" not in told["words"]
    assert {card["name"] for card in told["cards"]} == {
        "sex",
        "age",
        "departments",
        "conditions",
        "treatments",
        "effects",
    }


# --- the way there ------------------------------------------------------------------------------------------------
def refused(call: Any, code: str) -> str:
    from fdrouter.errors import DomainError

    with pytest.raises(DomainError) as error:
        call()
    assert error.value.code == code
    return error.value.message


def test_nobody_approves_their_own_plan(block: Scope) -> None:
    release = publish.propose_cards(1, "Pia  Planner")
    assert "somebody else" in refused(lambda: publish.approve(release, " pia planner"), "conflict")
    with pytest.raises(IntegrityError), transaction.atomic():
        Release.objects.filter(pk=release.pk).update(approved_by="PIA PLANNER")
    assert refused(lambda: publish.begin(release), "conflict") and used(block) == 0


def test_a_plan_that_was_changed_is_refused_by_the_database(block: Scope) -> None:
    release = approved_cards()
    for changes in ({"plan": release.plan | {"topics": []}}, {"block": 2}, {"approved_by": "somebody else"}):
        with pytest.raises(IntegrityError), transaction.atomic():
            Release.objects.filter(pk=release.pk).update(**changes)


def test_publishing_twice_or_at_once_is_refused_and_paid_once(block: Scope) -> None:
    release = approved_cards()
    refused(lambda: publish.propose_cards(1, "another"), "conflict")
    publish.begin(release)
    paid = used(block)
    assert "making" in refused(lambda: publish.begin(release), "conflict")
    cards.make(release)
    refused(lambda: cards.make(release), "conflict")
    assert used(block) == paid and ReleasedCard.objects.filter(release=release, name="sex").count() == 1


def test_an_exhausted_or_retired_block_publishes_nothing(block: Scope) -> None:
    from federation.node import blocks

    release = approved_cards(epsilon=8.0)
    again = approved_corpus_cost_of(block)
    refused(lambda: publish.begin(release), "block_exhausted")
    release.refresh_from_db()
    assert release.state == ReleaseState.APPROVED and used(block) == again
    publish.withdraw(release, "Pia")
    refused(lambda: publish.propose_cards(1, "Pia", epsilon=9.0), "block_exhausted")
    refused(lambda: publish.propose_cards(4, "Pia"), "invalid_parameter")
    blocks.retire("northfield", 1)
    refused(lambda: publish.propose_cards(1, "Pia", epsilon=0.1), "block_exhausted")


def approved_corpus_cost_of(block: Scope) -> int:
    """Something else that takes most of the block."""
    from federation.node import blocks
    from privacy.dp.text_plan import plan_text

    blocks.pay(uuid.uuid4(), plan_text(epsilon=9.0, contexts=128, max_tokens=24), [block])
    return used(block)


def test_without_a_claim_sheet_nothing_is_planned_or_made(block: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    from privacy import claims

    release = approved_cards()
    claims.sheet.cache_clear()
    monkeypatch.setattr(claims, "IMPLEMENTED", {**claims.IMPLEMENTED, "released_cards": 1})
    refused(lambda: publish.begin(release), "claim_missing")
    refused(lambda: publish.propose_cards(1, "Pia"), "claim_missing")
    assert used(block) == 0
    claims.sheet.cache_clear()


def test_a_making_that_is_killed_shows_nothing_and_goes_on(block: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    release = approved_cards()
    publish.begin(release)
    paid = used(block)
    monkeypatch.setattr(publish, "publish", lambda release: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cards.make(release)
    assert not ReleasedCard.objects.exists()
    monkeypatch.undo()
    from tests.node.released import stage

    monkeypatch.setattr("django.conf.settings.IDENTITY_DIR", ring().folder(stage.NODE))
    monkeypatch.setattr("django.conf.settings.NODE_ID", stage.NODE)
    monkeypatch.setattr("django.conf.settings.HOSPITAL_ID", stage.NODE)
    cards.make(release)
    assert used(block) == paid and ReleasedCard.objects.exists()


def test_a_withdrawn_release_answers_nothing_and_stays_paid(block: Scope) -> None:
    release = published_cards()
    paid = used(block)
    publish.withdraw(release, "Otto Officer", "wrong list")
    assert ask("How many patients take velorapine?")[-1]["code"] == "nothing_released"
    assert used(block) == paid
    release.refresh_from_db()
    refused(lambda: publish.withdraw(release, "Otto Officer"), "conflict")


def test_a_list_that_changed_since_the_plan_is_refused(block: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    release = approved_cards()
    monkeypatch.setattr(vocabulary, "digest_of", lambda name: "0" * 64)
    assert "word list has changed" in refused(lambda: publish.begin(release), "conflict")
    assert used(block) == 0


def test_every_step_leaves_evidence(block: Scope) -> None:
    from compliance.models import Event

    published_cards()
    kinds = list(Event.objects.order_by("pk").values_list("kind", flat=True))
    assert [kind for kind in kinds if kind.startswith("release.")] == [
        "release.plan",
        "release.approve",
        "release.begin",
        "release.publish",
    ]


def test_numbers_of_several_blocks_are_added_and_a_block_without_cards_is_named(block: Scope) -> None:
    from federation.node import blocks

    first = published_cards()
    one = ReleasedCard.objects.get(release=first, name="sex").counts
    blocks.open_next("northfield", "northfield", epsilon=10.0, delta=1e-5)
    text = ask("How many women are on record?")[-1]["text"]
    assert f"About {max(0, one[0])} patients were counted" in text
    assert "The numbers are those of the patients of 1 of the hospital's 2 blocks." in text
    Patient.objects.filter(pk__in=Patient.objects.order_by("pk").values("pk")[:40]).update(block=2)
    release = publish.propose_cards(2, "Pia", epsilon=8.0, topics=TOPICS)
    publish.approve(release, "Otto")
    publish.begin(release)
    cards.make(release)
    other = ReleasedCard.objects.get(release=release, name="sex").counts
    text = ask("How many women are on record?")[-1]["text"]
    found = re.match(r"About (\d+) patients were counted: female\. The noise leaves (\d+) to (\d+)", text)
    assert found and int(found[1]) == max(0, one[0] + other[0]) and "blocks" not in text
    plan = publish.plan_of(release)
    assert isinstance(plan, CardsPlan) and int(found[3]) - int(found[1]) > plan.band, "bands of sums are wider"


def test_cards_that_the_program_makes_otherwise_now_are_refused_before_they_are_paid(
    block: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = approved_cards()
    usual = vocabulary.cards_of(vocabulary.lists_for(TOPICS))
    monkeypatch.setattr(vocabulary, "cards_of", lambda lists: usual[:-1])
    assert "other cards" in refused(lambda: publish.begin(release), "conflict")
    assert used(block) == 0
