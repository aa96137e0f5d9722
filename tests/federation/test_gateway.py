"""What a node or engine may answer: anything that could not be stored, or is not what was asked for, is a failure."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from federation import gateway
from federation.gateway import Call

PARAMETERS = {
    "epsilon": 3.0,
    "delta": 1e-5,
    "adjacency": "swap",
    "unit": "patient",
    "mechanism": "token_decoding",
}
MECHANISM = {**{k: v for k, v in PARAMETERS.items() if k != "mechanism"}, "name": "token_decoding"}


@pytest.mark.parametrize(
    ("text", "finish", "usage"),
    [
        (None, "stop", {}),
        (["a"], "stop", {}),
        ("a", None, {}),
        ("\ud800", "stop", {}),
        ("a", "stop", {"prompt_tokens": 2**31}),
        ("a", "stop", {"completion_tokens": -1}),
        ("a", "stop", {"completion_tokens": "many"}),
    ],
)
def test_what_cannot_be_stored_is_no_answer(text: Any, finish: Any, usage: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        gateway._answer(text, finish, usage)


def test_an_answer_keeps_what_fits() -> None:
    answer = gateway._answer("yes", "s" * 99, {"prompt_tokens": 1, "completion_tokens": None})
    assert (answer.text, len(answer.finish_reason), answer.prompt_tokens, answer.completion_tokens) == ("yes", 24, 1, 0)


def _body(**changes: Any) -> dict[str, Any]:
    digest = hashlib.sha256(b"yes").hexdigest()
    return {"kind": "cohort.text", "answer_sha256": digest, "mechanism": MECHANISM} | changes


def _call(kind: str = "cohort.text") -> Call:
    return Call("id", kind, "model", False, "00", {"parameters": PARAMETERS})


def test_a_receipt_speaks_of_its_answer() -> None:
    assert gateway._speaks_of(_body(), "yes", _call())
    assert gateway._speaks_of(_body(kind="general", mechanism=None), "yes", _call("general"))


@pytest.mark.parametrize(
    "changes",
    [
        {"answer_sha256": hashlib.sha256(b"no").hexdigest()},
        {"kind": "general"},
        {"mechanism": MECHANISM | {"epsilon": 1.0}},
        {"mechanism": MECHANISM | {"adjacency": "add_remove"}},
        {"mechanism": MECHANISM | {"name": "none"}},
    ],
)
def test_a_receipt_of_something_else_is_refused(changes: dict[str, Any]) -> None:
    assert not gateway._speaks_of(_body(**changes), "yes", _call())


def test_a_general_answer_claims_no_mechanism() -> None:
    assert not gateway._speaks_of(_body(kind="general"), "yes", _call("general"))
