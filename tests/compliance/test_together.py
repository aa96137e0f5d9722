"""An answer of several hospitals counts at each of them, and their officers see it."""

from __future__ import annotations

import pytest

from accounts import principals
from compliance import blocks, budgets, period, selectors
from compliance.selectors import RequestFilter
from federation.models import Inference
from tests.compliance.network import Network, ask

EPSILON, NANO = 1.25, 200_000_000


@pytest.fixture
def together(network: Network) -> Inference:
    """The clinician of Northfield asked; Northfield and Lakeside are among those that answered."""
    row = ask(network.clinician, epsilon=EPSILON)
    mechanism = {"name": "count_across", "epsilon": EPSILON}
    names = ["elsewhere", "lakeside", "northfield"]
    signed = [
        {"body": {"node": n, "hospital": n, "mechanism": {**mechanism, "blocks": {f"block:{n}:1": NANO}}}}
        for n in names
    ]
    body = {"mechanism": mechanism, "hospitals": names, "block": None}
    row.node, row.receipt = None, {"body": body, "digest": "ab" * 32, "receipts": signed}
    row.save()
    return row


def figures(network: Network) -> dict[str, tuple[int, int]]:
    today = period.today()
    rows = budgets.by_hospital(network.principal, today, budgets.departments(network.principal, today))
    return {row.code: (row.receipts, row.receipts_epsilon) for row in rows}


def test_each_hospitals_receipt_counts_at_that_hospital(network: Network, together: Inference) -> None:
    before = {"northfield": (1, 1_500_000), "lakeside": (2, 5_250_000)}
    assert figures(network) == {code: (n + 1, micro + 1_250_000) for code, (n, micro) in before.items()}


def test_a_repeat_counts_nowhere(network: Network, together: Inference) -> None:
    assert together.receipt is not None
    together.receipt["body"]["mechanism"]["repeat_of"] = "x"
    together.save()
    assert figures(network) == {"northfield": (1, 1_500_000), "lakeside": (2, 5_250_000)}


def test_it_is_part_of_a_blocks_pace(network: Network, together: Inference) -> None:
    pace = blocks._pace()
    assert pace.nano["lakeside", "block:lakeside:1"] == NANO and pace.answers["lakeside", "block:lakeside:1"] == 1
    assert not any(node is None for node, _ in pace.answers)


def test_the_officer_of_a_hospital_that_took_part_sees_the_request(network: Network, together: Inference) -> None:
    officer = principals.for_user(network.lakeside_officer.pk)
    seen = selectors.requests(officer, RequestFilter()).values_list("pk", flat=True)
    assert together.pk in set(seen)
    assert together.receipt is not None
    together.receipt["body"]["hospitals"] = ["elsewhere", "northfield"]
    together.save()
    assert together.pk not in set(selectors.requests(officer, RequestFilter()).values_list("pk", flat=True))
