"""This node's part in a text that several hospitals write together: sums over its patients, token by token.

Messages of one id, in this order. ``offer``: the node decides by its policy and reserves the whole plan from its own
block; nothing is read. Then for each token ``public`` (asked of one of the hospitals only: the likeliest tokens of the
question alone) and ``sums`` (asked of each: the sums over its best patients at exactly these tokens). ``finish``: it
settles at the tokens that it gave sums for, and signs what was written. ``abort`` ends it at any time.

The sums go to the coordinator without noise; it draws the token. That is central DP with the coordinator trusted, and
``privacy.dp.across_text`` holds the claim. What the node can see to, it does: no sum without a paid plan, one sum a
token, no more tokens than planned, each following from the one before, the same hospitals and plan throughout.

Between two messages a session lives in the memory of this process alone, with a deadline. Whatever is out of order,
late, or asked twice ends it for good: no further sum is given, and the reserved cost stays charged once a record was
read. A restart ends all of them the same way (:func:`federation.node.calls.give_up_interrupted`).
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings

from fdrouter.errors import Conflict, DependencyUnavailable, DomainError, InvalidParameter, NodeFailed
from federation import identity, sealing
from federation.database import in_thread
from federation.engine.serve import BLOCK_TOKENS
from federation.models import NodeCall, NodeCallState
from federation.node import blocks, calls, peers, search, service
from federation.node.calls import Message, Outcome
from federation.node.engine import EngineUnreachable
from federation.node.prompts import GroupPrompts
from federation.node.scoring import ScoringClient, fresh_salt
from privacy import claims
from privacy.dp.accounting import is_whole
from privacy.dp.across_text import MOST_CANDIDATES, TextAcrossPlan, summed

PROTOCOL = "fdrouter/token-sums/v1"
IDLE_SECONDS = 60.0  # from the end of one message to the next
SESSION_SECONDS = 600.0  # from the offer to the last token
MOST_SESSIONS = 4


@dataclass
class Session:
    """One text being written. ``tokens`` are those drawn so far; ``allowed`` the candidates of the one being drawn.

    ``given`` counts the sums that left: what settling keeps. ``read`` is set before the first record is looked at.
    """

    message: Message
    call: NodeCall
    digest: str
    public: list[int]
    start: str
    until: float
    salt: str = field(default_factory=fresh_salt, repr=False)
    tokens: list[int] = field(default_factory=list)
    allowed: frozenset[int] = frozenset()
    given: int = 0
    read: bool = False
    busy: bool = False
    rows: list[list[int]] = field(default_factory=list, repr=False)
    salts: list[str] = field(default_factory=list, repr=False)
    patients: int = field(default=0, repr=False)
    timer: asyncio.TimerHandle | None = field(default=None, repr=False)

    @property
    def plan(self) -> TextAcrossPlan:
        return plan_of(self.message)

    @property
    def question(self) -> str:
        return service.question_of(self.message)


_sessions: dict[uuid.UUID, Session] = {}
_endings: set[asyncio.Future[Any]] = set()


async def answer(message: Message, engine: ScoringClient) -> AsyncIterator[dict[str, Any]]:
    """Events of one message, the last of them ``offer``, ``step``, ``answer`` or ``error``."""
    asked = message.across or {}
    try:
        if asked.get("phase") == "abort":
            yield await _abort(message)
            return
        digest = await in_thread(agreed)(message)
        if asked.get("phase") == "offer":
            yield await _offer(message, digest, engine)
        elif (session := _sessions.get(message.id)) is not None:
            yield await _within(session, digest, asked, engine)
        else:
            yield await _ended(message, asked)
    except DomainError as error:
        charged = await in_thread(calls.is_charged)(message)
        yield service.error_event(error, charged=charged, broken=not isinstance(error, InvalidParameter | Conflict))


# --- what is agreed ---------------------------------------------------------------------------------------------------
def plan_of(message: Message) -> TextAcrossPlan:
    """Raises :class:`InvalidParameter`: the plan is another one."""
    if not isinstance(message.plan, TextAcrossPlan):
        raise InvalidParameter("A text of several hospitals needs a plan for it.", field="parameters")
    return message.plan


def agreed(message: Message) -> str:
    """SHA-256 in hex of everything that the hospitals agree on, by this node's own reading of the message.

    The coordinator sees this node's sums without noise, so a hospital takes part only if it has said so
    (``FDROUTER_WRITE_TOGETHER``), with peers that its operator has pinned, and never with few slots of its own.

    Raises:
        InvalidParameter: this hospital does not take part; the roster is malformed, without this node's own keys, with
            a peer that is not pinned, or not of the plan's size.
    """
    if not settings.WRITE_TOGETHER:
        raise InvalidParameter("This hospital does not write texts together with others.", field="privacy.across")
    plan, roster = plan_of(message), (message.across or {}).get("roster")
    if not isinstance(roster, list) or not all(_is_member(member) for member in roster):
        raise InvalidParameter("There is no roster.", field="across.roster")
    names = [name for name, _ in roster]
    if names != sorted(set(names)) or len(names) != plan.hospitals:
        raise InvalidParameter("The plan is for another number of hospitals.", field="across.roster")
    me = identity.load(settings.IDENTITY_DIR)
    if [me.name, me.public.key_id] not in roster:
        raise InvalidParameter("This node is not in the roster with its own keys.", field="across.roster")
    for name, key_id in roster:
        if name != me.name and ((peer := peers.known(name)) is None or peer.key_id != key_id):
            raise InvalidParameter(
                f"{me.name} does not know {name[:40]} with these keys: its operator must trust them first.",
                field="across.roster",
            )
    words = " ".join(service.question_of(message).split())
    written = [message.kind.value, message.model, words, plan.to_event(), message.purpose, message.request_digest]
    return hashlib.sha256(sealing.canonical([PROTOCOL, str(message.id), roster, *written])).hexdigest()


def _is_member(member: Any) -> bool:
    return isinstance(member, list) and len(member) == 2 and all(isinstance(part, str) for part in member)


# --- offer ------------------------------------------------------------------------------------------------------------
async def _offer(message: Message, digest: str, engine: ScoringClient) -> dict[str, Any]:
    """Decides and reserves. The same offer again, before any record was read, is the same offer.

    Raises:
        PolicyDenied, BlockExhausted, ClaimMissing, InvalidParameter, EngineUnreachable, DependencyUnavailable: nothing
            is charged. Conflict: the session is here already and has gone on, or has ended.
    """
    if (session := _sessions.get(message.id)) is not None:
        if session.digest == digest and not session.read and not session.busy:
            return _offered(session)
        await _end(session, "conflict")
        raise Conflict("This text was being written already; it has ended.")
    claims.sheet(plan_of(message).name)
    rows = await asyncio.to_thread(_rows, engine, service.question_of(message), [], 1)
    if len(_sessions) >= MOST_SESSIONS:
        raise DependencyUnavailable("This hospital is writing as many texts as it can. Try again.")
    if not await engine.healthy():
        raise EngineUnreachable
    call = await service.begin(message)
    session = Session(message, call, digest, rows.public, rows.start, time.monotonic() + SESSION_SECONDS)
    _sessions[message.id] = session
    _start_clock(session)
    return _offered(session)


def _rows(engine: ScoringClient, question: str, documents: list[str], slots: int) -> GroupPrompts:
    """Each step computes the tokens of every row that fill no block of the engine's cache: at first one, then one more
    for each that was written."""
    return engine.prompts.group(question, documents, slots, block=BLOCK_TOKENS)


def _offered(session: Session) -> dict[str, Any]:
    return {"type": "offer", "session": session.digest, "seeds": {}}


# --- steps ------------------------------------------------------------------------------------------------------------
async def _within(session: Session, digest: str, asked: dict[str, Any], engine: ScoringClient) -> dict[str, Any]:
    """One message of an open session. Whatever goes wrong in it, a coordinator that leaves included, ends it."""
    try:
        if session.digest != digest:
            raise InvalidParameter("This is not the session that was offered.", field="across.roster")
        if session.busy or time.monotonic() > session.until:
            raise Conflict("This session answers another message, or has lasted too long.")
        session.busy = True
        _stop_clock(session)
        steps = {"public": _public, "sums": _sums, "finish": _finish}
        if (step := steps.get(str(asked.get("phase")))) is None:
            raise InvalidParameter("This is no step of a text.", field="across.phase")
        event = await step(session, asked, engine)
        if event["type"] != "answer":
            _check_open(session)
    except BaseException as error:
        await asyncio.shield(_end(session, getattr(error, "code", "cancelled")))
        raise
    session.busy = False
    _start_clock(session)
    return event


async def _public(session: Session, asked: dict[str, Any], engine: ScoringClient) -> dict[str, Any]:
    """The likeliest next tokens after the question and what was written: no record has a part in it."""
    _follow(session, asked)
    ids, values = await engine.likeliest([*session.public, *session.tokens], session.salt)
    text = await asyncio.to_thread(engine.prompts.written, session.start, session.tokens)
    return {"type": "step", "ids": ids, "values": values, "text": text, "end": engine.prompts.end_token}


async def _sums(session: Session, asked: dict[str, Any], engine: ScoringClient) -> dict[str, Any]:
    """The sums for the next token. From here on a record was read, and this token is paid for, whatever comes of it."""
    _follow(session, asked)
    if session.given >= session.plan.max_tokens or engine.prompts.end_token in session.tokens:
        raise InvalidParameter("The text has as many tokens as planned, or has ended.", field="across.tokens")
    candidates = await asyncio.to_thread(_candidates, asked.get("candidates"), engine)
    _check_open(session)  # from here to the first await: whoever ends it next sees that a record may have been read
    first, session.read = not session.read, True
    session.allowed, session.given = frozenset(candidates), session.given + 1
    if first:
        await _read(session, engine)
    written = session.tokens
    rows = [[*row, *written] for row in (session.public, *session.rows)]
    values = await engine.at(rows, candidates, [session.salt, *session.salts])
    # Slots without a patient are computed like the others, for the same time, and then left out.
    return {"type": "step", "sums": summed(session.plan, values[0], values[1 : 1 + session.patients])}


async def _read(session: Session, engine: ScoringClient) -> None:
    """Finds this node's best patients. How long that took would tell how many matched, so it takes a whole slot."""
    begun, slots = time.monotonic(), session.plan.slots
    covered = await in_thread(blocks.covered)(session.message.id)
    hits = await in_thread(search.top_patients)(session.question, covered, limit=slots)
    excerpts = [hit.excerpt for hit in hits]
    prompts = await asyncio.to_thread(_rows, engine, session.question, excerpts, slots)
    session.rows, session.patients = prompts.private, len(hits)
    session.salts = [fresh_salt() for _ in session.rows]
    await service.whole_slot(begun)


