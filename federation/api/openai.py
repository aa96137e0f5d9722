"""``/v1``: the OpenAI-compatible API. Async views behind the lean handler: no middleware, no threads."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from accounts.principals import token_digest
from fdrouter import api
from fdrouter.errors import DomainError, InvalidParameter, NotFound, Unauthenticated, UnknownModel
from federation import asks, inference, offers, selectors
from federation.admission import Credential, load_actor
from federation.asks import Ask, PrivacyOptions
from federation.choosing import AUTO
from federation.database import in_thread
from federation.frames import Frame

MAX_BODY_BYTES = 256 * 1024
_encode = msgspec.json.Encoder().encode
_PRIVACY_FIELDS = frozenset(
    "kind epsilon delta hospitals idempotency_key patient purpose contexts max_tokens top_k options picks threshold"
    " across".split()
)
_HEADERS = {
    "X-Privacy-Kind": "kind",
    "X-Privacy-Epsilon": "epsilon",
    "X-Privacy-Delta": "delta",
    "X-Privacy-Hospitals": "hospitals",
    "X-Privacy-Idempotency-Key": "idempotency_key",
    "X-Purpose-Of-Use": "purpose",
}


class ChatRequest(msgspec.Struct):
    """The fields of OpenAI's request that mean something here; the others are ignored, as OpenAI's servers do."""

    model: Any
    messages: Any
    stream: bool = False
    max_tokens: Any = None
    max_completion_tokens: Any = None
    temperature: Any = None
    n: Any = None
    stream_options: Any = None
    privacy: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(ChatRequest).decode


def credential_of(request: HttpRequest) -> Credential:
    """The bearer token's digest; raises :class:`Unauthenticated` without one."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated
    return Credential(token=token_digest(token.strip()))


def _privacy(request: HttpRequest, body: ChatRequest) -> PrivacyOptions:
    found: dict[str, Any] = {}
    for header, name in _HEADERS.items():
        if (value := request.headers.get(header)) is not None:
            found[name] = _header_value(name, value)
    found |= body.privacy or {}
    extra = {name: found.pop(name) for name in list(found) if name not in _PRIVACY_FIELDS}
    return PrivacyOptions(**found, extra=extra)


def _header_value(name: str, value: str) -> Any:
    if name == "hospitals":
        return [part.strip() for part in value.split(",") if part.strip()]
    if name in ("epsilon", "delta"):
        try:
            return float(value)
        except ValueError:
            raise InvalidParameter(f"{name} must be a number.", field=f"privacy.{name}") from None
    return value


async def parse(request: HttpRequest, data: bytes) -> Ask:
    """The body and headers as a valid request.

    Raises:
        InvalidParameter, PushTooSmall.
    """
    try:
        body = _decode(data)
    except (msgspec.MsgspecError, UnicodeError):
        raise InvalidParameter("The body is not a valid chat completion request.", field="body") from None
    if body.n not in (None, 1):
        raise InvalidParameter("Only one answer a request is given: n must be 1.", field="n")
    privacy = _privacy(request, body)
    published = await in_thread(selectors.published)() if privacy.kind == AUTO else ()
    return await asks.make_aside(
        model=body.model,
        messages=body.messages,
        privacy=privacy,
        published=published,
        channel="api",
        stream=body.stream,
        max_tokens=body.max_tokens if body.max_tokens is not None else body.max_completion_tokens,
        temperature=body.temperature,
    )


@csrf_exempt
async def chat_completions(request: HttpRequest) -> HttpResponseBase:
    """POST /v1/chat/completions."""
    try:
        if request.method != "POST":
            return api.method_not_allowed("POST")
        credential = credential_of(request)
        service = inference.service()
        await service.known(credential)  # planning costs time, which only people of the network get
        ask = await parse(request, request.body)
        request_id = await service.submit(credential, ask)
        frames = service.follow(request_id)
        if ask.stream:
            return await _streamed(request_id, ask, frames)
        async for frame, data in frames:
            if frame is Frame.FAILED:
                raise await _refused(request_id, data)
            if frame is Frame.DONE:
                return _json(completion(request_id, ask, data))
        raise AssertionError("frames end with a last frame")
    except DomainError as error:
        return api.openai_response(error)


