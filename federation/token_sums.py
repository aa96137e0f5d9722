"""A text that several hospitals write together; the coordinator's side of ``federation.node.token_sums``.

For each token one hospital says what is likely by the question alone, each says how its patients' records move that, in
one sum of whole numbers, and the token is drawn here from the sum of sums. The coordinator sees each hospital's sums
without noise and is trusted not to keep or tell them: they are in no log, no row and no frame. What leaves it is the
drawn token, which is private by :mod:`privacy.dp.across_text`.

A hospital that fails in the middle has left: its slots count as "no difference" from then on, the number of slots
stays, and the others go on while there are two. One that fails at the end gave all of its sums, but no receipt.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.conf import settings

from fdrouter.errors import DomainError, InvalidParameter
from federation import identity, receipts
from federation.across import Members, Question, nodes_of
from federation.gateway import Answer, CallFailed, Gateway, NodeEndpoint, Step
from federation.network import Network
from privacy import claims
from privacy.dp import across_text
from privacy.dp.across_text import HOSPITALS, TextAcrossPlan
from privacy.dp.cohort_plans import plan_of
from privacy.dp.decoding import Floats

_UNFINISHED = "\ufffd"  # stands for a character of which more bytes are to come


@dataclass(frozen=True, slots=True)
class _Row:
    """A public row: candidates, their public log-probabilities, the text so far and the id that ends it."""

    ids: list[int]
    values: Floats
    text: str
    end: int


def is_text(parameters: dict[str, Any]) -> bool:
    """Whether a stored plan is for a text of several hospitals."""
    return parameters.get("mechanism") == across_text.NAME


async def answer(
    gateway: Gateway,
    network: Network,
    question: Question,
    progress: Callable[[str], None],
    delta: Callable[[str], None],
) -> Answer:
    """The hospitals' text, with one receipt over all of theirs. ``delta`` gets the text as it is written.

    Raises:
        CallFailed: a hospital takes no part, or fewer than two are left; ``details['charged_at']`` names those that
            keep their charge, and ``sent`` says whether there are any.
    """
    plan = plan_of(question.payload["parameters"])
    if not isinstance(plan, TextAcrossPlan):
        raise CallFailed("invalid_parameter", sent=False)
    nodes = nodes_of(network, question.hospitals)
    writing = _Writing(gateway, network, question, nodes, plan, delta)
    try:
        progress(f"asking {len(nodes)} hospitals together")
        await writing.offers()
        progress(f"reading up to {plan.slots} records at each of {len(nodes)} hospitals under privacy protection")
        answers = await writing.write()
    except asyncio.CancelledError:
        writing.abort_later(nodes)
        raise
    return writing.together(answers)


class _Writing(Members):
    def __init__(
        self,
        gateway: Gateway,
        network: Network,
        question: Question,
        nodes: list[NodeEndpoint],
        plan: TextAcrossPlan,
        delta: Callable[[str], None],
    ) -> None:
        super().__init__(gateway, network, question, nodes)
        self._plan, self._delta = plan, delta
        self._there = list(nodes)
        self._left: dict[str, int] = {}  # hospital -> tokens that its records had a part in
        self._failed: dict[str, CallFailed] = {}
        self._tokens: list[int] = []
        self._told = ""

    async def write(self) -> dict[str, Answer]:
        """Draws token after token; then every hospital's signed word for the whole, by node.

        Raises:
            CallFailed: fewer than two hospitals are left.
        """
        while len(self._tokens) < self._plan.max_tokens:
            row = await self._public()
            self._tell(row.text)
            token = across_text.draw(self._plan, row.ids, row.values, await self._sums(row))
            self._tokens.append(token)
            if token == row.end:
                break
        found = await self.ask(self._there, "finish", self._said(self._there))
        await self._drop(found, Answer)
        return {name: item for name, item in found.items() if isinstance(item, Answer)}

    def _said(self, nodes: list[NodeEndpoint], **more: Any) -> dict[str, Any]:
        return {node.id: {"tokens": self._tokens, **more} for node in nodes}

    async def _public(self) -> _Row:
        """The public row, of the first hospital that gives one: all have the same question and tokens."""
        while True:
            reader = self._there[:1]
            found = await self.ask(reader, "public", self._said(reader))
            for name, item in found.items():
                if isinstance(item, Step):
                    try:
                        return self._row(item.data)
                    except (KeyError, TypeError, ValueError):
                        found[name] = CallFailed("node_failed", sent=True)
            await self._drop(found, Step)

    def _row(self, data: dict[str, Any]) -> _Row:
        ids, values = across_text.candidates(self._plan, data["ids"], data["values"])
        if not isinstance(data["text"], str) or not isinstance(data["end"], int):
            raise TypeError("not a public row")
        return _Row(ids, values, data["text"], data["end"])

    async def _sums(self, row: _Row) -> list[list[int]]:
        """Every hospital's sums for this token."""
        found = await self.ask(self._there, "sums", self._said(self._there, candidates=row.ids))
        sums = {}
        for name, item in found.items():
            if isinstance(item, Step):
                try:
                    across_text.total(self._plan, len(row.ids), [item.data["sums"]])
                    sums[name] = item.data["sums"]
                except (KeyError, TypeError, ValueError):
                    found[name] = CallFailed("node_failed", sent=True)
        await self._drop(found, Step)
        return list(sums.values())

    async def _drop(self, found: dict[str, Any], wanted: type[Step] | type[Answer]) -> None:
        """Goes on without the hospitals that failed.

        Raises:
            CallFailed: there are too few left.
        """
        gone = [node for node in self._there if node.id in found and not isinstance(found[node.id], wanted)]
        self._there = [node for node in self._there if node not in gone]
        self._left |= {node.hospital: len(self._tokens) for node in gone}
        self._failed |= {node.id: found[node.id] for node in gone}
        if len(self._there) < HOSPITALS[0]:
            told = await self.abort(self._nodes)
            free = {name for name, item in told.items() if not item.sent and item.code != "no_node"}
            raise self.failure(self._failed, {node.id for node in self._nodes} - free)
        if gone:
            self.abort_later(gone)

    def _tell(self, text: str) -> None:
        """The part of the text that was not told yet; a character is told when it is whole."""
        whole = text.rstrip(_UNFINISHED)
        if whole.startswith(self._told) and len(whole) > len(self._told):
            self._delta(whole[len(self._told) :])
            self._told = whole

    def together(self, answers: dict[str, Answer]) -> Answer:
        """The answer over all of the hospitals'.

        Raises:
            CallFailed: they did not sign for the same text.
        """
        nodes = [node for node in self._nodes if node.id in answers]
        parts = [(answers[node.id].receipt or {}, answers[node.id].text) for node in nodes]
        try:
            told = [json.loads(share) for _, share in parts]
            if any(share != told[0] for share in told) or told[0]["tokens"] != self._tokens:
                raise InvalidParameter("The hospitals signed for different texts.", field="shares")
            text = str(told[0]["text"]) + self._words(nodes)
        except (DomainError, KeyError, TypeError, ValueError):
            details = {"reason": "shares", "charged_at": sorted(node.id for node in self._nodes)}
            raise CallFailed("node_failed", sent=True, details=details) from None
        self._tell(text)
        first = answers[nodes[0].id]
        return Answer(
            text, first.finish_reason, first.prompt_tokens, len(self._tokens), self._receipt(nodes, parts, text)
        )

    def _words(self, nodes: list[NodeEndpoint]) -> str:
        """Whose records the text is from, and who is trusted, below the text."""
        names = {node.hospital: node.name for node in self._nodes}
        where = f"{len(nodes)} hospitals together: {', '.join(node.name for node in nodes)}"
        left = "".join(
            f" {names[hospital]} had a part in the first {tokens} of {len(self._tokens)} tokens and has signed nothing."
            for hospital, tokens in sorted(self._left.items())
        )
        trusted = "The network's coordinator is trusted with each hospital's sums behind every word."
        return f"\n\nWritten from records of {where}.{left} {trusted}"

    def _receipt(self, nodes: list[NodeEndpoint], parts: list[tuple[dict[str, Any], str]], text: str) -> dict[str, Any]:
        question, plan = self._question, self._plan
        event = plan.to_event()
        mechanism = {name: event[name] for name in ("unit", "adjacency", "epsilon", "delta")}
        body = {
            "message_id": str(question.id),
            "request_digest": question.digest,
            "kind": question.kind,
            "model": question.model,
            "mechanism": mechanism
            | {"name": plan.name, "parameters": plan.parameters, "claim": claims.sheet(plan.name).reference},
            "hospitals": [node.hospital for node in nodes],
            "left": self._left,
            "tokens": len(self._tokens),
        }
        return receipts.issue_together(identity.load(settings.IDENTITY_DIR), body, text, parts)