async def _finish(session: Session, asked: dict[str, Any], engine: ScoringClient) -> dict[str, Any]:
    """Settles at the tokens that sums were given for, and signs what was written from them.

    What is signed is ``{"session", "text", "tokens"}``, by which the hospitals' receipts are known to belong together.
    """
    _follow(session, asked)
    if not session.tokens:
        raise InvalidParameter("Nothing was written.", field="across.tokens")
    text = await asyncio.to_thread(engine.prompts.written, session.start, session.tokens)
    told = sealing.canonical({"session": session.digest, "text": text, "tokens": session.tokens}).decode()
    ended = "stop" if session.tokens[-1] == engine.prompts.end_token else "length"
    outcome = Outcome(told, ended, len(session.public), session.given)
    receipt = await in_thread(calls.finish)(session.message, session.call, outcome)
    _forget(session)
    return service.answer_event(outcome, receipt)


def _follow(session: Session, asked: dict[str, Any]) -> None:
    """Takes over the token that was drawn since, where one was.

    Raises:
        InvalidParameter: these are not this session's tokens, or the new one was no candidate. Conflict: the token
            being drawn was asked about before, or has not been told.
    """
    tokens = asked.get("tokens")
    if not isinstance(tokens, list) or not all(map(is_whole, tokens)):
        raise InvalidParameter("There are no tokens.", field="across.tokens")
    if tokens != session.tokens:
        if tokens[:-1] != session.tokens or tokens[-1] not in session.allowed:
            raise InvalidParameter("These tokens do not follow from the ones before.", field="across.tokens")
        session.tokens, session.allowed = list(tokens), frozenset()
    if session.given != len(session.tokens):
        raise Conflict("This token was asked about already.")