async def _refused(request_id: uuid.UUID, data: dict[str, Any]) -> DomainError:
    """The error of an admitted request, with what to do instead where a hospital's block could not pay."""
    return await in_thread(offers.after_end)(inference.error_of(data), request_id)


async def _streamed(request_id: uuid.UUID, ask: Ask, frames: AsyncIterator[tuple[Frame, Any]]) -> HttpResponseBase:
    """Headers are sent with the first frame, so a refusal by the node still has its own status."""
    first = await anext(frames)
    while first[0] is Frame.PROGRESS:
        first = await anext(frames)
    if first[0] is Frame.FAILED:
        raise await _refused(request_id, first[1])
    response = StreamingHttpResponse(_events(request_id, ask, first, frames), content_type="text/event-stream")
    response["Cache-Control"] = "no-store"
    response["X-Accel-Buffering"] = "no"
    return response


async def _events(
    request_id: uuid.UUID, ask: Ask, first: tuple[Frame, Any], frames: AsyncIterator[tuple[Frame, Any]]
) -> AsyncIterator[bytes]:
    base = {"id": f"chatcmpl-{request_id.hex}", "object": "chat.completion.chunk", "created": int(time.time())}
    base["model"] = ask.model
    frame, data = first
    sent = ""
    yield _event(base, {"role": "assistant", "content": ""}, None)
    while True:
        if frame is Frame.DELTA:
            sent += data
            yield _event(base, {"content": data}, None)
        elif frame is Frame.DONE:
            # All of a stored answer; of one whose last deltas were lost on the way, what is missing.
            if (rest := data["answer"].removeprefix(sent)) and data["answer"].startswith(sent):
                yield _event(base, {"content": rest}, None)
            last = {"usage": usage(data), "privacy": data["privacy"], "node": data["node"]}
            yield _event(base, {}, data["finish_reason"], **last)
            yield b"data: [DONE]\n\n"
            return
        elif frame is Frame.FAILED:
            yield b"data: " + _encode(api.openai_error(inference.error_of(data))) + b"\n\n"
            return
        frame, data = await anext(frames)


def _event(base: dict[str, Any], delta: dict[str, str], finish: str | None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: " + _encode({**base, "choices": [choice], **more}) + b"\n\n"


def usage(data: dict[str, Any]) -> dict[str, int]:
    prompt, completion_tokens = data["usage"]
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt + completion_tokens,
    }


def completion(request_id: uuid.UUID, ask: Ask, data: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's chat completion, with ``privacy`` and ``node`` beside it."""
    message = {"role": "assistant", "content": data["answer"]}
    return {
        "id": f"chatcmpl-{request_id.hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": ask.model,
        "choices": [{"index": 0, "message": message, "finish_reason": data["finish_reason"]}],
        "usage": usage(data),
        "privacy": data["privacy"],
        "node": data["node"],
    }


def _json(body: Any, status: int = 200) -> HttpResponse:
    data = _encode(body)
    return HttpResponse(
        data, status=status, content_type="application/json", headers={"content-length": str(len(data))}
    )


async def models(request: HttpRequest) -> HttpResponseBase:
    """GET /v1/models: what the network's nodes serve to this person."""
    if request.method != "GET":
        return api.method_not_allowed("GET")
    try:
        names = await _models_for(request)
    except DomainError as error:
        return api.openai_response(error)
    items = [{"id": name, "object": "model", "created": 0, "owned_by": "fdrouter"} for name in names]
    return _json({"object": "list", "data": items})


async def _models_for(request: HttpRequest) -> list[str]:
    await in_thread(load_actor)(credential_of(request))
    return await in_thread(selectors.served_models)()


async def model(request: HttpRequest, name: str) -> HttpResponseBase:
    """GET /v1/models/{name}."""
    if request.method != "GET":
        return api.method_not_allowed("GET")
    try:
        if name not in await _models_for(request):
            raise UnknownModel
    except DomainError as error:
        return api.openai_response(error)
    return _json({"id": name, "object": "model", "created": 0, "owned_by": "fdrouter"})


async def unknown(request: HttpRequest, rest: str = "") -> HttpResponseBase:
    """Everything else under /v1."""
    return api.openai_response(NotFound("There is no such endpoint."))


urlpatterns = [
    path("v1/chat/completions", chat_completions),
    path("v1/models", models),
    path("v1/models/<path:name>", model),
    path("v1/<path:rest>", unknown),
]
