"""The coordinator's side of a sum, with three nodes over mutual TLS that may be honest, drop out or lie."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from pytest_django import Settings

from federation import across, across_text, identity, receipts, sealing
from federation.across import Question
from federation.gateway import Answer, CallFailed, Gateway, NodeEndpoint
from federation.identity import PublicIdentity
from federation.network import Network
from federation.secagg import masks, session
from privacy.dp.across_plans import AcrossPlan, plan_choice_across, plan_count_across
from tests.federation.keys import NODES, ring
from tests.federation.messages import payload
from tests.flows.faulty import Impostor, response

COUNT = plan_count_across(hospitals=3, epsilon=1.0)
CHOICE = plan_choice_across(options=3, hospitals=3, epsilon=1.0)
OPTIONS = ["dry cough", "rash", "nausea"]
NAMES = sorted(NODES)
DIGEST = "ab" * 32


@pytest.fixture(autouse=True)
def coordinator(settings: Settings) -> None:
    settings.IDENTITY_DIR = ring().folder("coordinator")
    settings.NODE_CONNECT_SECONDS, settings.NODE_READ_SECONDS = 5.0, 20.0


def event(kind: str, **values: Any) -> bytes:
    return response(json.dumps({"type": kind, **values}).encode() + b"\n")


def refusal(code: str, *, charged: bool, **details: Any) -> bytes:
    return event("error", code=code, charged=charged, broken=False, details=details)


@dataclass
class Hospital:
    """A node that plays the protocol over its numbers. ``faults`` replace what it says in a phase."""

    name: str
    values: list[int]
    faults: dict[str, Callable[[dict[str, Any]], bytes]] = field(default_factory=dict)
    heard: list[str] = field(default_factory=list)
    given: dict[str, bytes] = field(default_factory=dict)
    words: list[str] = field(default_factory=lambda: ["velorapine"])
    changes: dict[str, Any] = field(default_factory=dict)

    def reply(self, body: bytes) -> bytes:
        envelope = body
        me = ring().identity(self.name)
        message_id, message = sealing.unseal(me, identity.load_coordinator(ring().folder(self.name)), envelope)
        phase = message["across"]["phase"]
        self.heard.append(phase)
        if phase in self.faults:
            return self.faults[phase](message)
        if phase == "abort":
            return refusal("cancelled", charged="sum" in self.heard and "sum" not in self.faults)
        of = session.make(message_id, message["across"]["roster"], "cd" * 32, len(self.values))
        return self.offer(of) if phase == "offer" else self.share(of, message)

    def offer(self, of: session.Session) -> bytes:
        self.given = masks.fresh_seeds(of, self.name)
        seeds = {
            to: sealing.seal(
                ring().identity(self.name),
                ring().identity(to).public,
                f"across/{of.digest}",
                {"seed": base64.b64encode(seed).decode()},
            ).decode()
            for to, seed in self.given.items()
        }
        return event("offer", session=of.digest, seeds=seeds)

    def share(self, of: session.Session, message: dict[str, Any]) -> bytes:
        got = {}
        for giver, envelope in message["across"]["seeds"].items():
            _, contents = sealing.unseal(ring().identity(self.name), ring().identity(giver).public, envelope.encode())
            got[giver] = base64.b64decode(contents["seed"])
        words = masks.share(of, self.name, self.values, self.given, got)
        told = {"session": of.digest, "share": masks.to_text(words), "words": self.words} | self.changes
        text = sealing.canonical(told).decode()
        return event(
            "answer",
            text=text,
            finish_reason="stop",
            prompt_tokens=0,
            completion_tokens=0,
            receipt=self.receipt(of.id, text, message),
        )

    def receipt(self, message_id: str, text: str, message: dict[str, Any]) -> dict[str, Any]:
        asked = message["parameters"]
        mechanism = {name: asked[name] for name in ("unit", "adjacency", "epsilon", "delta")}
        body = {
            "message_id": message_id,
            "request_digest": message["request_digest"],
            "hospital": self.name,
            "kind": message["kind"],
            "mechanism": {**mechanism, "name": asked["mechanism"]},
            "answer_sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
        return receipts.issue(ring().identity(self.name), body)


@dataclass
class Three:
    """The three hospitals, listening, and the coordinator that asks them."""

    hospitals: dict[str, Hospital]
    nodes: dict[str, NodeEndpoint]
    progress: list[str] = field(default_factory=list)

    def ask(self, plan: AcrossPlan = COUNT, *, hospitals: list[str] | None = None) -> Answer:
        parameters = json.loads(json.dumps(plan.to_event()))
        kind = "cohort.choice" if plan.options else "cohort.count"
        body = payload(kind, parameters=parameters, options=OPTIONS[: plan.options])
        question = Question(uuid.uuid4(), kind, "m", hospitals or NAMES, DIGEST, body)

        async def run() -> Answer:
            gateway, network = Gateway(), Network()
            network._nodes = self.nodes
            try:
                return await across.answer(gateway, network, question, self.progress.append)
            finally:
                await gateway.close()

        return async_to_sync(run)()

    def fail(self, plan: AcrossPlan = COUNT) -> CallFailed:
        with pytest.raises(CallFailed) as failed:
            self.ask(plan)
        return failed.value


def public(name: str) -> PublicIdentity:
    return ring().identity(name).public


@pytest.fixture
def three() -> Iterator[Three]:
    hospitals = {name: Hospital(name, [40 + 20 * n]) for n, name in enumerate(NAMES)}
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
def test_the_sum_is_told_with_its_error_its_hospitals_and_all_receipts(three: Three) -> None:
    answer = three.ask()
    assert answer.text.startswith("About 180 records match. The noise leaves 169 to 191, in 95 of 100 cases.")
    assert "3 hospitals together: Hillcrest, Lakeside, Northfield" in answer.text and "velorapine" in answer.text
    receipt = answer.receipt or {}
    body = receipt["body"]
    assert (body["numbers"], body["hospitals"], body["mechanism"]["name"]) == ([180], NAMES, "count_across")
    assert receipts.covers(receipt, public("coordinator"), message_id=body["message_id"], answer=answer.text)
    assert receipts.proves_sum(receipt, {name: public(name) for name in NAMES})
    assert not answer.repeated and all(h.heard == ["offer", "sum"] for h in three.hospitals.values())
    assert len(three.progress) == 2


def test_a_choice_is_told_largest_first(three: Three) -> None:
    for n, hospital in enumerate(three.hospitals.values()):
        hospital.values = [10, 50 + n, -2, 5]
    text = three.ask(CHOICE).text
    assert text.startswith("Said most often: rash.")
    assert text.index("- rash: about 153") < text.index("- dry cough: about 30") < text.index("- nausea: about 0")
    assert f"at most {CHOICE.band}, in 95 of 100" in text


def test_a_lead_within_the_noise_is_called_one() -> None:
    numbers = [50, 50 + 2 * CHOICE.band, 0, 0]
    assert "than the noise may have made" in across_text.told(CHOICE, numbers, OPTIONS, NAMES, [])
    numbers[1] += 1
    assert "than the noise may have made" not in across_text.told(CHOICE, numbers, OPTIONS, NAMES, [])


def test_hospitals_that_go_by_other_words_are_not_quoted(three: Three) -> None:
    three.hospitals["lakeside"].words = ["another"]
    assert "velorapine" not in three.ask().text


def test_the_order_of_the_hospitals_in_a_request_is_of_no_matter(three: Three) -> None:
    assert "About 180" in three.ask(hospitals=list(reversed(NAMES))).text


def test_no_seed_and_no_number_passes_the_coordinator_in_clear(three: Three) -> None:
    receipt = json.dumps(three.ask().receipt)
    for hospital in three.hospitals.values():
        for seed in hospital.given.values():
            assert base64.b64encode(seed).decode() not in receipt
    shares = [masks.from_text(json.loads(text)["share"]) for text in json.loads(receipt)["shares"]]
    assert all(2**40 < int(words[0]) < 2**64 - 2**40 for words in shares)


# --- receipts over several --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", ["number", "share", "receipt", "swapped", "left out", "other node", "message"])
def test_a_receipt_that_was_touched_proves_no_sum(three: Three, case: str) -> None:
    receipt = json.loads(json.dumps(three.ask().receipt))
    nodes = {name: public(name) for name in NAMES}
    if case == "number":
        receipt["body"]["numbers"] = [181]
    elif case == "share":
        told = json.loads(receipt["shares"][0])
        words = masks.from_text(told["share"]) + 1
        receipt["shares"][0] = sealing.canonical(told | {"share": masks.to_text(words)}).decode()
        receipt["body"]["numbers"] = [181]
    elif case == "receipt":
        receipt["receipts"][0]["body"]["mechanism"]["epsilon"] = 0.1
    elif case == "swapped":
        receipt["shares"].reverse()
    elif case == "left out":
        receipt["shares"].pop()
        receipt["receipts"].pop()
    elif case == "other node":
        nodes["lakeside"] = public("strange-node")
    else:
        receipt["receipts"][0] = three.ask().receipt["receipts"][0]  # type: ignore[index]
    assert not receipts.proves_sum(receipt, nodes)


@pytest.mark.parametrize("garbage", [{}, {"body": None}, {"body": {}, "receipts": [], "shares": []}])
def test_garbage_proves_nothing(garbage: Any) -> None:
    assert not receipts.proves_sum(garbage, {})


def test_the_same_request_again_is_the_stored_answer_for_nothing(three: Three) -> None:
    answer = three.ask()
    receipt = json.loads(json.dumps(answer.receipt))
    before = [list(hospital.heard) for hospital in three.hospitals.values()]
    row = uuid.uuid4()
    again = Question(uuid.uuid4(), "cohort.count", "m", NAMES, DIGEST, {})
    told = across.repeated(again, row, answer.text, receipt)
    assert told is not None and told.repeated and told.text == answer.text
    body = (told.receipt or {})["body"]
    assert (body["message_id"], body["mechanism"]["repeat_of"]) == (str(again.id), str(row))
    assert receipts.covers(told.receipt or {}, public("coordinator"), message_id=str(again.id), answer=answer.text)
    assert receipts.proves_sum(told.receipt or {}, {name: public(name) for name in NAMES})
    assert [list(hospital.heard) for hospital in three.hospitals.values()] == before
    receipt["body"]["mechanism"]["claim"]["version"] = 0
    assert across.repeated(again, row, answer.text, receipt) is None, "of another claim sheet"


# --- what goes wrong --------------------------------------------------------------------------------------------------
def test_a_hospital_that_refuses_ends_it_before_anybody_is_charged(three: Three) -> None:
    three.hospitals["lakeside"].faults = {
        "offer": lambda _: refusal("block_exhausted", charged=False),
        "abort": lambda _: refusal("conflict", charged=False),
    }
    error = three.fail()
    assert (error.code, error.sent) == ("block_exhausted", False)
    assert error.details["hospital"] == "lakeside" and error.details["charged_at"] == []
    assert error.details["why"].startswith("Lakeside: ") and "No hospital" in error.details["why"]
    assert three.hospitals["hillcrest"].heard == ["offer", "abort"]


def test_a_hospital_that_gave_its_share_to_an_attempt_that_was_lost_is_named_as_charged(three: Three) -> None:
    conflict = {phase: lambda _: refusal("conflict", charged=True) for phase in ("offer", "abort")}
    three.hospitals["lakeside"].faults = conflict
    error = three.fail()
    assert (error.code, error.sent, error.details["charged_at"]) == ("conflict", True, ["lakeside"])


def test_a_hospital_that_does_not_know_a_peer_says_so(three: Three) -> None:
    why = "hillcrest does not know lakeside with these keys: its operator must trust them first."
    three.hospitals["hillcrest"].faults = {"offer": lambda _: refusal("invalid_parameter", charged=False, why=why)}
    error = three.fail()
    assert error.code == "invalid_parameter" and why in error.details["why"]


def test_a_hospital_that_is_down_ends_it_before_anybody_is_charged(three: Three) -> None:
    three.nodes["lakeside"].url = "https://localhost:1"
    error = three.fail()
    assert (error.code, error.sent, error.details["hospital"]) == ("no_node", False, "lakeside")
    assert three.hospitals["northfield"].heard == ["offer", "abort"]


@pytest.mark.parametrize(
    ("fault", "charged"),
    [
        (lambda _: refusal("invalid_parameter", charged=False), ["hillcrest", "northfield"]),
        (lambda _: refusal("node_failed", charged=True), ["hillcrest", "northfield"]),
        (lambda _: b"HTTP/1.1 500 no\r\ncontent-length: 0\r\n\r\n", ["hillcrest", "northfield"]),
        (lambda _: b"", ["hillcrest", "northfield"]),
    ],
    ids=["refuses", "fails", "500", "cut"],
)
def test_a_hospital_that_drops_out_between_the_rounds_leaves_no_sum(
    three: Three, fault: Callable[[dict[str, Any]], bytes], charged: list[str]
) -> None:
    """Who gave a share stays charged, the one that says that it did not is not, and the asker is told."""
    three.hospitals["lakeside"].faults = {"sum": fault}
    error = three.fail()
    assert error.sent and error.details["hospital"] == "lakeside"
    assert error.details["charged_at"] == charged
    assert "Charged all the same: Hillcrest, Northfield." in error.details["why"]
    assert three.hospitals["lakeside"].heard == ["offer", "sum", "abort"]
    assert three.hospitals["hillcrest"].heard == ["offer", "sum"]


def test_a_hospital_that_cannot_be_asked_any_more_counts_as_charged(three: Three) -> None:
    def vanish(_: dict[str, Any]) -> bytes:
        three.nodes["lakeside"].url = "https://localhost:1"
        return b""

    three.hospitals["lakeside"].faults = {"sum": vanish}
    assert three.fail().details["charged_at"] == NAMES


@pytest.mark.parametrize(
    "changes",
    [{"session": "0" * 64}, {"share": masks.to_text(masks.from_text("AAAAAAAAAAA=" * 1).repeat(2))}, {"share": "?"}],
    ids=["other session", "too long", "no share"],
)
def test_shares_that_do_not_belong_together_are_no_answer(three: Three, changes: dict[str, Any]) -> None:
    three.hospitals["northfield"].changes = changes
    error = three.fail()
    assert (error.code, error.sent, error.details["charged_at"]) == ("node_failed", True, NAMES)


def test_offers_for_different_sessions_are_no_agreement(three: Three) -> None:
    three.hospitals["northfield"].faults = {"offer": lambda _: event("offer", session="0" * 64, seeds={})}
    error = three.fail()
    assert error.code == "node_failed" and not error.sent
    assert three.hospitals["hillcrest"].heard == ["offer", "abort"]


@pytest.mark.parametrize("phase", ["offer", "sum"])
def test_an_answer_out_of_turn_is_a_failure(three: Three, phase: str) -> None:
    hospital = three.hospitals["northfield"]

    def wrong(message: dict[str, Any]) -> bytes:
        text = "{}"
        receipt = hospital.receipt(str(uuid.uuid4()), text, message)
        return event("answer", text=text, finish_reason="stop", receipt=receipt)

    hospital.faults = {phase: wrong if phase == "sum" else lambda m: event("answer", text="", receipt=None)}
    assert three.fail().code == "node_failed"


def test_a_hospital_without_a_node_is_asked_nothing(three: Three) -> None:
    del three.nodes["lakeside"]
    error = three.fail()
    assert (error.code, error.sent) == ("no_node", False)
    assert not any(hospital.heard for hospital in three.hospitals.values())
