"""This node's part in a sum of several hospitals: nobody, the coordinator included, sees its number.

Two messages of one id. ``offer``: the node decides by its policy, reserves the whole cost from its own block, and hands
out a fresh secret seed for each peer after it, sealed to the peer's keys as its operator pinned them and signed.
``sum``: it opens the seeds that peers chose for it, counts, adds its part of the noise, and gives the result under all
masks. A third, ``abort``, gives the reservation back as long as no share was made.

The node takes from the coordinator neither keys nor noise: the roster must be of pinned peers, the plan must be for as
many, and each mask is bound to the roster, the question and the plan (:mod:`federation.secagg.session`). One share is
made of a session, whoever asks how often; a repeat gets the very same one. What an offer keeps until then is sealed in
``NodeCall.answer``, and whoever takes it away makes the share.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from fdrouter import crypto
from fdrouter.errors import Conflict, DomainError, InvalidParameter
from fdrouter.evidence import Event, record
from federation import identity, sealing
from federation.database import in_thread
from federation.models import NodeCall, NodeCallState
from federation.node import blocks, calls, cohorts, peers, service, votes
from federation.node.calls import Message, Outcome
from federation.secagg import masks, session
from federation.secagg.session import Session
from privacy import claims, ledger
from privacy.dp.across_plans import AcrossPlan
from privacy.dp.cohort_plans import plan_choice, plan_count

OFFER_SECONDS = 600
_PURPOSE = "across-offer"


@dataclass(frozen=True, slots=True)
class _Offer:
    """What the node keeps between its two messages."""

    digest: str
    seeds: dict[str, bytes]


async def answer(message: Message) -> AsyncIterator[dict[str, Any]]:
    """Events of one message, the last of them ``offer``, ``answer`` or ``error``."""
    try:
        phase = (message.across or {}).get("phase")
        if phase == "abort":  # whatever became of the roster: a reservation can always be given back
            yield await in_thread(_abort)(message)
            return
        found = await in_thread(agreed)(message)
        if phase == "offer":
            yield await in_thread(_offer)(message, found)
        elif phase == "sum":
            async for event in _sum(message, found):
                yield event
        else:
            raise InvalidParameter("This is no step of a sum.", field="across.phase")
    except DomainError as error:
        charged = await in_thread(calls.is_charged)(message)
        yield service.error_event(error, charged=charged, broken=False)


# --- what is agreed -------------------------------------------------------------------------------------------------
def agreed(message: Message) -> Session:
    """The session that the message speaks of, as this node sees it.

    Raises:
        InvalidParameter: the roster is not one of pinned peers and this node, or not of the plan's size.
    """
    plan, across = _plan(message), message.across or {}
    roster = across.get("roster")
    if not isinstance(roster, list) or not all(isinstance(member, list) for member in roster):
        raise InvalidParameter("There is no roster.", field="across.roster")
    found = session.make(str(message.id), roster, calls.subject(message), plan.cells)
    if len(found.members) != plan.hospitals:
        raise InvalidParameter("The plan is for another number of hospitals.", field="across.roster")
    me = identity.load(settings.IDENTITY_DIR)
    if (me.name, me.public.key_id) not in found.members:
        raise InvalidParameter("This node is not in the roster with its own keys.", field="across.roster")
    for name, key_id in found.members:
        if name != me.name and ((peer := peers.known(name)) is None or peer.key_id != key_id):
            raise InvalidParameter(
                f"{me.name} does not know {name[:40]} with these keys: its operator must trust them first.",
                field="across.roster",
            )
    return found


def _plan(message: Message) -> AcrossPlan:
    if not isinstance(message.plan, AcrossPlan):
        raise InvalidParameter("A sum of several hospitals needs a plan for it.", field="parameters")
    return message.plan


# --- offer ----------------------------------------------------------------------------------------------------------
def _offer(message: Message, found: Session) -> dict[str, Any]:
    """Decides, reserves and chooses seeds.

    Raises:
        PolicyDenied, BlockExhausted, ClaimMissing, InvalidParameter: nothing is charged.
        Conflict: the session is here already and has gone on, or was about something else.
    """
    give_up_stale()
    plan = _plan(message)
    claims.sheet(plan.name)
    alone = plan_choice(options=plan.options) if plan.options else plan_count()
    cohorts.check(service.question_of(message), message.options, alone)
    try:
        call = calls.begin(message)
    except Conflict:
        kept = _kept(calls.repeated(message))
        if kept is None or kept.digest != found.digest:
            raise
        return _offered(found, kept)
    kept = _Offer(found.digest, masks.fresh_seeds(found, _me()))
    NodeCall.objects.filter(pk=call.pk, state=NodeCallState.RUNNING).update(answer=_seal(call, kept))
    return _offered(found, kept)


def _me() -> str:
    return identity.load(settings.IDENTITY_DIR).name


def _offered(found: Session, kept: _Offer) -> dict[str, Any]:
    """The seeds, each sealed to the peer that it is for."""
    me, seeds = identity.load(settings.IDENTITY_DIR), {}
    for name, seed in kept.seeds.items():
        if (peer := peers.known(name)) is None:
            raise InvalidParameter(f"{name} is not known any more.", field="across.roster")
        contents = {"session": found.digest, "seed": base64.b64encode(seed).decode()}
        seeds[name] = sealing.seal(me, peer, _seed_id(found), contents).decode()
    return {"type": "offer", "session": found.digest, "seeds": seeds}


def _seed_id(found: Session) -> str:
    """By which a seed's envelope is known: of this session alone."""
    return f"across/{found.digest}"


