"""The coordinator's side of a text of several hospitals, over mutual TLS, with nodes that are honest, leave or lie."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from pytest_django import Settings

from federation import across, identity, receipts, sealing, token_sums
from federation.across import Question
from federation.gateway import Answer, CallFailed, Gateway, NodeEndpoint
from federation.identity import PublicIdentity
from federation.network import Network
from privacy.dp import across_text
from privacy.dp.across_plans import plan_count_across
from privacy.dp.across_text import TextAcrossPlan, plan_text_across
from privacy.dp.decoding import UNITS
from tests.federation.keys import NODES, ring
from tests.federation.messages import payload
from tests.flows.faulty import Impostor, response

PLAN = plan_text_across(hospitals=3, epsilon=8.0, contexts=96, max_tokens=5)
NAMES = sorted(NODES)
DIGEST, SESSION, END = "ab" * 32, "cd" * 32, 2
WORDS = {11: " a", 12: " dry", 13: " cough", END: ""}
FULL = PLAN.slots * UNITS


@pytest.fixture(autouse=True)
def coordinator(settings: Settings) -> None:
    settings.IDENTITY_DIR = ring().folder("coordinator")
    settings.NODE_CONNECT_SECONDS, settings.NODE_READ_SECONDS = 5.0, 20.0


def event(kind: str, **values: Any) -> bytes:
    return response(json.dumps({"type": kind, **values}).encode() + b"\n")


def refusal(code: str, *, charged: bool) -> bytes:
    return event("error", code=code, charged=charged, broken=False, details={})


def written(tokens: list[int]) -> str:
    return "In our records," + "".join(WORDS[token] for token in tokens)


@dataclass
class Hospital:
    """A node whose patients all want the same sentence. ``faults`` replace what it says in a phase, once counted."""

    name: str
    wants: list[int] = field(default_factory=lambda: [11, 12, 13, END])
    faults: dict[str, Callable[[dict[str, Any]], bytes | None]] = field(default_factory=dict)
    heard: list[str] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    changes: dict[str, Any] = field(default_factory=dict)

    def reply(self, body: bytes) -> bytes:
        coordinator = identity.load_coordinator(ring().folder(self.name))
        message_id, message = sealing.unseal(ring().identity(self.name), coordinator, body)
        phase = message["across"]["phase"]
        self.heard.append(phase)
        self.asked.append(message["across"])
        if phase in self.faults and (told := self.faults[phase](message)) is not None:
            return told
        tokens = message["across"].get("tokens")
        if phase == "offer":
            return event("offer", session=SESSION, seeds={})
        if phase == "public":
            values = [-1.0 - 0.01 * place for place in range(len(WORDS))]
            return event("step", ids=list(WORDS), values=values, text=written(tokens), end=END)
        if phase == "sums":
            wanted = self.wants[len(tokens)] if len(tokens) < len(self.wants) else 11
            sums = [FULL if token == wanted else -FULL for token in message["across"]["candidates"]]
            return event("step", sums=sums)
        if phase == "abort":
            return refusal("cancelled", charged="sums" in self.heard)
        return self.finish(message_id, message)

    def finish(self, message_id: str, message: dict[str, Any]) -> bytes:
        tokens = message["across"]["tokens"]
        told = {"session": SESSION, "text": written(tokens), "tokens": tokens} | self.changes
        text = sealing.canonical(told).decode()
        asked = message["parameters"]
        body = {
            "message_id": message_id,
            "request_digest": message["request_digest"],
            "hospital": self.name,
            "kind": message["kind"],
            "mechanism": {
                **{name: asked[name] for name in ("unit", "adjacency", "epsilon", "delta")},
                "name": asked["mechanism"],
            },
            "tokens": len(tokens),
            "answer_sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
        receipt = receipts.issue(ring().identity(self.name), body)
        ends = "stop" if tokens[-1] == END else "length"
        return event(
            "answer", text=text, finish_reason=ends, prompt_tokens=9, completion_tokens=len(tokens), receipt=receipt
        )


@dataclass
class Three:
    """The hospitals, listening, and the coordinator that asks them."""

    hospitals: dict[str, Hospital]
    nodes: dict[str, NodeEndpoint]
    progress: list[str] = field(default_factory=list)
    deltas: list[str] = field(default_factory=list)

    def question(self, plan: TextAcrossPlan = PLAN, hospitals: list[str] | None = None) -> Question:
        body = payload(parameters=json.loads(json.dumps(plan.to_event())))
        return Question(uuid.uuid4(), "cohort.text", "m", hospitals or NAMES, DIGEST, body)

    def ask(self, question: Question | None = None) -> Answer:
        async def run() -> Answer:
            gateway, network = Gateway(), Network()
            network._nodes = self.nodes
            try:
                asked = question or self.question()
                return await token_sums.answer(gateway, network, asked, self.progress.append, self.deltas.append)
            finally:
                await gateway.close()

        return async_to_sync(run)()

    def fail(self) -> CallFailed:
        with pytest.raises(CallFailed) as failed:
            self.ask()
        return failed.value


def public(name: str) -> PublicIdentity:
    return ring().identity(name).public


KEYS = {name: public(name) for name in NAMES}


@pytest.fixture
def three() -> Iterator[Three]:
    hospitals = {name: Hospital(name) for name in NAMES}
    found, listening = {}, []
    for name, hospital in hospitals.items():
        folder = ring().folder(name)
        listening.append(Impostor(folder, ring().folder("ca") / "ca.pem", hospital.reply))
        certificate = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())
        fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
        url, models = listening[-1].url, frozenset({"m"})
        found[name] = NodeEndpoint(
            name, name.title(), name, url, "sealed", models, public(name), certificate_sha256=fingerprint
        )
    yield Three(hospitals, found)
    for one in listening:
        one.close()


# --- the answer -------------------------------------------------------------------------------------------------------
def test_the_text_is_what_all_patients_want_with_all_receipts_and_who_is_trusted(three: Three) -> None:
    answer = three.ask()
    assert answer.text.startswith("In our records, a dry cough\n\nWritten from records of 3 hospitals together: Hill")
    assert "Hillcrest, Lakeside, Northfield. The network's coordinator is trusted" in answer.text
    assert (answer.finish_reason, answer.completion_tokens, answer.repeated) == ("stop", 4, False)
    assert "".join(three.deltas) == answer.text and three.deltas[0] == "In our records,"
    receipt = answer.receipt or {}
    body = receipt["body"]
    assert (body["tokens"], body["hospitals"], body["left"]) == (4, NAMES, {})
    assert body["mechanism"]["name"] == "text_across" and "coordinator" in body["mechanism"]["parameters"]["trusted"]
    assert receipts.covers(receipt, public("coordinator"), message_id=body["message_id"], answer=answer.text)
    assert receipts.proves_text(receipt, KEYS, answer=answer.text)


def test_one_hospital_says_what_is_public_and_each_is_asked_once_a_token(three: Three) -> None:
    three.ask()
    assert three.hospitals["hillcrest"].heard == ["offer", *["public", "sums"] * 4, "finish"]
    assert three.hospitals["lakeside"].heard == ["offer", *["sums"] * 4, "finish"]
    asked = [a for a in three.hospitals["lakeside"].asked if a["phase"] == "sums"]
    assert [len(a["tokens"]) for a in asked] == [0, 1, 2, 3]
    assert all(a["candidates"] == list(WORDS) and len(a["roster"]) == 3 for a in asked)


def test_the_sums_are_nowhere_in_what_leaves_the_coordinator(three: Three) -> None:
    answer = three.ask()
    assert str(FULL) not in json.dumps(answer.receipt) + answer.text + "".join(three.progress)


def test_the_length_ends_it_where_nothing_else_does(three: Three) -> None:
    for hospital in three.hospitals.values():
        hospital.wants = [11] * 9
    answer = three.ask()
    assert (answer.finish_reason, answer.completion_tokens) == ("length", 5)
    assert three.hospitals["lakeside"].heard.count("sums") == 5


def test_a_character_is_told_when_it_is_whole(three: Three) -> None:
    def half(message: dict[str, Any]) -> bytes | None:
        tokens = message["across"]["tokens"]
        if len(tokens) != 1:
            return None
        return event("step", ids=list(WORDS), values=[-1.0] * 4, text="In our records,\ufffd", end=END)

    three.hospitals["hillcrest"].faults = {"public": half}
    answer = three.ask()
    assert "".join(three.deltas) == answer.text and not any("\ufffd" in part for part in three.deltas)


def test_a_hospital_that_wants_something_else_is_outvoted(three: Three) -> None:
    three.hospitals["lakeside"].wants = [13, 13, 13, 13, 13]
    assert three.ask().text.startswith("In our records, a dry cough\n")


# --- receipts ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "case", ["answer", "token", "text", "receipt", "swapped", "left out", "twice", "other node", "count", "session"]
)
def test_a_receipt_that_was_touched_proves_no_text(three: Three, case: str) -> None:
    answer = three.ask()
    receipt, keys, text = json.loads(json.dumps(answer.receipt)), dict(KEYS), answer.text
    told = json.loads(receipt["shares"][0])
    changes = {"token": {"tokens": [11, 12, 12, END]}, "text": {"text": "In our records,"}, "session": {"session": "x"}}
    if case in changes:
        receipt["shares"] = [sealing.canonical(told | changes[case]).decode()] * 3
    elif case == "answer":
        text = text.replace("dry", "wet")
    elif case == "receipt":
        receipt["receipts"][0]["body"]["tokens"] = 5
    elif case == "swapped":
        receipt["receipts"].reverse()
    elif case == "left out":
        receipt["shares"].pop()
    elif case == "twice":
        receipt["receipts"][1] = receipt["receipts"][0]
        receipt["body"]["receipts"][1] = receipt["body"]["receipts"][0]
    elif case == "count":
        receipt["body"]["tokens"] = 3
    else:
        keys["lakeside"] = public("strange-node")
    assert not receipts.proves_text(receipt, keys, answer=text)


@pytest.mark.parametrize("changes", [{"tokens": [11, 12, 12, END]}, {"text": "In our records, a"}, {"session": "x"}])
def test_hospitals_that_signed_for_different_texts_prove_none(three: Three, changes: dict[str, Any]) -> None:
    """Each signature is good, and the receipt over them is the coordinator's own."""
    answer = three.ask()
    receipt = json.loads(json.dumps(answer.receipt))
    share = sealing.canonical(json.loads(receipt["shares"][2]) | changes).decode()
    body = receipt["receipts"][2]["body"] | {"answer_sha256": hashlib.sha256(share.encode()).hexdigest()}
    receipt["shares"][2], receipt["receipts"][2] = share, receipts.issue(ring().identity("northfield"), body)
    receipt["body"]["receipts"][2] = receipt["receipts"][2]["digest"]
    assert receipts.covers(receipt["receipts"][2], KEYS["northfield"], message_id=body["message_id"], answer=share)
    assert not receipts.proves_text(receipt, KEYS, answer=answer.text)


