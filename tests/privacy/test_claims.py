"""Claim sheets: complete, true to the code, and without one a mechanism does not run."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from django.conf import settings as configured
from pytest_django import Settings

from fdrouter.errors import ClaimMissing
from federation.models import ACROSS, CHECKED, MECHANISMS
from federation.node import blocks, calls
from privacy import claims
from privacy.dp.across_plans import plan_choice_across, plan_count_across
from privacy.dp.cohort_plans import Plan, plan_choice, plan_count, plan_keywords
from privacy.dp.text_plan import plan_text
from privacy.models import Reservation
from tests.federation.messages import message

ROOT = Path(configured.BASE_DIR)
PLANS: dict[str, Plan] = {
    "count": plan_count(),
    "choice": plan_choice(options=3),
    "keywords": plan_keywords(),
    "token_decoding": plan_text(),
    "count_across": plan_count_across(hospitals=3),
    "choice_across": plan_choice_across(options=3, hospitals=3),
}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What a test reads from a folder of its own is not remembered."""
    claims.sheet.cache_clear()
    yield
    claims.sheet.cache_clear()


@pytest.mark.parametrize("mechanism", PLANS)
def test_every_mechanism_has_a_sheet_that_is_true_to_its_plan(mechanism: str) -> None:
    found = claims.sheet(mechanism)
    event = PLANS[mechanism].to_event()
    assert found.fields["adjacency"] == event["adjacency"] and event["unit"] in found.fields["unit"]
    assert ("delta 0" in found.fields["claim"]) == (event["delta"] == 0)
    assert all((ROOT / test).is_file() for test in found.fields["tests"])
    file = ROOT / "configs" / "claims" / f"{mechanism}.yaml"
    assert found.reference == {
        "sheet": mechanism,
        "version": claims.IMPLEMENTED[mechanism],
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }


def test_the_sheets_are_those_of_the_mechanisms() -> None:
    assert {file.stem for file in (ROOT / "configs" / "claims").glob("*")} == set(claims.IMPLEMENTED)
    assert set(claims.IMPLEMENTED) >= {*MECHANISMS.values(), *ACROSS.values(), *CHECKED.values()}


@pytest.fixture
def sheets(settings: Settings, tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    settings.BASE_DIR = tmp_path
    return tmp_path / "configs" / "claims"


@pytest.mark.parametrize("deed", ["away", "old", "short", "empty", "other"])
def test_a_sheet_that_is_not_current_is_none(sheets: Path, deed: str) -> None:
    file = sheets / "count.yaml"
    fields = yaml.safe_load(file.read_text())
    if deed == "away":
        file.unlink()
    elif deed == "old":
        file.write_text(yaml.safe_dump(fields | {"version": 0}))
    elif deed == "short":
        file.write_text(yaml.safe_dump({name: value for name, value in fields.items() if name != "trusted"}))
    elif deed == "empty":
        file.write_text(yaml.safe_dump(fields | {"noise": ""}))
    else:
        shutil.copy(sheets / "choice.yaml", file)
    with pytest.raises(ClaimMissing):
        claims.sheet("count")
    assert claims.sheet("choice").fields["version"] == 1


@pytest.mark.django_db
def test_without_a_sheet_nothing_is_reserved(sheets: Path, settings: Settings) -> None:
    settings.NODE_ID = settings.HOSPITAL_ID = "northfield"
    block = blocks.create("northfield", "northfield", epsilon=10.0, delta=1e-5)
    (sheets / "token_decoding.yaml").unlink()
    with pytest.raises(ClaimMissing):
        calls.begin(message())
    block.refresh_from_db()
    assert block.used == 0 and not Reservation.objects.exists()