def _seal(call: NodeCall, kept: _Offer) -> bytes:
    seeds = {name: base64.b64encode(seed).decode() for name, seed in kept.seeds.items()}
    return crypto.seal(_PURPOSE, call.pk.bytes, sealing.canonical({"digest": kept.digest, "seeds": seeds}))


def _kept(call: NodeCall) -> _Offer | None:
    """What the offer kept; None once a share was made, or the call has ended."""
    if call.state != NodeCallState.RUNNING or call.answer is None:
        return None
    stored = json.loads(crypto.unseal(_PURPOSE, call.pk.bytes, call.answer))
    return _Offer(stored["digest"], {name: base64.b64decode(seed) for name, seed in stored["seeds"].items()})


def _take(call: NodeCall) -> bool:
    """Takes the kept seeds away, which one caller alone can do: from here on the call is answered or charged."""
    kept = NodeCall.objects.filter(pk=call.pk, state=NodeCallState.RUNNING, answer=call.answer)
    return call.answer is not None and bool(kept.update(answer=None))


# --- sum ------------------------------------------------------------------------------------------------------------
async def _sum(message: Message, found: Session) -> AsyncIterator[dict[str, Any]]:
    call = await in_thread(_call)(message)
    if call.state == NodeCallState.DONE:
        outcome, receipt = await in_thread(calls.stored_answer)(call)
        yield service.answer_event(outcome, receipt)
        return
    given, got = await in_thread(_opened)(message, call, found)
    yield {"type": "progress", "text": "counting patients under privacy protection"}
    if not await _taken(message, call):
        raise Conflict
    ended = False
    try:
        begun = time.monotonic()
        text = await in_thread(_share)(message, found, given, got)
        await service.whole_slot(begun)
        outcome = Outcome(text, "stop", 0, 0)
        receipt = await in_thread(calls.finish)(message, call, outcome)
        ended = True
        yield service.answer_event(outcome, receipt)
    finally:
        if not ended:  # records were read: what goes wrong from here on is charged
            await asyncio.shield(in_thread(calls.fail)(message, call, "node_failed", data_seen=True))


async def _taken(message: Message, call: NodeCall) -> bool:
    """:func:`_take`; a coordinator that leaves meanwhile leaves no call open."""
    taking = asyncio.ensure_future(in_thread(_take)(call))
    try:
        return await asyncio.shield(taking)
    except asyncio.CancelledError:
        if await taking:
            await in_thread(calls.fail)(message, call, "cancelled", data_seen=False)
        raise