@pytest.mark.parametrize("garbage", [{}, {"body": None}, {"body": {}, "receipts": [], "shares": []}])
def test_what_is_no_receipt_proves_no_text(garbage: dict[str, Any]) -> None:
    assert not receipts.proves_text(garbage, KEYS, answer="")


def test_the_same_text_is_said_again_for_nothing(three: Three) -> None:
    answer, again, row = three.ask(), three.question(), uuid.uuid4()
    told = across.repeated(again, row, answer.text, answer.receipt or {})
    assert told is not None and told.repeated and (told.text, told.completion_tokens) == (answer.text, 4)
    assert receipts.proves_text(told.receipt or {}, KEYS, answer=answer.text)


# --- who does not take part -------------------------------------------------------------------------------------------
def test_a_hospital_that_refuses_ends_it_before_anybody_is_charged(three: Three) -> None:
    three.hospitals["lakeside"].faults = {
        "offer": lambda _: refusal("block_exhausted", charged=False),
        "abort": lambda _: refusal("conflict", charged=False),
    }
    error = three.fail()
    assert (error.code, error.sent, error.details["charged_at"]) == ("block_exhausted", False, [])
    assert three.hospitals["hillcrest"].heard == ["offer", "abort"]


def test_offers_for_different_sessions_are_no_agreement(three: Three) -> None:
    three.hospitals["northfield"].faults = {"offer": lambda _: event("offer", session="0" * 64, seeds={})}
    error = three.fail()
    assert error.code == "node_failed" and not error.sent
    assert three.hospitals["hillcrest"].heard == ["offer", "abort"]


