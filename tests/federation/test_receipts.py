"""Receipts: the node's, for this request, for this answer, unchanged."""

from __future__ import annotations

import copy
import hashlib
import json
from typing import Any

import pytest

from federation import receipts, sealing
from tests.federation.keys import ring

ID, DIGEST, ANSWER = "6f1f0c52-1f5e-4a8e-9a53-1e4dbf6e3b50", "ab" * 32, "It depends. ü"
BODY = {
    "message_id": ID,
    "request_digest": DIGEST,
    "kind": "cohort.text",
    "mechanism": {"name": "token_decoding", "epsilon": 3.0, "rho_spent": 0.1},
    "tokens": 12,
    "answer_sha256": hashlib.sha256(ANSWER.encode()).hexdigest(),
}


@pytest.fixture
def receipt() -> dict[str, Any]:
    return receipts.issue(ring().identity("northfield"), BODY)


def is_valid(receipt: Any, node: str = "northfield", message_id: str = ID, digest: str = DIGEST) -> bool:
    return receipts.is_valid(receipt, ring().identity(node).public, message_id=message_id, request_digest=digest)


def covers(receipt: Any, node: str = "northfield", message_id: str = ID, answer: str = ANSWER) -> bool:
    return receipts.covers(receipt, ring().identity(node).public, message_id=message_id, answer=answer)


def test_a_receipt_is_valid_also_after_a_trip_through_json(receipt: dict[str, Any]) -> None:
    stored = json.loads(json.dumps(receipt))
    assert is_valid(stored) and covers(stored)
    assert stored["body"]["node"] == "northfield"


def test_a_receipt_for_another_request_is_refused(receipt: dict[str, Any]) -> None:
    assert not is_valid(receipt, message_id="another")
    assert not is_valid(receipt, digest="cd" * 32)
    assert not covers(receipt, message_id="another")


def test_a_receipt_for_another_answer_is_refused(receipt: dict[str, Any]) -> None:
    assert not covers(receipt, answer=ANSWER + ".")
    assert not covers(receipt, answer="")


def test_another_nodes_receipt_is_refused(receipt: dict[str, Any]) -> None:
    assert not is_valid(receipt, node="lakeside") and not covers(receipt, node="lakeside")
    forged = receipts.issue(ring().identity("lakeside"), {**BODY, "node": "northfield"})
    assert forged["body"]["node"] == "northfield"
    assert not is_valid(forged)


def paths(value: Any, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, dict):
        return [at]
    return [path for name, inner in value.items() for path in paths(inner, (*at, name))]


@pytest.mark.parametrize("path", paths(receipts.issue(ring().identity("northfield"), BODY)), ids=".".join)
@pytest.mark.parametrize("change", ["other", "missing"])
def test_no_field_can_be_changed_or_taken_away(path: tuple[str, ...], change: str, receipt: dict[str, Any]) -> None:
    changed = copy.deepcopy(receipt)
    inner = changed
    for name in path[:-1]:
        inner = inner[name]
    if change == "missing":
        del inner[path[-1]]
    else:
        value = inner[path[-1]]
        inner[path[-1]] = (
            value + 1 if isinstance(value, int | float) else value[:-1] + ("A" if value[-1] != "A" else "B")
        )
    if path[0] == "body":
        changed["digest"] = hashlib.sha256(sealing.canonical(changed["body"])).hexdigest()
    assert not is_valid(changed)
    assert not covers(changed)


def test_nothing_can_be_added(receipt: dict[str, Any]) -> None:
    receipt["body"]["epsilon"] = 0
    assert not is_valid(receipt)


@pytest.mark.parametrize("scheme", ["ed25519", "mldsa65"])
def test_one_good_signature_of_two_is_not_enough(scheme: str, receipt: dict[str, Any]) -> None:
    other = receipts.issue(ring().identity("northfield"), {**BODY, "tokens": 13})
    receipt["signatures"][scheme] = other["signatures"][scheme]
    assert not is_valid(receipt)


@pytest.mark.parametrize("garbage", [None, 7, "text", [], {}, {"body": None}, {"body": []}, {"body": {"version": 1}}])
def test_garbage_is_no_receipt(garbage: Any) -> None:
    assert not is_valid(garbage)
    assert not covers(garbage)


def test_a_body_that_json_cannot_hold_is_no_receipt(receipt: dict[str, Any]) -> None:
    for value in (float("nan"), "\ud800"):
        receipt["body"]["tokens"] = value
        assert not is_valid(receipt)
