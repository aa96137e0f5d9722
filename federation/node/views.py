"""The node's HTTP interface. Mutual TLS ends in the server; here, envelope and signature are checked once more."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from functools import lru_cache

import aiohttp
import msgspec
from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.views.decorators.csrf import csrf_exempt

from fdrouter import evidence
from fdrouter.errors import DomainError
from federation.database import in_thread
from federation.node import across, health, service, token_sums
from federation.node.calls import Message
from federation.node.engine import Timeouts
from federation.node.prompts import PromptBuilder
from federation.node.scoring import ScoringClient
from federation.sealing import BadEnvelope
from privacy.dp.across_text import TextAcrossPlan

log = logging.getLogger(__name__)

MAX_ENVELOPE_BYTES = 1024 * 1024
_encode = msgspec.json.Encoder().encode


@lru_cache(maxsize=1)
def _prompts() -> PromptBuilder:
    return PromptBuilder(str(settings.MODEL_DIR))


def engine_client(session: aiohttp.ClientSession) -> ScoringClient:
    """The client of this node's engine."""
    timeouts = Timeouts(read=settings.ENGINE_READ_SECONDS)
    return ScoringClient(settings.ENGINE_URL, settings.ENGINE_MODEL, session, prompts=_prompts(), timeouts=timeouts)


@csrf_exempt  # no cookie is read here: the envelope's signature says who asks
async def messages(request: HttpRequest) -> HttpResponseBase:
    """POST /node/messages: a sealed message in, newline-delimited JSON events out."""
    if request.method != "POST":
        return HttpResponse(status=405, headers={"Allow": "POST"})
    try:
        message = service.open_message(request.body)
    except BadEnvelope as error:
        log.warning("message refused", extra={"reason": str(error)[:80]})
        return JsonResponse({"code": "bad_envelope"}, status=400)
    return StreamingHttpResponse(_events(message), content_type="application/x-ndjson")


async def _events(message: Message) -> AsyncIterator[bytes]:
    async with aiohttp.ClientSession() as session:
        if isinstance(message.plan, TextAcrossPlan):
            stream = token_sums.answer(message, engine_client(session))
        elif message.across is not None:
            stream = across.answer(message)
        else:
            stream = service.answer(message, engine_client(session))
        try:
            async for event in stream:
                yield _encode(event) + b"\n"
        finally:
            await stream.aclose()  # type: ignore[attr-defined]


async def health_view(request: HttpRequest) -> JsonResponse:
    """GET /node/health. Asked every few seconds, so that offers which nobody came back for hold no budget for long."""
    try:
        await in_thread(across.give_up_stale)()
        return JsonResponse(await in_thread(health.document)())
    except DomainError as error:
        return JsonResponse({"code": error.code}, status=503)


@csrf_exempt  # no cookie is read here: the envelope's signature says who asks
async def witness(request: HttpRequest) -> HttpResponse:
    """POST /node/witness: the coordinator's checkpoint in a sealed envelope; what this node says to it, as JSON."""
    if request.method != "POST":
        return HttpResponse(status=405, headers={"Allow": "POST"})
    try:
        _, payload = service.open_envelope(request.body)
        return JsonResponse(await in_thread(evidence.witness)(payload["witness"]))
    except (BadEnvelope, DomainError, KeyError) as error:
        log.warning("checkpoint refused", extra={"reason": type(error).__name__})
        return JsonResponse({"code": "bad_checkpoint"}, status=400)