def _check_open(session: Session) -> None:
    """Raises :class:`NodeFailed`: another message, or the time, has ended the session meanwhile."""
    if _sessions.get(session.message.id) is not session:
        raise NodeFailed("The session ended meanwhile.")


def _candidates(asked: Any, engine: ScoringClient) -> list[int]:
    """Raises :class:`InvalidParameter`: these are not ids of tokens that an answer may contain, each once."""
    prompts = engine.prompts
    known = len(prompts.tokenizer)
    if not isinstance(asked, list) or not 1 <= len(asked) <= MOST_CANDIDATES or len(set(map(str, asked))) < len(asked):
        raise InvalidParameter(f"There must be 1 to {MOST_CANDIDATES} candidates.", field="across.candidates")
    if not all(is_whole(token) and 0 <= token < known for token in asked) or set(asked) & set(prompts.reserved()):
        raise InvalidParameter("A candidate is no token of an answer.", field="across.candidates")
    return asked


# --- endings ----------------------------------------------------------------------------------------------------------
async def _ended(message: Message, asked: dict[str, Any]) -> dict[str, Any]:
    """A message without a session: the stored answer where the text was finished, as it was, for nothing.

    Raises:
        Conflict: there was no offer, or the session has ended.
    """
    call = await in_thread(NodeCall.objects.filter(pk=message.id).first)()
    if call is None or call.state != NodeCallState.DONE or asked.get("phase") != "finish":
        raise Conflict("This node writes no such text, or has given it up.")
    await in_thread(calls.repeated)(message)
    outcome, receipt = await in_thread(calls.stored_answer)(call)
    return service.answer_event(outcome, receipt)


