"""Blocks by patient cohort: opened, charged together, retired, replaced, and never refilled."""

from __future__ import annotations

import hashlib
import uuid
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction
from pytest_django import Settings

from fdrouter.errors import BlockExhausted, Conflict, InvalidParameter
from federation.node import blocks, health, search, votes
from federation.node.ingest import ingest
from federation.node.models import Patient
from privacy import ledger
from privacy.dp import curves
from privacy.dp.cohort_plans import Plan, plan_choice, plan_count
from privacy.dp.text_plan import plan_text
from privacy.models import Curve, Entry, Scope, Unit
from tests.node.records import lines

NODE, CHOICE, TEXT = "northfield", plan_choice(options=3, epsilon=1.0), plan_text(epsilon=3.0)

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def node(settings: Settings) -> None:
    settings.NODE_ID = settings.HOSPITAL_ID = NODE


def first(epsilon: float = 10.0) -> Scope:
    return blocks.create(NODE, NODE, epsilon=epsilon, delta=1e-5)


def following(epsilon: float = 10.0) -> Scope:
    return blocks.open_next(NODE, NODE, epsilon=epsilon, delta=1e-5)


def used(scope: Scope) -> int:
    return Scope.objects.get(pk=scope.pk).used


def take_in(folder: Path, *names: str) -> None:
    lines.write(folder / "p.ndjson", [lines.patient(name) for name in names])
    lines.write(folder / "n.ndjson", [lines.note(f"d-{n}", n, "Velorapine, then a dry cough.") for n in names])
    ingest(folder)


def test_a_patient_stays_in_the_block_of_their_first_ingest(tmp_path: Path) -> None:
    first()
    take_in(tmp_path, "p1", "p2")
    following()
    take_in(tmp_path, "p1", "p2", "p3")
    lines.write(tmp_path / "later.ndjson", [lines.note("d-x", "p1", "Velorapine and a rash.")])
    ingest(tmp_path)
    assert dict(Patient.objects.values_list("source_id", "block")) == {"p1": 1, "p2": 1, "p3": 2}
    assert [votes.count("velorapine", [n]) for n in (1, 2)] == [2, 1]
    assert votes.count("velorapine", [1, 2]) == 3 and votes.count("velorapine", []) == 0
    found = votes.votes("velorapine", ["dry cough", "nausea"], [2])
    assert found == [1, 0, 0]
    assert votes.held_by("velorapine", ["cough"], [1]) == [2]
    assert len(search.top_patients("velorapine", [2], limit=9)) == 1
    assert search.top_patients("velorapine", [3], limit=9) == []


def test_new_patients_wait_for_the_next_block_when_the_newest_is_retired(tmp_path: Path) -> None:
    first()
    blocks.retire(NODE, 1)
    take_in(tmp_path, "p1")
    assert Patient.objects.get().block == blocks.intake() == 2
    with pytest.raises(BlockExhausted, match="are retired"):
        blocks.open_blocks()
    assert blocks.number(following()) == 2
    assert blocks.intake() == 2


def test_every_open_block_pays_the_whole_cost_at_its_own_order() -> None:
    old, new, request = first(10.0), following(3.0), uuid.uuid4()
    assert old.alpha != new.alpha
    assert blocks.pay(request, TEXT) == [old, new]
    assert (used(old), used(new)) == tuple(TEXT.nano_at(scope.alpha or 0) for scope in (old, new))
    assert blocks.covered(request) == [1, 2]
    kept = blocks.settle(request, TEXT, 5)
    assert kept == {scope.key: blocks.spent(scope, TEXT, 5) for scope in (old, new)}
    assert (used(old), used(new)) == tuple(kept.values())


def test_a_block_that_cannot_pay_is_left_out_and_its_patients_are_not_read() -> None:
    small, large, request = first(0.5), following(10.0), uuid.uuid4()
    assert blocks.pay(request, CHOICE) == [large]
    assert (used(small), blocks.covered(request)) == (0, [2])
    with pytest.raises(BlockExhausted):
        blocks.pay(uuid.uuid4(), CHOICE, [small, large])  # both were named
    assert used(large) == CHOICE.nano_at(large.alpha or 0)


def test_nobody_pays_where_no_block_can() -> None:
    scopes = first(0.5), following(0.5)
    with pytest.raises(BlockExhausted):
        blocks.pay(uuid.uuid4(), CHOICE)
    assert [used(scope) for scope in scopes] == [0, 0] and not Entry.objects.exists()
    assert not Curve.objects.exists()


