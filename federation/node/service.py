"""What a node does with a message: open, check, decide, reserve, retrieve, decode, settle, sign.

Events of :func:`answer` are JSON-ready: ``progress``, ``delta``, and last ``answer`` (with receipt) or ``error``.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from django.conf import settings

from fdrouter.errors import Conflict, DomainError, InvalidParameter, NotFound, NothingReleased
from federation import identity, sealing
from federation.database import in_thread
from federation.models import Kind, NodeCall, NodeCallState
from federation.node import blocks, calls, cohorts, search
from federation.node.calls import WITHHELD, Message, Outcome
from federation.node.engine import EngineClient, EngineRefused, EngineUnreachable, GroupSummary, Usage
from federation.node.prompts import chart_messages
from federation.node.released import answers
from privacy.dp.cohort_plans import ChoicePlan, CountPlan, KeywordsPlan
from privacy.dp.confident_plans import ConfidentChoicePlan
from privacy.dp.text_plan import TextPlan

log = logging.getLogger(__name__)

_CLOCK_SKEW_SECONDS = 60
_WAIT_SECONDS = 1.0
CHART_CHARACTERS = 4000
SLOT_SECONDS = 2.0


def open_message(data: bytes) -> Message:
    """Opens an envelope from the coordinator.

    Raises:
        sealing.BadEnvelope: not ours, not theirs, damaged, expired or malformed.
    """
    message_id, payload = open_envelope(data)
    try:
        return calls.parse(message_id, payload)
    except (KeyError, TypeError, ValueError, DomainError) as error:
        raise sealing.BadEnvelope(type(error).__name__) from None


def open_envelope(data: bytes) -> tuple[str, dict[str, Any]]:
    """Id and payload of an envelope of the coordinator, for this node and now.

    Raises:
        sealing.BadEnvelope: not ours, not theirs, damaged or expired.
    """
    folder = settings.IDENTITY_DIR
    message_id, payload = sealing.unseal(identity.load(folder), identity.load_coordinator(folder), data)
    try:
        if not payload["issued_at"] - _CLOCK_SKEW_SECONDS <= time.time() <= payload["expires_at"]:
            raise sealing.BadEnvelope("expired")
    except (KeyError, TypeError) as error:
        raise sealing.BadEnvelope(type(error).__name__) from None
    return message_id, payload


async def answer(message: Message, engine: EngineClient) -> AsyncIterator[dict[str, Any]]:
    """Events of one message. Closing the iterator early ends the call; what a model saw stays charged."""
    try:
        if message.plan is not None:
            await _check(message, engine)  # what cannot be asked or answered is refused before it is charged
            if (earlier := await in_thread(calls.released_before)(message)) is not None:
                async for event in _again(message, earlier):
                    yield event
                return
        call = await begin(message)
    except Conflict:
        async for event in _repeat(message):
            yield event
        return
    except DomainError as error:
        yield error_event(error, charged=False, broken=False)
        return
    progress = _Progress()
    ended = False
    try:
        async for event in _work(message, engine, progress):
            yield event
        counts = progress.prompt_tokens, progress.tokens
        outcome = Outcome(progress.text, progress.finish_reason, *counts, progress.released)
        receipt = await in_thread(calls.finish)(message, call, outcome)
        ended = True
        yield answer_event(outcome, receipt)
    except DomainError as error:
        ended = True
        log.warning("call failed", extra={"request_id": message.id, "code": error.code, "kind": message.kind.value})
        charged = await in_thread(calls.fail)(message, call, error.code, data_seen=progress.data_seen)
        if isinstance(error, EngineRefused) and message.kind is not Kind.COHORT_TEXT:
            error = InvalidParameter("The model did not accept this question; it may be too long.", field="messages")
        yield error_event(
            error, charged=charged, broken=not isinstance(error, InvalidParameter | NotFound | EngineRefused)
        )
    finally:
        if not ended:  # the coordinator went away, or something unforeseen: never leave a call open
            await asyncio.shield(in_thread(calls.fail)(message, call, "cancelled", data_seen=progress.data_seen))


async def _again(message: Message, earlier: NodeCall) -> AsyncIterator[dict[str, Any]]:
    """The stored release of the same request, at no cost."""
    call = await begin(replace(message, plan=None), repeat_of=earlier)
    ended = False
    try:
        outcome, receipt = await in_thread(calls.finish_again)(message, call, earlier)
        ended = True
    finally:
        if not ended:
            free = replace(message, plan=None)
            await asyncio.shield(in_thread(calls.fail)(free, call, "node_failed", data_seen=False))
    yield {"type": "delta", "text": outcome.text}
    yield answer_event(outcome, receipt)


async def _check(message: Message, engine: EngineClient) -> None:
    """Whether this can be answered at all, by the public question alone.

    Raises:
        InvalidParameter: it cannot.
    """
    if isinstance(message.plan, TextPlan):
        await engine.check_question(question_of(message))
    elif message.plan is not None:
        await in_thread(cohorts.check)(question_of(message), message.options, message.plan)


async def begin(message: Message, *, repeat_of: NodeCall | None = None) -> NodeCall:
    """:func:`calls.begin`; a coordinator that leaves while it commits leaves no call open."""
    begun = asyncio.ensure_future(in_thread(calls.begin)(message, repeat_of=repeat_of))
    try:
        return await asyncio.shield(begun)
    except asyncio.CancelledError:
        with suppress(DomainError):
            await in_thread(calls.fail)(message, await begun, "cancelled", data_seen=False)
        raise


class _Progress:
    """What has come so far. ``data_seen``: a model may have seen records. ``released``: what was published is used."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.finish_reason = "stop"
        self.prompt_tokens = 0
        self.tokens = 0
        self.data_seen = False
        self.released: dict[str, Any] | None = None

    @property
    def text(self) -> str:
        return "".join(self.parts)


