"""What an answer is, and how its receipt is checked without trusting the router's word for it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Remaining:
    """Epsilon that is left after an answer. ``block`` is the largest single request that the hospital's block can
    still pay, ``None`` where the answer used no records.
    """

    user: float
    department: float
    block: float | None

    @property
    def least(self) -> float:
        """What the next request may cost at most."""
        return min(self.user, self.department, *(() if self.block is None else (self.block,)))


@dataclass(frozen=True, slots=True)
class Response:
    """One answer.

    ``privacy_cost`` is the epsilon that was charged: the claim holds for ``unit`` (``patient``) under ``adjacency`` and
    ``delta``; all of these are ``None`` or 0 where no records were read privately. ``receipt`` is the node's signed
    receipt, ``None`` from a plain engine; ``receipt_verified`` says whether it was checked (``audit_trail=True``).
    ``chosen`` is ``{"kind", "why"}`` where the router was to choose (kind ``cohort``), else ``None``.
    """

    text: str
    id: str
    kind: str
    model: str
    node: str | None
    privacy_cost: float
    delta: float
    unit: str | None
    adjacency: str | None
    mechanism: str | None
    remaining: Remaining
    receipt: dict[str, Any] | None
    finish_reason: str
    usage: dict[str, int] = field(default_factory=dict)
    receipt_verified: bool = False
    chosen: dict[str, str] | None = None

    @property
    def remaining_budget(self) -> float:
        """The least of what person, department and (where used) block have left."""
        return self.remaining.least


def make(text: str, document: Mapping[str, Any], finish_reason: str) -> Response:
    """A response from a chat completion, or from the last event of a stream. Raises KeyError, TypeError, ValueError."""
    privacy = document["privacy"]
    left = privacy["remaining"]
    return Response(
        text=text,
        id=str(uuid.UUID(hex=document["id"].removeprefix("chatcmpl-"))),
        kind=privacy["kind"],
        model=document["model"],
        node=(document.get("node") or {}).get("id"),
        privacy_cost=float(privacy["epsilon"]),
        delta=float(privacy["delta"]),
        unit=privacy["unit"],
        adjacency=privacy["adjacency"],
        mechanism=privacy["mechanism"],
        remaining=Remaining(float(left["user"]), float(left["department"]), left["block"]),
        receipt=privacy["receipt"],
        finish_reason=finish_reason,
        usage=dict(document.get("usage") or {}),
        chosen=privacy.get("chosen"),
    )


def is_genuine(response: Response, keys: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether the receipt is signed by the node that answered and speaks of exactly this answer.

    ``keys`` are public identities by node id, from a source that the caller trusts. Both signatures (Ed25519 and
    ML-DSA-65) must hold.
    """
    from federation import identity, receipts

    receipt = response.receipt
    document = keys.get(response.node or "")
    if receipt is None or not document:
        return False
    try:
        public = identity.load_public(dict(document))
        mechanism = receipt["body"]["mechanism"]
        claimed = mechanism["epsilon"] if mechanism else 0.0
    except (KeyError, TypeError, ValueError):
        return False
    # Charged in whole millionths, rounded up: never less than the node says that it claimed.
    same_cost = 0 <= response.privacy_cost - claimed + 1e-9 <= 2e-6
    return same_cost and receipts.covers(receipt, public, message_id=response.id, answer=response.text)
