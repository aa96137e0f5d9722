"""The WebSocket of the Ask page: parse, authorise, call the service, render frames. Protocol: docs/websocket.md."""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

from channels.generic.websocket import AsyncJsonWebsocketConsumer

from accounts.signed_in import still_signed_in
from fdrouter import api
from fdrouter.errors import DomainError, InvalidParameter
from federation import asks, inference, offers, selectors
from federation.admission import Credential
from federation.asks import Ask, PrivacyOptions
from federation.choosing import AUTO
from federation.database import in_thread
from federation.frames import Frame
from federation.quotes import expected_seconds

MAX_FOLLOWED = 4
SIGNED_OUT = 4401


# channels has no types
class AskConsumer(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    """One connection of one signed-in person. Closing it stops no request: the answer goes to the history."""

    async def connect(self) -> None:
        user = self.scope.get("user")
        self._followed: dict[uuid.UUID, asyncio.Task[None]] = {}
        self._user_id: int = user.pk if user is not None and user.is_authenticated else 0
        await self.accept()  # a refused handshake could not tell the page why
        if not self._user_id:
            await self.close(code=SIGNED_OUT)

    async def disconnect(self, code: int) -> None:
        for task in self._followed.values():
            task.cancel()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None, **kwargs: Any) -> None:
        if not self._user_id:  # sent before the close had arrived
            return
        try:
            if not await in_thread(still_signed_in)(self.scope["session"].session_key, self._user_id):
                await self.close(code=SIGNED_OUT)
                return
            await self._handle(_parse(text_data))
        except Exception as error:
            if (known := api.as_domain_error(error)) is None:
                raise
            await self._error(None, known)

    async def _handle(self, content: dict[str, Any]) -> None:
        kind = content.get("type")
        if kind == "ask":
            await self._ask(content)
        elif kind == "cancel":
            await inference.service().cancel(_id(content), self._user_id)
        elif kind == "resume":
            await self._resume(content)
        else:
            raise InvalidParameter("Unknown type of message.", field="type")

    async def _ask(self, content: dict[str, Any]) -> None:
        self._check_room()
        model = content.get("model") or await in_thread(selectors.default_model)()
        privacy = PrivacyOptions(
            kind=content.get("kind"),
            epsilon=content.get("epsilon"),
            hospitals=content.get("hospitals") or (),
            patient=content.get("patient") or "",
            purpose=content.get("purpose") or None,
            idempotency_key=content.get("idempotency_key"),
            options=content.get("options") or None,
            picks=content.get("picks"),
            threshold=content.get("threshold"),
            across=content.get("across"),
        )
        published = await in_thread(selectors.published)() if privacy.kind == AUTO else ()
        ask = await asks.make_aside(
            model=model,
            messages=[{"role": "user", "content": content.get("prompt")}],
            privacy=privacy,
            channel="web",
            stream=True,
            published=published,
        )
        request_id = await inference.service().submit(Credential(user_id=self._user_id), ask)
        try:
            await self.send_json(_accepted(request_id, ask))
        except BaseException:  # the page has gone: the answer is in its history
            inference.service().abandon(request_id)
            raise
        self._start_following(request_id)

    async def _resume(self, content: dict[str, Any]) -> None:
        request_id = _id(content)
        await in_thread(inference.get_own)(self._user_id, request_id)
        self._start_following(request_id)

    def _start_following(self, request_id: uuid.UUID) -> None:
        if request_id in self._followed:
            return
        self._check_room()
        task = asyncio.create_task(self._follow(request_id))
        self._followed[request_id] = task
        task.add_done_callback(lambda _: self._stop_following(request_id))

    def _stop_following(self, request_id: uuid.UUID) -> None:
        self._followed.pop(request_id, None)
        inference.service().abandon(request_id)  # a task that was stopped before its first step has read nothing

    def _check_room(self) -> None:
        if len(self._followed) >= MAX_FOLLOWED:
            raise InvalidParameter("Wait for the answers that are under way.", field="type")

    async def _follow(self, request_id: uuid.UUID) -> None:
        try:
            async for frame, data in inference.service().follow(request_id):
                if frame is Frame.FAILED:
                    error = await in_thread(offers.after_end)(inference.error_of(data), request_id)
                    data = {**data, "details": inference.without_end(error.details)}
                await self.send_json(_message(request_id, frame, data))
        except Exception as error:
            if (known := api.as_domain_error(error)) is None:
                raise
            await self._error(request_id, known)

    async def _error(self, request_id: uuid.UUID | None, error: DomainError) -> None:
        """Of a request that was taken nothing is known yet; one that was refused cost nothing, unless it says more."""
        details = dict(error.details)
        charged = details.pop("charged", None if request_id else False)
        await self.send_json(
            {
                "type": "error",
                "id": str(request_id) if request_id else None,
                "code": error.code,
                "message": error.message,
                "details": details,
                "charged": charged,
            }
        )


def _parse(text: str | None) -> dict[str, Any]:
    try:
        content = json.loads(text or "")
    except ValueError:
        raise InvalidParameter("A message must be JSON text.", field="type") from None
    if not isinstance(content, dict):
        raise InvalidParameter("A message must be an object.", field="type")
    return content


def _accepted(request_id: uuid.UUID, ask: Ask) -> dict[str, Any]:
    return {
        "type": "accepted",
        "id": str(request_id),
        "kind": ask.kind.value,
        "chosen": {"kind": ask.kind.value, "why": ask.chosen.why} if ask.chosen else None,
        "epsilon": ask.plan.epsilon if ask.plan else 0.0,
        "delta": ask.plan.delta if ask.plan else 0.0,
        "expected_seconds": expected_seconds(ask.kind, ask.plan),
    }


def _id(content: dict[str, Any]) -> uuid.UUID:
    try:
        return uuid.UUID(str(content.get("id")))
    except ValueError:
        raise InvalidParameter("id must be the id of a request.", field="id") from None


def _message(request_id: uuid.UUID, frame: Frame, data: Any) -> dict[str, Any]:
    if frame is Frame.PROGRESS:
        return {"type": "progress", "id": str(request_id), **data}
    if frame is Frame.DELTA:
        return {"type": "delta", "id": str(request_id), "text": data}
    if frame is Frame.FAILED:
        return {"type": "error", **data}
    return {
        "type": "done",
        "id": str(request_id),
        "answer": data["answer"],
        "finish_reason": data["finish_reason"],
        "node": data["node"],
        "privacy": data["privacy"],
        "usage": {"prompt_tokens": data["usage"][0], "completion_tokens": data["usage"][1]},
    }