def test_a_retired_block_is_never_charged_or_opened_again() -> None:
    spent, fresh = first(), following()
    blocks.retire(NODE, 1)
    assert blocks.pay(uuid.uuid4(), CHOICE) == [fresh]
    assert used(spent) == 0
    with pytest.raises(BlockExhausted, match="retired"):
        blocks.pay(uuid.uuid4(), CHOICE, [spent])
    with pytest.raises(Conflict):
        blocks.retire(NODE, 1)
    with pytest.raises(InvalidParameter):
        blocks.retire(NODE, 3)
    assert first().pk == spent.pk  # what is there stays as it is
    told = health.document()
    assert [(block["key"], block["retired"]) for block in told["blocks"]] == [(fresh.key, False), (spent.key, True)]
    assert told["block"]["key"] == fresh.key and told["blocks"][1]["epsilon_left"] == 0


def test_no_block_goes_away_and_comes_back_empty() -> None:
    scope = first()
    for row in Scope.objects.filter(key=scope.key):
        with pytest.raises(IntegrityError, match="is frozen"), transaction.atomic():
            row.delete()
    assert Scope.objects.filter(key=scope.key).count() == 2


def test_a_node_under_another_name_gets_no_second_budget(settings: Settings) -> None:
    first()
    settings.NODE_ID = "southfield"
    with pytest.raises(CommandError, match="block:northfield:1"):
        call_command("blocks", "open", stdout=StringIO())
    assert not Scope.objects.filter(key__startswith="block:southfield").exists()


def test_a_block_pays_for_no_release_under_other_neighbours() -> None:
    scope = first()
    with pytest.raises(InvalidParameter, match="swap"):
        blocks.pay(uuid.uuid4(), plan_text(epsilon=3.0, adjacency="add_remove"))
    assert used(scope) == 0


def test_delta_of_mechanisms_that_may_fail_is_counted_and_refused_at_the_cap() -> None:
    scope = blocks.create(NODE, NODE, epsilon=10.0, delta=1e-5, approximate_delta=1e-6)
    plan = plan_count(epsilon=0.1)
    blocks.pay(uuid.uuid4(), plan, approximate_delta=6e-7)
    assert blocks.delta_used(scope) == pytest.approx(6e-7)
    before = used(scope)
    with pytest.raises(BlockExhausted):
        blocks.pay(uuid.uuid4(), plan, approximate_delta=6e-7)
    assert used(scope) == before and blocks.delta_used(scope) == pytest.approx(6e-7)
    without = following()
    with pytest.raises(BlockExhausted):
        blocks.pay(uuid.uuid4(), plan, [without], approximate_delta=1e-12)


@pytest.mark.parametrize("plan", [TEXT, CHOICE, plan_count(epsilon=0.3)])
def test_the_curve_of_what_was_reserved_is_stored(plan: Plan) -> None:
    first()
    request = uuid.uuid4()
    blocks.pay(request, plan)
    curve = Curve.objects.get(pk=request)
    assert (curve.grid, len(curve.nano)) == (curves.GRID, len(curves.ORDERS))
    at = curves.ORDERS.index(4.0)
    assert curve.nano[at] == pytest.approx(plan.nano_at(4.0), rel=1e-6)
    ledger.settle(request)


def test_the_grid_of_stored_curves_is_the_one_that_its_name_stands_for() -> None:
    digest = hashlib.sha256(repr(curves.ORDERS).encode()).hexdigest()
    assert (curves.GRID, digest[:16]) == ("orders-1", "fc871560e4fb130f")


def test_the_command_opens_lists_and_retires(tmp_path: Path) -> None:
    out = StringIO()
    call_command("blocks", "open", "--epsilon", "5", stdout=out)
    take_in(tmp_path, "p1")
    call_command("blocks", "retire", "1", stdout=out)
    take_in(tmp_path, "p1", "p2")
    call_command("blocks", "list", stdout=out)
    assert "retired  1 patients" in out.getvalue() and "1 patients wait for the next block" in out.getvalue()
    call_command("blocks", "open", "--next", stdout=out)
    assert Scope.objects.filter(key="block:northfield:2", unit=Unit.NANO_RDP).exists()
    with pytest.raises(CommandError, match="retired already"):
        call_command("blocks", "retire", "1", stdout=out)
