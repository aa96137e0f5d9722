"""Counts and choices that several hospitals answer together; the coordinator's side of ``federation.node.across``.

The coordinator relays sealed seeds that it cannot open, adds up shares that are masked, and learns the noisy sum alone.
Two rounds: every hospital offers (decides and reserves), then every hospital gives its share. If one drops out there is
no sum: the others are told to give up, and the asker is told which of them keep their charge.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.conf import settings

from fdrouter import errors
from fdrouter.errors import DomainError, InvalidParameter, NoNode
from federation import across_text, identity, receipts
from federation.asks import Ask
from federation.gateway import Answer, Call, CallFailed, Gateway, NodeEndpoint, Offer, Step
from federation.models import ACROSS, Node, Transport
from federation.network import Network
from federation.secagg import masks, session
from privacy import claims
from privacy.dp.across_plans import HOSPITALS, AcrossPlan, plan_choice_across, plan_count_across
from privacy.dp.across_text import HOSPITALS as HOSPITALS_OF_TEXT
from privacy.dp.across_text import TextAcrossPlan, again, limits, plan_text_across
from privacy.dp.cohort_plans import Plan, plan_of

_NODES_WORD = ("cancelled", "conflict")  # how a node replies to an abort
FEW_OF_TEXT = "At least two hospitals must write together; one alone answers without across."
FEW = "At least three hospitals must answer together, so that no hospital's own number can be told from the sum."


@dataclass(frozen=True, slots=True)
class Question:
    """One request for several hospitals. ``payload`` is what a node's message holds; ``digest`` is in hex."""

    id: uuid.UUID
    kind: str
    model: str
    hospitals: Sequence[str]
    digest: str
    payload: dict[str, Any]


def is_across(parameters: dict[str, Any]) -> bool:
    """Whether a stored plan is for several hospitals together."""
    return parameters.get("mechanism") in ACROSS.values()


# --- who answers ----------------------------------------------------------------------------------------------------
def resolve(ask: Ask) -> Ask:
    """The request with its hospitals named, in the order of their ids, and its noise planned for as many.

    Raises:
        InvalidParameter: fewer than three (of a text, two) were named, or too many. NoNode: fewer are there.
    """
    hospitals, plan = members(ask.plan, ask.hospitals)
    return replace(ask, hospitals=hospitals, plan=plan)


def members(plan: Plan | None, named: Sequence[str]) -> tuple[tuple[str, ...], AcrossPlan | TextAcrossPlan]:
    """Who answers a plan together, and the plan for as many.

    Without names it is for all that are up and have records and a block. The claim does not depend on how many they
    are.

    Raises:
        InvalidParameter, NoNode: as :func:`resolve`.
    """
    if not isinstance(plan, AcrossPlan | TextAcrossPlan):
        raise InvalidParameter("This request is not for several hospitals.", field="privacy.across")
    least, few = (HOSPITALS_OF_TEXT[0], FEW_OF_TEXT) if isinstance(plan, TextAcrossPlan) else (HOSPITALS[0], FEW)
    nodes = Node.objects.filter(active=True, transport=Transport.SEALED)
    if named:
        found = set(nodes.filter(hospital_id__in=named).values_list("hospital_id", flat=True))
        if len(named) < least:
            raise InvalidParameter(few, field="privacy.hospitals", named=len(named))
        if missing := [name for name in named if name not in found]:
            raise NoNode(f"There is no node over the records of {missing[0]}.", missing=missing)
    else:
        found = {n.hospital_id for n in nodes if n.status.get("healthy", True) and n.status.get("block")}
        if len(found) < least:
            raise NoNode(f"{few} {len(found)} are available now.", available=len(found))
    return tuple(sorted(found)), _for(plan, len(found))


def _for(plan: AcrossPlan | TextAcrossPlan, hospitals: int) -> AcrossPlan | TextAcrossPlan:
    """The same claim with the noise, or the slots, of another number of hospitals."""
    if isinstance(plan, TextAcrossPlan):
        contexts = max(plan.contexts, limits(hospitals).contexts[0])  # more than were asked for where that is too few
        return plan_text_across(**again(plan, contexts=contexts), hospitals=hospitals)
    claim: dict[str, Any] = {"hospitals": hospitals, "epsilon": plan.epsilon, "delta": plan.delta}
    return plan_choice_across(**claim, options=plan.options) if plan.options else plan_count_across(**claim)


