"""What an answer is, and how its receipt is checked without trusting the router's word for it."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_CLAIM = ("name", "unit", "adjacency", "epsilon", "delta")


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
    receipt, or the router's over those of several nodes, ``None`` from a plain engine; ``receipt_verified`` says
    whether it was checked (``audit_trail=True``).
    ``chosen`` is ``{"kind", "why"}`` where the router was to choose (kind ``cohort``), else ``None``. ``hospitals`` are
    those that answered together (``across``), empty where one did.
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
    hospitals: tuple[str, ...] = ()

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
        hospitals=tuple(privacy.get("hospitals") or ()),
    )


def is_genuine(
    response: Response, keys: Mapping[str, Mapping[str, str]], router: Mapping[str, str] | None = None
) -> bool:
    """Whether the receipt is signed by who answered and speaks of exactly this answer and cost.

    ``keys`` are public identities by node id and ``router`` is the router's own, from a source that the caller trusts.
    Both signatures (Ed25519 and ML-DSA-65) must hold. One hospital's answer is signed by its node. What several
    answered together is signed by the router over the receipts of the nodes: then all of them must hold as well, each
    hospital of the plan must have signed or be named as one that left, and the shares must prove the numbers or the
    text (:func:`federation.receipts.proves_sum`, :func:`federation.receipts.proves_text`).
    """
    from federation import identity, receipts

    receipt = response.receipt
    together = receipt is not None and "shares" in receipt
    document = router if together else keys.get(response.node or "")
    if receipt is None or not document:
        return False
    try:
        public = identity.load_public(dict(document))
        signed = _same_cost(response, receipt["body"]["mechanism"]) and receipts.covers(
            receipt, public, message_id=response.id, answer=response.text
        )
        return signed and (not together or _proven(response, receipt, keys))
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def _same_cost(response: Response, mechanism: Mapping[str, Any] | None) -> bool:
    """Charged in whole millionths, rounded up: never less than was claimed. A release told again costs nothing."""
    claimed = 0.0 if not mechanism or mechanism.get("repeat_of") else mechanism["epsilon"]
    return bool(0 <= response.privacy_cost - claimed + 1e-9 <= 2e-6)


def _proven(response: Response, receipt: dict[str, Any], keys: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether the nodes of a receipt over several signed for what it states, for the same claim, and none is missing.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: it is no such receipt, or a node's keys are not known.
    """
    from federation import identity, receipts

    body, parts = receipt["body"], [part["body"] for part in receipt["receipts"]]
    mechanism, left = body["mechanism"], body.get("left") or {}
    asked = mechanism["parameters"]["hospitals"]
    claim = [mechanism[name] for name in _CLAIM]
    if not all([part["mechanism"][name] for name in _CLAIM] == claim for part in parts):
        return False
    hospitals = [part["hospital"] for part in parts]
    if (
        hospitals != body["hospitals"]
        or hospitals != list(response.hospitals)
        or len({*hospitals, *left}) != asked
        or len(hospitals) + len(left) != asked
    ):
        return False
    if any(part["request_digest"] != body["request_digest"] for part in parts):
        return False
    nodes = {part["node"]: identity.load_public(dict(keys[part["node"]])) for part in parts}
    if "numbers" in body:
        return receipts.proves_sum(receipt, nodes) and _says(response.text, body["numbers"])
    return receipts.proves_text(receipt, nodes, answer=response.text)


def _says(text: str, numbers: list[int]) -> bool:
    """Whether the words state these numbers, as often; below zero is said as zero."""
    said = [int(number) for number in re.findall(r"\babout (\d+) records\b", text, re.IGNORECASE)]
    return sorted(said) == sorted(max(0, number) for number in numbers)
