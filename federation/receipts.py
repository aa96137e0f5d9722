"""Receipts: what a node did for a request and what it cost, signed by the node, checkable by anybody with its keys."""

from __future__ import annotations

import hashlib
from typing import Any

from federation import sealing
from federation.identity import Identity, PublicIdentity

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