# --- one session ----------------------------------------------------------------------------------------------------
async def answer(gateway: Gateway, network: Network, question: Question, progress: Callable[[str], None]) -> Answer:
    """The hospitals' answer, with one receipt over all of theirs.

    Raises:
        CallFailed: one of them refused, failed or was not there; ``details['charged_at']`` names those that keep their
            charge, and ``sent`` says whether there are any.
    """
    nodes = nodes_of(network, question.hospitals)
    summing = _Session(gateway, network, question, nodes)
    try:
        progress(f"asking {len(nodes)} hospitals together")
        offers = await summing.offers()
        progress("adding up numbers that nobody sees alone")
        answers = await summing.shares(offers)
    except asyncio.CancelledError:
        summing.abort_later(nodes)
        raise
    return _together(question, nodes, answers)


_last_wishes: set[asyncio.Future[Any]] = set()


def nodes_of(network: Network, hospitals: Sequence[str]) -> list[NodeEndpoint]:
    """One node of each hospital, in the order of their names.

    Raises:
        CallFailed: a hospital has none that is enrolled; nothing was sent.
    """
    found = [node for hospital in hospitals if (node := network.over_records(hospital)) is not None]
    if len(found) < len(hospitals):
        raise CallFailed("no_node", sent=False)
    return sorted(found, key=lambda node: node.id)


_ENDS: dict[str, type[Offer | Step]] = {"offer": Offer, "public": Step, "sums": Step}


