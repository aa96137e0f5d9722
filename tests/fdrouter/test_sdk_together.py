"""Receipts over several hospitals as the SDK checks them: router's and nodes' signatures, and what they add up to."""

from __future__ import annotations

import copy
import hashlib
import json
import uuid
from typing import Any

import pytest

from fdrouter.sdk import ReceiptInvalid, Response, protocol
from fdrouter.sdk.protocol import Call, Question, Session
from federation import receipts
from federation.secagg import masks, session
from tests.federation.keys import NODES, ring

NAMES = sorted(NODES)
ID, DIGEST = uuid.uuid4(), "ab" * 32
VALUES = (41, 60, 79)
COUNT = "About 180 records match. The noise leaves 169 to 191, in 95 of 100 cases."
TEXT = " a dry cough"
CLAIM = {"unit": "patient", "adjacency": "swap", "epsilon": 1.0, "delta": 1e-5}


def public(name: str) -> dict[str, str]:
    found: dict[str, str] = json.loads((ring().folder(name) / "public.json").read_text())
    return found


KEYS = {name: public(name) for name in NAMES}
ROUTER = public("coordinator")


def part(name: str, share: str, **changes: Any) -> tuple[dict[str, Any], str]:
    """One node's receipt with what it covers."""
    body = {
        "message_id": str(ID),
        "request_digest": DIGEST,
        "hospital": name,
        "mechanism": {**CLAIM, "name": "count_across"},
        "tokens": 0,
        "answer_sha256": hashlib.sha256(share.encode()).hexdigest(),
    }
    return receipts.issue(ring().identity(name), body | changes), share


def summed(**changes: Any) -> dict[str, Any]:
    """The router's receipt over a count; ``changes`` are what it says otherwise, and signs."""
    members = [(name, KEYS[name]["key_id"]) for name in NAMES]
    of = session.make(str(ID), members, "cd" * 32, 1)
    seeds = {(giver, to): seed for giver in NAMES for to, seed in masks.fresh_seeds(of, giver).items()}
    parts = []
    for name, value in zip(NAMES, VALUES, strict=True):
        given = {to: seed for (giver, to), seed in seeds.items() if giver == name}
        got = {giver: seed for (giver, to), seed in seeds.items() if to == name}
        words = masks.share(of, name, [value], given, got)
        told = {"session": of.digest, "share": masks.to_text(words), "words": ["velorapine"]}
        parts.append(part(name, json.dumps(told)))
    mechanism = {**CLAIM, "name": "count_across", "parameters": {"hospitals": 3}}
    body = {"hospitals": NAMES, "numbers": [sum(VALUES)], "mechanism": mechanism}
    return together(body | changes, COUNT, parts)


def written(said: tuple[str, ...] = tuple(NAMES), left: dict[str, int] | None = None) -> dict[str, Any]:
    """The router's receipt over a text that these hospitals signed for."""
    share = json.dumps({"session": "cd" * 32, "text": TEXT, "tokens": [1, 2, 3]})
    mechanism = {**CLAIM, "name": "text_across"}
    parts = [part(name, share, mechanism=mechanism, tokens=3) for name in said]
    body = {"hospitals": list(said), "left": left or {}, "tokens": 3}
    return together(body | {"mechanism": {**mechanism, "parameters": {"hospitals": 3}}}, TEXT, parts)


def together(body: dict[str, Any], answer: str, parts: list[tuple[dict[str, Any], str]]) -> dict[str, Any]:
    stated = {"message_id": str(ID), "request_digest": DIGEST, **body}
    return receipts.issue_together(ring().identity("coordinator"), stated, answer, parts)


