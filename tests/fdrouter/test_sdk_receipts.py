"""Receipts as the SDK checks them: real keys and signatures, and every way to lie about an answer."""

from __future__ import annotations

import copy
import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from fdrouter.sdk import ReceiptInvalid, Response, protocol
from fdrouter.sdk.protocol import Call, Question, Session
from federation import identity, receipts
from federation.identity import Identity

ANSWER = "Most had a headache."
ID = uuid.uuid4()


def node(folder: Path, name: str) -> Identity:
    if not (folder / "ca").exists():
        identity.create_ca(folder / "ca")
    identity.issue(folder / "ca", folder / name, name, server=True)
    return identity.load(folder / name)


def keys(folder: Path, name: str) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / name / "public.json").read_text())
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("identities")
    for name in ("northfield", "lakeside"):
        node(folder, name)
    return folder


def receipt(signer: Identity, **changes: Any) -> dict[str, Any]:
    body = {
        "message_id": str(ID),
        "request_digest": "ab" * 32,
        "mechanism": {"name": "token_decoding", "epsilon": 3.0, "delta": 1e-5},
        "answer_sha256": hashlib.sha256(ANSWER.encode()).hexdigest(),
        **changes,
    }
    return receipts.issue(signer, body)


def completion(signed: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    privacy = {
        "kind": "cohort.text",
        "epsilon": 3.0,
        "delta": 1e-5,
        "unit": "patient",
        "adjacency": "swap",
        "mechanism": "token_decoding",
        "remaining": {"user": 7.0, "department": 4.0, "block": 5.5},
        "receipt": signed,
        **changes,
    }
    return {
        "id": f"chatcmpl-{ID.hex}",
        "model": "m",
        "node": {"id": "northfield", "name": "Northfield General"},
        "choices": [{"message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"}],
        "usage": {"total_tokens": 5},
        "privacy": privacy,
    }


def check(
    document: dict[str, Any], roster: list[dict[str, Any]], session: Session | None = None, *, audit: bool = True
) -> tuple[Response, list[Call]]:
    """The response, with the calls that checking it needed."""
    steps = protocol.response_of(session or Session(), Question(prompt="?", audit_trail=audit), document, None)
    calls = []
    try:
        call = next(steps)
        while True:
            calls.append(call)
            call = steps.send(roster)
    except StopIteration as end:
        response: Response = end.value
        return response, calls


def roster(home: Path, **public: str) -> list[dict[str, Any]]:
    return [{"id": name, "public_keys": keys(home, source)} for name, source in public.items()]


def test_a_genuine_receipt_is_verified_with_the_nodes_keys(home: Path) -> None:
    document = completion(receipt(identity.load(home / "northfield")))
    session = Session()
    response, calls = check(document, roster(home, northfield="northfield"), session)
    assert response.receipt_verified
    assert (response.privacy_cost, response.remaining_budget, response.unit) == (3.0, 4.0, "patient")
    assert calls == [Call("GET", "/api/nodes")]
    _, calls = check(document, [], session)  # the keys are known now
    assert calls == []


def test_keys_that_the_caller_trusts_are_the_only_ones(home: Path) -> None:
    document = completion(receipt(identity.load(home / "northfield")))
    trusting = Session(trusted_keys={"northfield": keys(home, "northfield")})
    response, calls = check(document, [], trusting)
    assert (response.receipt_verified, calls) == (True, [])
    with pytest.raises(ReceiptInvalid) as refused:
        check(document, [], Session(trusted_keys={"northfield": keys(home, "lakeside")}))
    assert refused.value.response.text == ANSWER
    with pytest.raises(ReceiptInvalid):
        check(document, [], Session(trusted_keys={}))


def test_without_audit_trail_nothing_is_checked_and_nothing_claimed(home: Path) -> None:
    document = completion(receipt(identity.load(home / "lakeside")))
    response, calls = check(document, [], audit=False)
    assert (response.receipt_verified, calls) == (False, [])
    assert response.receipt is not None


def test_no_receipt_is_no_lie() -> None:
    response, calls = check(completion(None), [])
    assert (response.receipt, response.receipt_verified, calls) == (None, False, [])


def broken(signed: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(signed)
    *parents, last = path.split(".")
    at: Any = changed
    for name in parents:
        at = at[name]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("body.mechanism.epsilon", 1.0),
        ("body.mechanism", {}),
        ("body.node", "lakeside"),
        ("body.version", 2),
        ("body.message_id", str(uuid.uuid4())),
        ("body.answer_sha256", "00" * 32),
        ("digest", "00" * 32),
        ("signatures.ed25519", "AAAA"),
        ("signatures.mldsa65", "AAAA"),
        ("signatures.key_id", "0" * 16),
        ("signatures", {}),
        ("signatures", None),
        ("body", None),
        ("body", []),
        ("body", "text"),
    ],
)
def test_a_receipt_that_was_touched_is_refused(home: Path, path: str, value: Any) -> None:
    changed = broken(receipt(identity.load(home / "northfield")), path, value)
    with pytest.raises(ReceiptInvalid):
        check(completion(changed), roster(home, northfield="northfield"))


@pytest.mark.parametrize(
    "changes",
    [
        {"message_id": str(uuid.uuid4())},
        {"answer_sha256": hashlib.sha256(b"Nobody had a headache.").hexdigest()},
        {"mechanism": {"name": "token_decoding", "epsilon": 9.0, "delta": 1e-5}},
        {"mechanism": None},
    ],
    ids=str,
)
def test_a_genuine_receipt_of_something_else_is_refused(home: Path, changes: dict[str, Any]) -> None:
    signed = receipt(identity.load(home / "northfield"), **changes)
    with pytest.raises(ReceiptInvalid):
        check(completion(signed), roster(home, northfield="northfield"))


def test_another_nodes_signature_is_refused(home: Path) -> None:
    signed = receipt(identity.load(home / "lakeside"))
    with pytest.raises(ReceiptInvalid):
        check(completion(signed), roster(home, northfield="northfield", lakeside="lakeside"))
    with pytest.raises(ReceiptInvalid):
        check(completion(receipt(identity.load(home / "northfield"))), roster(home))


@pytest.mark.parametrize("document", [{}, [], {"choices": []}, {"choices": [{"message": {"content": "x"}}]}, "text"])
def test_an_answer_without_its_shape_is_an_error_and_no_crash(document: Any) -> None:
    with pytest.raises(Exception, match="could not be read"):
        check(document, [])