class Members:
    """The hospitals of one question, each asked by its node; ``extra`` is what a phase needs beside the roster."""

    def __init__(self, gateway: Gateway, network: Network, question: Question, nodes: list[NodeEndpoint]) -> None:
        self._gateway, self._network, self._question, self._nodes = gateway, network, question, nodes
        self._roster = [[node.id, node.public.key_id if node.public else ""] for node in nodes]

    async def offers(self) -> dict[str, Offer]:
        """Every hospital's offer, with its seeds for those after it where there are any, by node.

        Raises:
            CallFailed: one does not take part; the others were told.
        """
        found = await self.ask(self._nodes, "offer")
        offers = {name: item for name, item in found.items() if isinstance(item, Offer)}
        if len(offers) < len(self._nodes) or len({offer.session for offer in offers.values()}) > 1:
            # Nothing is charged now, but where a node says so: it had begun its share for an earlier attempt.
            told = await self.abort(self._nodes)
            raise self.failure(found, {n for n, item in told.items() if item.sent and item.code in _NODES_WORD})
        return offers

    async def abort(self, nodes: Iterable[NodeEndpoint]) -> dict[str, CallFailed]:
        """Tells hospitals that there will be no sum. Each replies with an error that says whether it keeps its charge;
        of one that cannot be reached the code is ``no_node``."""
        found = await self.ask(nodes, "abort")
        return {name: item for name, item in found.items() if isinstance(item, CallFailed)}

    def abort_later(self, nodes: Iterable[NodeEndpoint]) -> None:
        """:meth:`abort` for whoever cannot wait for it."""
        _last_wishes.add(task := asyncio.ensure_future(self.abort(nodes)))
        task.add_done_callback(_last_wishes.discard)

    def failure(self, found: dict[str, Any], charged: set[str]) -> CallFailed:
        names = {node.id: node.name for node in self._nodes}
        failed = [(name, item) for name, item in found.items() if isinstance(item, CallFailed)]
        if not failed:
            return CallFailed("node_failed", sent=bool(charged), details={"charged_at": sorted(charged)})
        name, error = failed[0]
        reason = errors.from_code(error.code, None, error.details).message
        kept = ", ".join(names[n] for n in sorted(charged))
        cost = f"Charged all the same: {kept}." if charged else "No hospital's records were charged."
        details = {"hospital": name, "charged_at": sorted(charged), "why": f"{names[name]}: {reason} {cost}"}
        return CallFailed(error.code, sent=bool(charged), details=details)

    async def ask(
        self, nodes: Iterable[NodeEndpoint], phase: str, extra: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """What each node said, by node: an offer, a step, an answer, or the failure. ``extra`` goes by node."""
        nodes = list(nodes)
        found = await asyncio.gather(
            *(self._one(node, phase, (extra or {}).get(node.id, {})) for node in nodes), return_exceptions=True
        )
        for item in found:
            if isinstance(item, BaseException) and not isinstance(item, CallFailed):
                raise item
        return {node.id: item for node, item in zip(nodes, found, strict=True)}

    async def _one(self, node: NodeEndpoint, phase: str, extra: dict[str, Any]) -> Offer | Step | Answer:
        question = self._question
        across = {"phase": phase, "roster": self._roster, **extra}
        payload = {**question.payload, "across": across}
        call = Call(str(question.id), question.kind, question.model, False, question.digest, payload)
        last: Offer | Step | Answer | None = None
        with self._network.using(node.id) as breaker:
            try:
                async for item in self._gateway.call(node, call):
                    last = item if isinstance(item, Offer | Step | Answer) else last
            except CallFailed as error:
                if error.broken:
                    breaker.failed()
                raise
            breaker.succeeded()
        if last is None or not isinstance(last, _ENDS.get(phase, Answer)):
            raise CallFailed("node_failed", sent=True)
        return last


class _Session(Members):
    async def shares(self, offers: dict[str, Offer]) -> dict[str, Answer]:
        """Every hospital's share, by node.

        Raises:
            CallFailed: one dropped out.
        """
        seeds = {
            node.id: {"seeds": {name: offer.seeds[node.id] for name, offer in offers.items() if node.id in offer.seeds}}
            for node in self._nodes
        }
        found = await self.ask(self._nodes, "sum", seeds)
        answers = {name: item for name, item in found.items() if isinstance(item, Answer)}
        if len(answers) < len(self._nodes):
            told = await self.abort([node for node in self._nodes if node.id not in answers])
            free = {name for name, item in told.items() if not item.sent and item.code != "no_node"}
            unsure = {name for name, item in found.items() if isinstance(item, CallFailed) and item.sent}
            raise self.failure(found, set(answers) | unsure - free)
        return answers


def _together(question: Question, nodes: list[NodeEndpoint], answers: dict[str, Answer]) -> Answer:
    """Adds up and says it.

    Raises:
        CallFailed: the shares do not belong together.
    """
    plan = plan_of(question.payload["parameters"])
    try:
        told = {name: json.loads(found.text) for name, found in answers.items()}
        if not isinstance(plan, AcrossPlan) or len({share["session"] for share in told.values()}) > 1:
            raise InvalidParameter("The shares are of different sums.", field="shares")
        members = [(node.id, node.public.key_id if node.public else "") for node in nodes]
        summed = session.make(str(question.id), members, "0" * 64, plan.cells)
        numbers = masks.total(summed, {name: masks.from_text(share["share"]) for name, share in told.items()})
    except (DomainError, KeyError, TypeError, ValueError):
        details = {"reason": "shares", "charged_at": sorted(answers)}
        raise CallFailed("node_failed", sent=True, details=details) from None
    words = {tuple(share["words"]) for share in told.values()}
    known = list(words.pop()) if len(words) == 1 else []
    text = across_text.told(plan, numbers, question.payload.get("options") or [], [node.name for node in nodes], known)
    return Answer(text, "stop", 0, 0, _receipt(question, plan, text, numbers, nodes, answers))


def _receipt(
    question: Question,
    plan: AcrossPlan,
    text: str,
    numbers: list[int],
    nodes: list[NodeEndpoint],
    answers: dict[str, Answer],
) -> dict[str, Any]:
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
        "numbers": numbers,
    }
    parts = [(found.receipt or {}, found.text) for found in (answers[node.id] for node in nodes)]
    return receipts.issue_together(identity.load(settings.IDENTITY_DIR), body, text, parts)


def repeated(question: Question, row: uuid.UUID, text: str, receipt: dict[str, Any]) -> Answer | None:
    """An earlier answer to the very same request, said again for nothing; None if it is of another claim sheet."""
    body = receipt["body"]
    mechanism = body["mechanism"]
    if mechanism["claim"] != claims.sheet(mechanism["name"]).reference:
        return None
    again = {
        **{name: body[name] for name in ("kind", "model", "hospitals", "numbers", "tokens", "left") if name in body},
        "message_id": str(question.id),
        "request_digest": question.digest,
        "mechanism": {**mechanism, "repeat_of": str(row), "released_at": body["at"]},
    }
    parts = list(zip(receipt["receipts"], receipt["shares"], strict=True))
    issued = receipts.issue_together(identity.load(settings.IDENTITY_DIR), again, text, parts)
    return Answer(text, "stop", 0, body["tokens"], issued)