def test_a_plan_for_something_else_asks_nobody(three: Three) -> None:
    body = payload("cohort.count", parameters=json.loads(json.dumps(plan_count_across(hospitals=3).to_event())))
    with pytest.raises(CallFailed) as failed:
        three.ask(Question(uuid.uuid4(), "cohort.count", "m", NAMES, DIGEST, body))
    assert not failed.value.sent and not any(hospital.heard for hospital in three.hospitals.values())


# --- who leaves -------------------------------------------------------------------------------------------------------
NONSENSE: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "refuses": lambda _: refusal("node_failed", charged=True),
    "500": lambda _: b"HTTP/1.1 500 no\r\ncontent-length: 0\r\n\r\n",
    "cut": lambda _: b"",
    "too many": lambda _: event("step", sums=[0] * 5),
    "too large": lambda _: event("step", sums=[FULL + 1, 0, 0, 0]),
    "floats": lambda _: event("step", sums=[0.5, 0, 0, 0]),
    "nothing": lambda _: event("step"),
    "an answer": lambda _: event("answer", text="", receipt=None),
    "an offer": lambda _: event("offer", session=SESSION, seeds={}),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_a_hospital_that_fails_in_the_middle_has_left_and_the_others_go_on(three: Three, case: str) -> None:
    three.hospitals["lakeside"].faults = {
        "sums": lambda message: NONSENSE[case](message) if len(message["across"]["tokens"]) == 2 else None
    }
    answer = three.ask()
    assert answer.text.startswith(
        "In our records, a dry cough\n\nWritten from records of 2 hospitals together: Hillcrest"
    )
    assert "Lakeside had a part in the first 2 of 4 tokens and has signed nothing." in answer.text
    body = (answer.receipt or {})["body"]
    assert (body["hospitals"], body["left"]) == (["hillcrest", "northfield"], {"lakeside": 2})
    assert receipts.proves_text(answer.receipt or {}, KEYS, answer=answer.text)
    heard = three.hospitals["lakeside"].heard
    assert heard.count("sums") == 3 and "finish" not in heard
    parameters = body["mechanism"]["parameters"]
    assert (parameters["contexts"], parameters["hospitals"]) == (96, 3), "B stays what it was"