async def _abort(message: Message) -> dict[str, Any]:
    """Ends the session. The reply is an error that says whether its cost stays: it does once a record was read."""
    if (session := _sessions.get(message.id)) is not None:
        await _end(session, "cancelled")
    charged = await in_thread(calls.is_charged)(message)
    return {"type": "error", "code": "cancelled", "details": {}, "charged": charged, "broken": False}


async def _end(session: Session, code: str) -> None:
    """No further sum. The whole reserved cost stays once a record was read; before, it is given back."""
    if _forget(session):
        await in_thread(calls.fail)(session.message, session.call, code, data_seen=session.read)


def _forget(session: Session) -> bool:
    """Drops the session with the records' tokens in it; False where somebody did before."""
    _stop_clock(session)
    session.rows, session.salts = [], []
    return _sessions.pop(session.message.id, None) is not None


def _stop_clock(session: Session) -> None:
    if session.timer is not None:
        session.timer.cancel()
        session.timer = None


def _start_clock(session: Session) -> None:
    if _sessions.get(session.message.id) is not session:
        return
    loop = asyncio.get_running_loop()
    seconds = min(IDLE_SECONDS, max(0.0, session.until - time.monotonic()))
    session.timer = loop.call_later(seconds, lambda: _last(loop.create_task(_end(session, "node_timeout"))))


def _last(ending: asyncio.Future[None]) -> None:
    """Keeps a task that nobody waits for until it is over."""
    _endings.add(ending)
    ending.add_done_callback(_endings.discard)
