"""The page of block plans: what was published, what still fits, and nothing that a node only pretends."""

from __future__ import annotations

from typing import Any

import pytest

from compliance import blocks
from federation.models import Node
from privacy.dp.cohort_plans import plan_choice, plan_count
from tests.compliance.network import Network, SignIn

pytestmark = pytest.mark.django_db


def told(key: str = "block:lakeside:1", **changes: Any) -> dict[str, Any]:
    figures = {"key": key, "epsilon": 10.0, "delta": 1e-5, "alpha": 3.4, "cap": 6_060_000_000, "used": 2_000_000_000}
    return figures | {"epsilon_spent": 5.25, "epsilon_left": 4.75, "plain_sum": 12.5} | changes


def report(**status: Any) -> None:
    Node.objects.filter(pk="lakeside").update(status={"healthy": True, **status})


def plans(network: Network) -> list[blocks.BlockPlan]:
    return blocks.plans(network.principal, "lakeside")


def test_what_still_fits_is_counted_in_the_units_that_add_up(network: Network) -> None:
    report(blocks=[told()])
    (found,) = plans(network)
    count, choice = found.questions[0], found.questions[1]
    assert count.left == 4_060_000_000 // plan_count().nano_at(3.4)
    assert choice.left == 4_060_000_000 // plan_choice(options=3).nano_at(3.4)
    assert choice.share == pytest.approx(plan_choice(options=3).nano_at(3.4) / 6_060_000_000)


def test_a_retired_block_answers_nothing_and_its_releases_stay(network: Network, as_user: SignIn) -> None:
    release = {"id": "r1", "kind": "corpus", "block": "block:lakeside:1", "epsilon": 3.0, "delta": 1e-5, "notes": 6}
    release |= {"published_at": "2026-11-27T10:00:00+00:00", "topics": ["velorapine", "zintoralol"]}
    report(blocks=[told("block:lakeside:2"), told(retired=True)], releases=[release])
    old, new = plans(network)
    assert (old.block.title, old.block.retired) == ("Lakeside Medical Center, block 1", True)
    assert [question.left for question in old.questions] == [0, 0, 0, 0] and new.questions[0].left > 0
    assert [found.words for found in old.releases] == [("velorapine", "zintoralol")] and not new.releases
    page = " ".join(as_user(network.officer).get("/portal/blocks").content.decode().split())
    assert "6 synthetic notes" in page and "velorapine, zintoralol" in page and "closed for good" in page
    assert "Nothing was published from this block yet" in page


@pytest.mark.parametrize(
    "status",
    [
        {"blocks": [told(alpha=3.41)]},
        {"blocks": [told()], "releases": "all"},
        {"blocks": [told()], "releases": [None, {"block": "block:lakeside:1", "epsilon": "much", "published_at": 4}]},
        {"blocks": "none"},
        {"blocks": [None, 3]},
        {"block": told()},
    ],
)
def test_a_nodes_nonsense_breaks_no_page(status: dict[str, Any], network: Network, as_user: SignIn) -> None:
    report(**status)
    assert as_user(network.officer).get("/portal/blocks").status_code == 200
    assert as_user(network.officer).get("/portal/ledger").status_code == 200


def test_a_hospitals_own_officer_sees_its_blocks_alone(network: Network, as_user: SignIn) -> None:
    page = as_user(network.lakeside_officer).get("/portal/blocks").content.decode()
    assert "Lakeside" in page and "Northfield" not in page
    assert as_user(network.clinician).get("/portal/blocks").status_code in (403, 404)
