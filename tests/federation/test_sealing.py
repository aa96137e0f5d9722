"""Envelopes: for one recipient, from one sender, one message, one piece; receipts likewise."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from federation import sealing
from federation.sealing import BadEnvelope
from tests.federation.keys import ring

PAYLOAD = {"kind": "general", "messages": [{"role": "user", "content": "What of the Gonzalez case? ü 🩺"}], "n": 1.5}
ID = "6f1f0c52-1f5e-4a8e-9a53-1e4dbf6e3b50"


def sealed(*, sender: str = "coordinator", recipient: str = "northfield", message_id: str = ID) -> bytes:
    return sealing.seal(ring().identity(sender), ring().identity(recipient).public, message_id, PAYLOAD)


def unseal(data: bytes, *, recipient: str = "northfield", sender: str = "coordinator") -> tuple[str, dict[str, Any]]:
    return sealing.unseal(ring().identity(recipient), ring().identity(sender).public, data)


def test_round_trip() -> None:
    assert unseal(sealed()) == (ID, PAYLOAD)


def test_the_envelope_shows_no_contents() -> None:
    data = sealed()
    assert b"Gonzalez" not in data and b"general" not in data
    assert b"Gonzalez" not in base64.b64decode(json.loads(data)["sealed"])


def test_every_envelope_is_fresh() -> None:
    assert json.loads(sealed())["sealed"] != json.loads(sealed())["sealed"]


def test_another_recipient_cannot_open_it() -> None:
    with pytest.raises(BadEnvelope):
        unseal(sealed(), recipient="lakeside")


def test_another_recipient_cannot_open_it_even_with_the_name_changed() -> None:
    envelope = json.loads(sealed())
    envelope["to"] = "lakeside"
    del envelope["signatures"]
    signed = {**envelope, "signatures": sealing.sign(ring().identity("coordinator"), "envelope", canonical(envelope))}
    with pytest.raises(BadEnvelope, match="InvalidTag"):
        unseal(canonical(signed), recipient="lakeside")


@pytest.mark.parametrize("sender", ["lakeside", "stranger"])
def test_another_sender_is_not_believed(sender: str) -> None:
    with pytest.raises(BadEnvelope):
        unseal(sealed(sender=sender))


def test_another_sender_under_the_right_name_is_not_believed() -> None:
    """A node that seals to another node and signs as itself, but writes the coordinator's name."""
    envelope = json.loads(sealed())
    del envelope["signatures"]
    forged = {**envelope, "signatures": sealing.sign(ring().identity("lakeside"), "envelope", canonical(envelope))}
    with pytest.raises(BadEnvelope, match="signature"):
        unseal(canonical(forged))
    forged["signatures"]["key_id"] = ring().identity("coordinator").public.key_id
    with pytest.raises(BadEnvelope, match="signature"):
        unseal(canonical(forged))


def canonical(value: Any) -> bytes:
    return sealing.canonical(value)


def resigned(change: Callable[[dict[str, Any]], None]) -> bytes:
    """A changed envelope with good signatures: only the sealing can notice."""
    envelope = json.loads(sealed())
    del envelope["signatures"]
    change(envelope)
    return canonical(
        {**envelope, "signatures": sealing.sign(ring().identity("coordinator"), "envelope", canonical(envelope))}
    )


def test_a_swapped_id_is_noticed_by_the_sealing_itself() -> None:
    with pytest.raises(BadEnvelope, match="InvalidTag"):
        unseal(resigned(lambda envelope: envelope.update(id="another")))


@pytest.mark.parametrize("field", ["version", "from", "to", "id", "sealed", "signatures"])
def test_every_field_is_needed_and_signed(field: str) -> None:
    missing, changed = json.loads(sealed()), json.loads(sealed())
    del missing[field]
    changed[field] = 2 if field == "version" else "x"
    for envelope in (missing, changed):
        with pytest.raises(BadEnvelope):
            unseal(canonical(envelope))


def test_flipped_bits_anywhere_are_noticed() -> None:
    """Every bit of the short signature with its spare bits, and a sample of all others."""
    data = sealed()
    draw = random.Random(5)
    start = data.index(b'"ed25519":"')
    places = {(start + n, bit) for n in range(100) for bit in range(8)}
    places |= {(position, draw.randrange(8)) for position in draw.sample(range(len(data)), 250)}
    for position, bit in sorted(places):
        damaged = bytearray(data)
        damaged[position] ^= 1 << bit
        try:
            found = unseal(bytes(damaged))
        except BadEnvelope:
            continue
        raise AssertionError(f"byte {position} could be changed: {found}")


def test_flipped_bits_of_the_sealed_part_are_noticed_without_the_signature() -> None:
    draw = random.Random(6)

    def flip(envelope: dict[str, Any]) -> None:
        raw = bytearray(base64.b64decode(envelope["sealed"]))
        raw[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        envelope["sealed"] = base64.b64encode(raw).decode()

    for _ in range(40):
        with pytest.raises(BadEnvelope):
            unseal(resigned(flip))


@pytest.mark.parametrize("scheme", ["ed25519", "mldsa65"])
def test_one_good_signature_of_two_is_not_enough(scheme: str) -> None:
    envelope = json.loads(sealed())
    raw = bytearray(base64.b64decode(envelope["signatures"][scheme]))
    raw[7] ^= 1
    broken = json.loads(json.dumps(envelope))
    broken["signatures"][scheme] = base64.b64encode(raw).decode()
    missing = json.loads(json.dumps(envelope))
    del missing["signatures"][scheme]
    empty = json.loads(json.dumps(envelope))
    empty["signatures"][scheme] = ""
    for forged in (broken, missing, empty):
        with pytest.raises(BadEnvelope, match="signature"):
            unseal(canonical(forged))


def test_a_signature_counts_for_its_purpose_alone() -> None:
    coordinator = ring().identity("coordinator")
    signatures = sealing.sign(coordinator, "receipt", b"data")
    assert sealing.verify(coordinator.public, "receipt", b"data", signatures)
    assert not sealing.verify(coordinator.public, "envelope", b"data", signatures)
    assert not sealing.verify(coordinator.public, "receipt", b"other", signatures)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\x00",
        b"{}",
        b"[]",
        b"null",
        b"7",
        b'"text"',
        b'{"signatures": []}',
        b'{"signatures": null, "version": 1, "to": "northfield", "from": "coordinator"}',
        b'{"signatures": {"key_id": 7}, "version": 1, "to": "northfield", "from": "coordinator", "id": NaN}',
        b'{"signatures": {}, "version": 1, "to": "northfield", "from": "coordinator", "id": "\\ud800"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"1" * 10_000,
    ],
    ids=lambda data: str(data[:12]),
)
def test_garbage_is_a_bad_envelope_and_nothing_else(data: bytes) -> None:
    with pytest.raises(BadEnvelope):
        unseal(data)


@pytest.mark.parametrize("part", ["", "AAAA", base64.b64encode(bytes(1200)).decode(), "not base64!", 7, None, ["x"]])
def test_a_signed_envelope_with_garbage_inside_is_bad_too(part: Any) -> None:
    with pytest.raises(BadEnvelope):
        unseal(resigned(lambda envelope: envelope.update(sealed=part)))


def test_canonical_json_does_not_depend_on_order_and_refuses_what_json_has_not() -> None:
    assert (
        canonical({"b": [1, "ü"], "a": None})
        == canonical({"a": None, "b": [1, "ü"]})
        == '{"a":null,"b":[1,"ü"]}'.encode()
    )
    with pytest.raises(ValueError, match="JSON"):
        canonical(float("nan"))