def completion(receipt: dict[str, Any], answer: str = COUNT, **changes: Any) -> dict[str, Any]:
    privacy = {
        "kind": "cohort.count",
        "epsilon": 1.0,
        "delta": 1e-5,
        "unit": "patient",
        "adjacency": "swap",
        "mechanism": "count_across",
        "hospitals": NAMES,
        "remaining": {"user": 7.0, "department": 4.0, "block": None},
        "receipt": receipt,
        **changes,
    }
    return {
        "id": f"chatcmpl-{ID.hex}",
        "model": "m",
        "node": None,
        "choices": [{"message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}],
        "privacy": privacy,
    }


def check(document: dict[str, Any], known: Session | None = None, **router: Any) -> tuple[Response, list[Call]]:
    """The response, with the calls that checking it needed; ``router`` says what its documents are."""
    documents = {
        "/api/nodes": [{"id": name, "public_keys": keys} for name, keys in router.get("keys", KEYS).items()],
        "/api/router": {"public_keys": router.get("router", ROUTER)},
    }
    steps = protocol.response_of(known or Session(), Question(prompt="?"), document, None)
    calls: list[Call] = []
    try:
        call = next(steps)
        while True:
            calls.append(call)
            call = steps.send(documents[call.path])
    except StopIteration as end:
        response: Response = end.value
        return response, calls


def refused(document: dict[str, Any], known: Session | None = None, **router: Any) -> None:
    with pytest.raises(ReceiptInvalid):
        check(document, known, **router)


def test_a_sum_is_proven_by_all_nodes_and_the_router() -> None:
    session = Session()
    response, calls = check(completion(summed()), session)
    assert response.receipt_verified and response.node is None and response.hospitals == tuple(NAMES)
    assert calls == [Call("GET", "/api/nodes"), Call("GET", "/api/router")]
    assert check(completion(summed()), session)[1] == [], "the keys are known now"


def test_a_text_is_proven_also_where_a_hospital_has_left_and_says_so() -> None:
    assert check(completion(written(), TEXT))[0].receipt_verified
    stayed = tuple(NAMES[:2])
    assert check(completion(written(stayed, {NAMES[2]: 2}), TEXT, hospitals=list(stayed)))[0].receipt_verified
    refused(completion(written(stayed), TEXT))
    refused(completion(written(), " a rash"))


def test_a_sum_told_again_costs_nothing_and_is_still_proven() -> None:
    mechanism = {**CLAIM, "name": "count_across", "parameters": {"hospitals": 3}, "repeat_of": str(uuid.uuid4())}
    again = summed(mechanism=mechanism)
    assert check(completion(again, epsilon=0.0))[0].receipt_verified
    refused(completion(again, epsilon=1.0))


@pytest.mark.parametrize(
    "changes",
    [
        {"numbers": [181]},
        {"hospitals": NAMES[:2]},
        {"hospitals": [*NAMES, "elm"]},
        {"request_digest": "cd" * 32},
        {"mechanism": {**CLAIM, "epsilon": 0.5, "name": "count_across", "parameters": {"hospitals": 3}}},
        {"mechanism": {**CLAIM, "name": "count_across", "parameters": {"hospitals": 4}}},
        {"mechanism": {**CLAIM, "name": "choice_across", "parameters": {"hospitals": 3}}},
    ],
    ids=str,
)
def test_a_router_that_signs_something_else_than_the_nodes_is_found_out(changes: dict[str, Any]) -> None:
    epsilon = changes.get("mechanism", CLAIM)["epsilon"]
    refused(completion(summed(**changes), epsilon=epsilon))


def test_a_router_that_says_another_number_than_it_signed_for_is_found_out() -> None:
    """The words are the router's own, and signed; the numbers in them must still be those of the shares."""
    receipt, said = summed(), COUNT.replace("180", "280")
    parts = list(zip(receipt["receipts"], receipt["shares"], strict=True))
    refused(completion(together(receipt["body"], said, parts), said))


@pytest.mark.parametrize("case", ["share", "receipt", "left out", "number", "signature", "answer", "order", "none"])
def test_what_was_touched_on_the_way_is_refused(case: str) -> None:
    receipt, answer = copy.deepcopy(summed()), COUNT
    if case == "share":
        told = json.loads(receipt["shares"][0])
        receipt["shares"][0] = json.dumps(told | {"share": json.loads(receipt["shares"][1])["share"]})
    elif case == "receipt":
        receipt["receipts"][0]["body"]["mechanism"]["epsilon"] = 0.1
    elif case == "left out":
        receipt["receipts"].pop()
        receipt["shares"].pop()
    elif case == "number":
        receipt["body"]["numbers"] = [181]
    elif case == "signature":
        receipt["signatures"]["mldsa65"] = "AAAA"
    elif case == "answer":
        answer = COUNT.replace("180", "181")
    elif case == "order":
        receipt["shares"].reverse()
    else:
        receipt["receipts"], receipt["shares"] = [], []
    refused(completion(receipt, answer))


def test_another_key_proves_nothing() -> None:
    refused(completion(summed()), router=public("stranger"))
    refused(completion(summed()), router=KEYS[NAMES[0]])
    refused(completion(summed()), keys={name: KEYS[name] for name in NAMES[:2]})
    refused(completion(summed()), keys={**KEYS, NAMES[0]: public("strange-node")})


def test_keys_that_the_caller_trusts_are_the_only_ones() -> None:
    trusting = Session(trusted_keys=KEYS, trusted_router=ROUTER)
    response, calls = check(completion(summed()), trusting)
    assert (response.receipt_verified, calls) == (True, [])
    refused(completion(summed()), Session(trusted_keys=KEYS))
    refused(completion(summed()), Session(trusted_router=ROUTER))


@pytest.mark.parametrize("field", ["receipts", "body"])
@pytest.mark.parametrize("garbage", [None, 7, "text", [], {}, [None]])
def test_garbage_is_refused_and_no_crash(field: str, garbage: Any) -> None:
    refused(completion({**summed(), field: garbage}))