async def _work(message: Message, engine: EngineClient, progress: _Progress) -> AsyncIterator[dict[str, Any]]:
    if message.kind is Kind.COHORT_TEXT:
        stream = _cohort(message, engine, progress)
    elif message.kind is Kind.COHORT_KEYWORDS:
        stream = _keywords(message, engine, progress)
    elif message.kind.is_cohort:
        stream = _figures(message, progress)
    elif message.kind is Kind.COHORT_RELEASED:
        stream = _released(message, engine, progress)
    elif message.kind is Kind.CHART:
        stream = _chart(message, engine, progress)
    else:
        stream = _chat(message.messages, message, engine, progress)
    async for event in stream:
        yield event


async def _chat(
    messages: list[dict[str, str]], message: Message, engine: EngineClient, progress: _Progress
) -> AsyncIterator[dict[str, Any]]:
    private = message.kind is not Kind.GENERAL
    stream = engine.chat(messages, max_tokens=message.max_tokens, temperature=message.temperature, private=private)
    async for item in stream:
        if isinstance(item, Usage):
            progress.finish_reason = item.finish_reason
            progress.prompt_tokens, progress.tokens = item.prompt_tokens, item.completion_tokens
        else:
            progress.parts.append(item)
            yield {"type": "delta", "text": item}


async def _chart(message: Message, engine: EngineClient, progress: _Progress) -> AsyncIterator[dict[str, Any]]:
    record = await in_thread(_chart_text)(message.patient, question_of(message))
    yield {"type": "progress", "text": "reading the patient's record"}
    progress.data_seen = True
    async for event in _chat(chart_messages(question_of(message), record), message, engine, progress):
        yield event


def _chart_text(patient: str, question: str) -> str:
    chart = search.chart(patient)
    if chart is None:
        raise NotFound("There is no such patient in your care.")
    relevant = search.excerpt(patient, question) or ""
    notes = "\n".join(f"{note.date or ''} {note.kind}: {note.text}" for note in chart.notes)
    return "\n".join([relevant, *chart.facts, notes])[:CHART_CHARACTERS]


async def _cohort(message: Message, engine: EngineClient, progress: _Progress) -> AsyncIterator[dict[str, Any]]:
    plan = message.plan
    if not isinstance(plan, TextPlan):
        raise InvalidParameter("A cohort request needs a plan.", field="parameters")
    question = question_of(message)
    # The number of slots is public; how many patients matched is not, and is told to nobody.
    yield {"type": "progress", "text": f"reading {plan.contexts} records under privacy protection"}
    await _reach(engine)
    covered = await in_thread(blocks.covered)(message.id)
    progress.data_seen = True  # before the search: how long it takes may tell something, so leaving early is not free
    begun = time.monotonic()
    hits = await in_thread(search.top_patients)(question, covered, limit=plan.contexts)
    await whole_slot(begun)
    async for item in engine.decode_group(question, [hit.excerpt for hit in hits], plan):
        if isinstance(item, GroupSummary):
            progress.finish_reason, progress.tokens = item.finish_reason, item.tokens
            progress.prompt_tokens = item.prompt_length
        else:
            progress.parts.append(item)
            yield {"type": "delta", "text": item}


