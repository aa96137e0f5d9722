"""Receipts: what a node did for a request and what it cost, signed by the node, checkable by anybody with its keys."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from fdrouter.errors import DomainError
from federation import sealing
from federation.identity import Identity, PublicIdentity
from federation.secagg import masks, session

VERSION = 1


def issue(node: Identity, body: dict[str, Any]) -> dict[str, Any]:
    """``{"body", "digest", "signatures"}``; the digest is SHA-256 of the body's canonical JSON."""
    body = {"version": VERSION, "node": node.name, **body}
    data = sealing.canonical(body)
    return {
        "body": body,
        "digest": hashlib.sha256(data).hexdigest(),
        "signatures": sealing.sign(node, "receipt", data),
    }


def issue_together(
    coordinator: Identity, body: dict[str, Any], answer: str, parts: Sequence[tuple[dict[str, Any], str]]
) -> dict[str, Any]:
    """A receipt over those of several nodes: ``{"body", "digest", "signatures", "receipts", "shares"}``.

    ``parts`` are each node's receipt and the share that it covers. Masked numbers everybody can add up to those that
    ``body`` states (:func:`proves_sum`), and nobody can see a node's own; of a text they are what each node saw written
    (:func:`proves_text`).
    """
    stated = {
        **body,
        "tokens": body.get("tokens", 0),
        "block": None,
        "answer_sha256": hashlib.sha256(answer.encode()).hexdigest(),
        "receipts": [receipt["digest"] for receipt, _ in parts],
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    issued = issue(coordinator, stated)
    return {**issued, "receipts": [receipt for receipt, _ in parts], "shares": [share for _, share in parts]}


def proves_sum(receipt: dict[str, Any], nodes: Mapping[str, PublicIdentity]) -> bool:
    """Whether the numbers of a receipt over several are the sum of what these nodes signed, for one and the same sum.

    The words around the numbers are the coordinator's: :func:`covers` with its keys says whether those are unchanged.
    """
    try:
        body, parts = receipt["body"], list(zip(receipt["receipts"], receipt["shares"], strict=True))
        names = [part["body"]["node"] for part, _ in parts]
        told = [json.loads(share) for _, share in parts]
        sums = {(share["session"], part["body"]["message_id"]) for share, (part, _) in zip(told, parts, strict=True)}
        signed = (
            covers(part, nodes[name], message_id=part["body"]["message_id"], answer=share)
            for name, (part, share) in zip(names, parts, strict=True)
        )
        members = sorted((name, nodes[name].key_id) for name in names)
        summed = session.make(body["message_id"], members, "0" * 64, len(body["numbers"]))
        shares = {name: masks.from_text(share["share"]) for name, share in zip(names, told, strict=True)}
        return (
            len(sums) == 1
            and all(signed)
            and body["receipts"] == [part["digest"] for part, _ in parts]
            and masks.total(summed, shares) == body["numbers"]
        )
    except (DomainError, KeyError, TypeError, ValueError, AttributeError):
        return False


def proves_text(receipt: dict[str, Any], nodes: Mapping[str, PublicIdentity], *, answer: str) -> bool:
    """Whether all of these nodes signed for one and the same text, of one session, and the answer begins with it.

    That each token was drawn as stated, from sums that nobody kept, is the coordinator's word.
    """
    try:
        body, parts = receipt["body"], list(zip(receipt["receipts"], receipt["shares"], strict=True))
        told = [json.loads(share) for _, share in parts]
        seen = {(share["session"], share["text"], tuple(share["tokens"])) for share in told}
        signed = (
            covers(part, nodes[part["body"]["node"]], message_id=part["body"]["message_id"], answer=share)
            and part["body"]["tokens"] == len(told[0]["tokens"]) == body["tokens"]
            for part, share in parts
        )
        names = {part["body"]["node"] for part, _ in parts}
        return (
            len(seen) == 1
            and len(names) == len(parts) > 1
            and all(signed)
            and body["receipts"] == [part["digest"] for part, _ in parts]
            and answer.startswith(told[0]["text"])
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def _is_signed(receipt: dict[str, Any], node: PublicIdentity) -> bool:
    body = receipt["body"]
    data = sealing.canonical(body)
    return bool(
        body["version"] == VERSION
        and body["node"] == node.name
        and receipt["digest"] == hashlib.sha256(data).hexdigest()
        and sealing.verify(node, "receipt", data, receipt["signatures"])
    )


def is_valid(receipt: dict[str, Any], node: PublicIdentity, *, message_id: str, request_digest: str) -> bool:
    """Whether the receipt is the node's and speaks of exactly this request."""
    try:
        body = receipt["body"]
        return bool(
            body["message_id"] == message_id and body["request_digest"] == request_digest and _is_signed(receipt, node)
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def covers(receipt: dict[str, Any], node: PublicIdentity, *, message_id: str, answer: str) -> bool:
    """Whether the receipt is the node's and speaks of exactly this answer: what an asker can check alone."""
    try:
        body = receipt["body"]
        return bool(
            body["message_id"] == message_id
            and body["answer_sha256"] == hashlib.sha256(answer.encode()).hexdigest()
            and _is_signed(receipt, node)
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
