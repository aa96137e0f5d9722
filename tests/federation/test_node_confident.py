"""A choice behind a check at a node: told where records agree, withheld and mostly given back where they do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from federation.node import blocks
from federation.node.demo_records import build
from federation.node.ingest import ingest
from privacy.dp.confident_plans import plan_confident_choice
from privacy.models import Reservation, Scope
from privacy.verify import verify
from tests.federation.keys import ring
from tests.federation.test_node_cohorts import OPTIONS, answer, message, short_slots, used
from tests.privacy.ledger.books import audit

pytestmark = pytest.mark.django_db(transaction=True)
__all__ = ["short_slots"]
SURE, UNSURE = (plan_confident_choice(options=3, threshold=n, epsilon=1.0) for n in (20, 400))


@pytest.fixture
def block(settings: Settings, tmp_path: Path) -> Scope:
    settings.NODE_ID = settings.HOSPITAL_ID = "northfield"
    settings.IDENTITY_DIR = ring().folder("northfield")
    build.build_small(tmp_path, "northfield")
    ingest(tmp_path)
    return blocks.create("northfield", "northfield", epsilon=10.0, delta=1e-5)


def ask(plan: Any) -> dict[str, Any]:
    parameters = json.loads(json.dumps(plan.to_event()))
    return answer(message("cohort.choice", parameters=parameters))[-1]


def test_where_records_agree_the_histogram_is_told_and_paid_whole(block: Scope) -> None:
    last = ask(SURE)
    assert last["text"].startswith("Said most often: dry cough.") and all(option in last["text"] for option in OPTIONS)
    body = last["receipt"]["body"]["mechanism"]
    assert body["name"] == "choice_confident" and "withheld" not in body
    assert body["claim"]["sheet"] == "choice_confident"
    assert used(block) == SURE.nano_at(3.4) == body["nano_rdp_spent"]
    audit()


def test_where_they_do_not_nothing_is_told_and_the_check_alone_is_kept(block: Scope) -> None:
    last = ask(UNSURE)
    assert last["text"].startswith("Fewer than about 400 records agree") and last["finish_reason"] == "withheld"
    assert not any(option in last["text"] for option in OPTIONS)
    body = last["receipt"]["body"]["mechanism"]
    assert body["withheld"] is True and body["blocks"] == {block.key: UNSURE.nano_of_check(3.4)}
    assert used(block) == UNSURE.nano_of_check(3.4) < UNSURE.nano_at(3.4)
    audit()
    result = verify()
    assert result.faults == () and result.blocks[0].second is not None


def test_the_audit_finds_a_check_that_gave_back_too_much(block: Scope) -> None:
    from privacy import ledger

    wish = message("cohort.choice", parameters=json.loads(json.dumps(UNSURE.to_event())))
    blocks.pay(wish.id, UNSURE)
    ledger.settle(wish.id, UNSURE.nano_of_check(3.4) - 1)
    assert any("kept of a check that costs" in fault for fault in verify().faults)
    assert Reservation.objects.get(pk=wish.id).state == "settled"


def test_the_same_question_is_withheld_again_for_nothing(block: Scope) -> None:
    first, again = ask(UNSURE), ask(UNSURE)
    assert again["text"] == first["text"] and again["receipt"]["body"]["mechanism"]["repeat_of"]
    assert used(block) == UNSURE.nano_of_check(3.4)