async def _figures(message: Message, progress: _Progress) -> AsyncIterator[dict[str, Any]]:
    """A count or a histogram: no model has a part in it."""
    yield {"type": "progress", "text": "counting patients under privacy protection"}
    progress.data_seen = True
    begun = time.monotonic()
    covered = await in_thread(blocks.covered)(message.id)
    question, plan = question_of(message), message.plan
    if isinstance(plan, CountPlan):
        text = await in_thread(cohorts.count)(question, plan, covered)
    elif isinstance(plan, ChoicePlan):
        text = await in_thread(cohorts.choice)(question, message.options, plan, covered)
    elif isinstance(plan, ConfidentChoicePlan):
        told = await in_thread(cohorts.confident_choice)(question, message.options, plan, covered)
        progress.finish_reason = "stop" if told is not None else WITHHELD
        text = told if told is not None else await in_thread(cohorts.withheld)(question, plan)
    else:
        raise InvalidParameter("A cohort request needs a plan.", field="parameters")
    await whole_slot(begun)
    progress.parts.append(text)
    yield {"type": "delta", "text": text}


async def _keywords(message: Message, engine: EngineClient, progress: _Progress) -> AsyncIterator[dict[str, Any]]:
    """Words are drawn privately; the sentence is the public model's, made from them and the question."""
    if not isinstance(message.plan, KeywordsPlan):
        raise InvalidParameter("A cohort request needs a plan.", field="parameters")
    yield {"type": "progress", "text": "drawing keywords under privacy protection"}
    await _reach(engine)
    progress.data_seen = True
    question, begun = question_of(message), time.monotonic()
    covered = await in_thread(blocks.covered)(message.id)
    words = await in_thread(cohorts.keywords)(question, message.plan, covered)
    await whole_slot(begun)
    yield {"type": "progress", "text": "writing a sentence from the keywords"}
    async for event in _chat(cohorts.keywords_messages(question, words), message, engine, progress):
        yield event
    shown = f"\n\nKeywords from the records: {', '.join(words)}."
    progress.parts.append(shown)
    yield {"type": "delta", "text": shown}


async def _released(message: Message, engine: EngineClient, progress: _Progress) -> AsyncIterator[dict[str, Any]]:
    """From what was published and paid for before: no record is read, and the public model writes where one writes."""
    yield {"type": "progress", "text": "looking through what this hospital has published"}
    found = await in_thread(answers.find)(question_of(message), message.options)
    progress.released = found.released
    if found.messages:
        async for event in _chat(found.messages, message, engine, progress):
            yield event
    progress.parts.append(found.text)
    yield {"type": "delta", "text": found.text}


async def _reach(engine: EngineClient) -> None:
    """Before records are read for it: an engine that is down must not make the reading free, and so repeatable.

    Raises:
        EngineUnreachable: it does not answer.
    """
    if not await engine.healthy():
        raise EngineUnreachable


async def whole_slot(begun: float) -> None:
    """Waits for the next whole slot: how long records took to search would tell how many matched."""
    passed = time.monotonic() - begun
    await asyncio.sleep(math.ceil(passed / SLOT_SECONDS) * SLOT_SECONDS - passed)


def question_of(message: Message) -> str:
    """What is asked."""
    return next(m["content"] for m in reversed(message.messages) if m["role"] == "user")


async def _repeat(message: Message) -> AsyncIterator[dict[str, Any]]:
    """The same message again: its stored answer, free of charge, once it is there."""
    deadline = time.monotonic() + settings.ENGINE_READ_SECONDS
    while True:
        try:
            call = await in_thread(calls.repeated)(message)
        except DomainError as error:
            yield error_event(error, charged=True, broken=False)
            return
        if call.state == NodeCallState.DONE:
            outcome, receipt = await in_thread(calls.stored_answer)(call)
            yield {"type": "delta", "text": outcome.text}
            yield answer_event(outcome, receipt)
            return
        if call.state == NodeCallState.FAILED or time.monotonic() > deadline:
            code = call.code if call.state == NodeCallState.FAILED else "node_timeout"
            charged = await in_thread(calls.is_charged)(message)
            yield {"type": "error", "code": code, "details": {}, "charged": charged, "broken": False}
            return
        await asyncio.sleep(_WAIT_SECONDS)


def answer_event(outcome: Outcome, receipt: dict[str, Any]) -> dict[str, Any]:
    """The last event of an answered message."""
    return {
        "type": "answer",
        "text": outcome.text,
        "finish_reason": outcome.finish_reason,
        "prompt_tokens": outcome.prompt_tokens,
        "completion_tokens": outcome.completion_tokens,
        "receipt": receipt,
    }


def error_event(error: DomainError, *, charged: bool, broken: bool) -> dict[str, Any]:
    """The last event of a refused or failed message."""
    details = {k: v for k, v in error.details.items() if isinstance(v, str | int | float | bool | list)}
    if isinstance(error, InvalidParameter | NothingReleased):  # its sentence is about the public question alone
        details["why"] = error.message
    return {"type": "error", "code": error.code, "details": details, "charged": charged, "broken": broken}