def _call(message: Message) -> NodeCall:
    """Raises :class:`Conflict`: there was no offer, or the session has ended without a share."""
    call = NodeCall.objects.filter(pk=message.id).first()
    if call is None or call.state == NodeCallState.FAILED:
        raise Conflict("This node has no such offer, or has given it up.")
    return calls.repeated(message)


def _opened(message: Message, call: NodeCall, found: Session) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """This node's own seeds, and those that its peers chose for it.

    Raises:
        Conflict: a share is being made, or the offer was for another roster, question or plan.
        InvalidParameter: a seed is missing, damaged, not from its peer, or of another session. The call has ended.
    """
    kept = _kept(call)
    if kept is None or kept.digest != found.digest:
        raise Conflict("The offer was for another sum, or is being answered.")
    try:
        return kept.seeds, _peer_seeds(message, found)
    except InvalidParameter:
        if _take(call):
            calls.fail(message, call, "invalid_parameter", data_seen=False)
        raise


def _peer_seeds(message: Message, found: Session) -> dict[str, bytes]:
    me, got = identity.load(settings.IDENTITY_DIR), {}
    sent = (message.across or {}).get("seeds")
    if not isinstance(sent, Mapping) or set(sent) != set(found.givers(me.name)):
        raise InvalidParameter("There must be one seed from each peer before this node.", field="across.seeds")
    for name, envelope in sent.items():
        peer = peers.known(name)
        try:
            if peer is None:
                raise sealing.BadEnvelope("unknown")
            envelope_id, contents = sealing.unseal(me, peer, str(envelope).encode())
            if envelope_id != _seed_id(found) or contents["session"] != found.digest:
                raise sealing.BadEnvelope("of another session")
            got[name] = base64.b64decode(contents["seed"], validate=True)
            if len(got[name]) != masks.SEED_BYTES:
                raise sealing.BadEnvelope("short")
        except (sealing.BadEnvelope, KeyError, TypeError, ValueError):
            raise InvalidParameter(f"The seed of {name} is not genuine.", field="across.seeds") from None
    return got


def _share(message: Message, found: Session, given: dict[str, bytes], got: dict[str, bytes]) -> str:
    """The noisy numbers under their masks, and the public words that they were found by."""
    plan, question = _plan(message), service.question_of(message)
    covered = blocks.covered(message.id)
    if plan.options:
        true = votes.votes(question, message.options, covered)
    else:
        true = [votes.count(question, covered)]
    words = masks.share(found, _me(), plan.noise.release(true), given, got)
    told = {"session": found.digest, "share": masks.to_text(words), "words": votes.matched_words(question)}
    return sealing.canonical(told).decode()


# --- giving up ------------------------------------------------------------------------------------------------------
def _abort(message: Message) -> dict[str, Any]:
    """Gives the reservation back unless a share was made. The reply is an error that says what stays charged."""
    call = _call(message)
    if _take(call):
        calls.fail(message, call, "cancelled", data_seen=False)
    charged = calls.is_charged(message)
    return {"type": "error", "code": "cancelled", "details": {}, "charged": charged, "broken": False}


def give_up_stale() -> int:
    """Offers that nobody came back for: their reservations are released, and no share will be made of them."""
    before = timezone.now() - timedelta(seconds=OFFER_SECONDS)
    stale = NodeCall.objects.filter(state=NodeCallState.RUNNING, answer__isnull=False, started_at__lt=before)
    given_up = 0
    for pk in list(stale.values_list("pk", flat=True)):
        with transaction.atomic():
            if not stale.filter(pk=pk).update(
                state=NodeCallState.FAILED, code="node_timeout", answer=None, finished_at=timezone.now()
            ):
                continue
            ledger.release(pk)
            for kind, outcome in (("ledger.release", "ok"), ("request.fail", "node_timeout")):
                record(Event(kind=kind, outcome=outcome, subject=pk, hospital=settings.HOSPITAL_ID))
            given_up += 1
    return given_up