def test_without_a_hospital_the_others_are_heard_no_louder(three: Three) -> None:
    """Two thirds of the slots for a word, one third gone: the draw is that of two thirds of the sum, by the same B."""
    drawn: list[list[list[int]]] = []
    usual = across_text.draw

    def watched(plan: TextAcrossPlan, ids: Any, values: Any, sums: list[list[int]]) -> int:
        assert plan == PLAN
        drawn.append(sums)
        return usual(plan, ids, values, sums)

    three.hospitals["lakeside"].faults = {"sums": lambda _: refusal("node_failed", charged=True)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(across_text, "draw", watched)
        three.ask()
    assert all(len(sums) == 2 and sums[0] == sums[1] for sums in drawn) and len(drawn) == 4


PUBLIC: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "refuses": lambda _: refusal("node_failed", charged=True),
    "not a number": lambda _: event("step", ids=[1, 2], values=[-1.0, math.nan], text="", end=END),
    "twice": lambda _: event("step", ids=[1, 1], values=[-1.0, -1.0], text="", end=END),
    "none": lambda _: event("step", ids=[], values=[], text="", end=END),
    "no text": lambda _: event("step", ids=[1], values=[-1.0], text=None, end=END),
    "no end": lambda _: event("step", ids=[1], values=[-1.0], text=""),
}


@pytest.mark.parametrize("case", PUBLIC)
def test_the_next_hospital_reads_the_question_where_the_first_fails(three: Three, case: str) -> None:
    three.hospitals["hillcrest"].faults = {"public": PUBLIC[case]}
    answer = three.ask()
    assert answer.text.startswith("In our records, a dry cough\n")
    assert (answer.receipt or {})["body"]["left"] == {"hillcrest": 0}
    assert three.hospitals["lakeside"].heard[:3] == ["offer", "public", "sums"]
    assert "sums" not in three.hospitals["hillcrest"].heard


def test_one_alone_writes_nothing_more_and_who_pays_is_told(three: Three) -> None:
    for name in ("lakeside", "northfield"):
        three.hospitals[name].faults = {
            "sums": lambda m: refusal("node_failed", charged=True) if len(m["across"]["tokens"]) == 1 else None
        }
    error = three.fail()
    assert error.sent and error.details["charged_at"] == NAMES
    assert "Charged all the same: Hillcrest, Lakeside, Northfield." in error.details["why"]
    assert three.hospitals["hillcrest"].heard.count("sums") == 2 and "abort" in three.hospitals["hillcrest"].heard


def test_nobody_is_charged_who_says_so(three: Three) -> None:
    for hospital in three.hospitals.values():
        hospital.faults = {
            "public": lambda _: refusal("engine_unreachable", charged=False),
            "abort": lambda _: refusal("cancelled", charged=False),
        }
    error = three.fail()
    assert not error.sent and error.details["charged_at"] == []


def test_a_hospital_that_cannot_be_asked_any_more_counts_as_charged(three: Three) -> None:
    def vanish(message: dict[str, Any]) -> bytes:
        three.nodes["lakeside"].url = "https://localhost:1"
        return b""

    three.hospitals["lakeside"].faults = {"sums": vanish}
    three.hospitals["northfield"].faults = {"sums": lambda _: refusal("node_failed", charged=True)}
    assert three.fail().details["charged_at"] == NAMES


@pytest.mark.parametrize("changes", [{"tokens": [11]}, {"text": "Other"}, {"session": "0" * 64}])
def test_hospitals_that_signed_for_different_texts_are_no_answer(three: Three, changes: dict[str, Any]) -> None:
    three.hospitals["northfield"].changes = changes
    error = three.fail()
    assert (error.code, error.sent, error.details["charged_at"]) == ("node_failed", True, NAMES)


def test_one_that_fails_at_the_end_has_had_its_part_and_signs_nothing(three: Three) -> None:
    three.hospitals["northfield"].faults = {"finish": lambda _: refusal("node_failed", charged=True)}
    answer = three.ask()
    assert (answer.receipt or {})["body"]["left"] == {"northfield": 4}
    assert "Northfield had a part in the first 4 of 4 tokens" in answer.text
