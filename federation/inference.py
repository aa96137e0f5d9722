"""The waiting side of a request: submit it, follow its frames, stop it, read it again. One instance a web process."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Mapping
from functools import lru_cache
from typing import Any

import psycopg
import redis as sync_redis
import redis.asyncio as redis
from celery.exceptions import CeleryError
from django.conf import settings
from django.utils import timezone
from kombu.exceptions import KombuError

from fdrouter import crypto, errors
from fdrouter.errors import (
    DependencyUnavailable,
    DomainError,
    IdempotencyConflict,
    NodeTimeout,
    NotFound,
    UnknownModel,
)
from federation import admission, frames, selectors
from federation.admission import Credential, Prepared
from federation.asks import Ask
from federation.batching import BATCH, Batcher, resolve
from federation.database import Reconnecting, in_thread
from federation.frames import Frame
from federation.models import Inference, Kind
from federation.outcome import result_of
from federation.states import TERMINAL, InferenceState

log = logging.getLogger(__name__)

_Verdict = tuple[int, uuid.UUID | None]
# The connection may have ended after the commit, and then a sweep runs the request.
_UNCERTAIN = (
    "The database did not answer. If the request was taken all the same, its answer comes into your history; asking"
    " again with the same idempotency key costs nothing more."
)
CANCEL_CHANNEL = "fdrouter:cancel"
_RESCUE_SECONDS = 2.0


class InferenceService:
    """Admission in micro-batches, and one Redis channel on which all answers of this process arrive."""

    def __init__(self) -> None:
        self.channel = f"fdrouter:answers:{uuid.uuid4().hex}"
        self._waiting: dict[bytes, list[asyncio.Queue[tuple[int, Any]]]] = {}
        self._unread: dict[bytes, asyncio.Queue[tuple[int, Any]]] = {}
        self._actors = admission.Actors()
        self._admissions: Batcher[tuple[Prepared, asyncio.Future[_Verdict]]] = Batcher(self._flush, **BATCH)
        self._database = Reconnecting()
        self._redis = redis.from_url(settings.REDIS_URL)
        self._models: frozenset[str] = frozenset()
        self._background: list[asyncio.Task[None]] = []

    def start(self) -> InferenceService:
        """Starts listening; must be called inside the event loop."""
        loop = asyncio.get_running_loop()
        self._background = [loop.create_task(self._listen()), loop.create_task(self._rescue())]
        return self

    async def submit(self, credential: Credential, ask: Ask) -> uuid.UUID:
        """Admits a request; returns once reservation, row and evidence are durable.

        A repeated idempotency key returns the first request's id, free of charge.

        Raises:
            UnknownModel, Unauthenticated, PolicyDenied, QuotaSpent, IdempotencyConflict, DependencyUnavailable.
        """
        await self._check_model(ask.model)
        fresh = False
        for _ in range(4):
            prepared = await admission.prepare(self._actors, credential, ask, fresh=fresh)
            verdict: asyncio.Future[_Verdict] = asyncio.get_running_loop().create_future()
            self._admissions.add((prepared, verdict))
            code, existing = await verdict
            if code == admission.ADMITTED:
                return prepared.id
            if code == admission.REPEAT and existing is not None:
                await self._check_repeat(existing, prepared)
                return existing
            if code > 0:
                raise await in_thread(admission.refuse)(prepared, code)
            fresh = code == admission.STALE
        raise DependencyUnavailable("The request could not be admitted. Nothing was spent; try again.")

    async def follow(self, request_id: uuid.UUID) -> AsyncIterator[tuple[Frame, Any]]:
        """Frames of a request until its last. Nothing is owed if the reader leaves: the worker settles.

        The last frame is DONE with :func:`federation.outcome.result_of`'s dictionary, or FAILED with an error's. Who
        comes later (a repeat, a page opened again) has missed the beginning: they get no deltas, the answer whole.
        """
        # The first reader takes the queue that admission made; a later one reads along with its own.
        queues = self._waiting.setdefault(request_id.bytes, [])
        first = self._unread.pop(request_id.bytes, None)
        queue = first or asyncio.Queue()
        if queue not in queues:
            queues.append(queue)
        try:
            if first is None:
                await self._deliver_ended([request_id])
            while True:
                try:
                    kind, data = await asyncio.wait_for(queue.get(), settings.ANSWER_TIMEOUT_SECONDS)
                except TimeoutError:
                    raise NodeTimeout("No answer yet. It will be in your history when it is there.") from None
                frame = Frame(kind)
                if frame is Frame.DELTA and first is None:
                    continue
                yield frame, failure(data) if frame is Frame.FAILED else data
                if frame >= Frame.DONE:
                    return
        finally:
            queues.remove(queue)
            if not queues:
                self._waiting.pop(request_id.bytes, None)

    async def cancel(self, request_id: uuid.UUID, user_id: int) -> None:
        """Asks for a stop. What was sent to a node stays charged; a request still queued is released."""
        changed = await self._database.fetch(
            "UPDATE federation_inference SET cancel_requested_at = now() WHERE id = %s AND user_id = %s"
            " AND state IN ('queued', 'dispatched') AND cancel_requested_at IS NULL RETURNING id",
            (request_id, user_id),
        )
        if changed:
            try:
                await self._redis.publish(CANCEL_CHANNEL, request_id.bytes)
            except (redis.RedisError, OSError) as error:  # the wish is in the table: a worker reads it with the claim
                log.warning("cancel not published", extra={"reason": type(error).__name__, "request_id": request_id})

    async def _check_model(self, model: str) -> None:
        if model not in self._models:
            self._models = frozenset(await in_thread(selectors.served_models)())
            if model not in self._models:
                raise UnknownModel(field="model")

    async def _check_repeat(self, existing: uuid.UUID, prepared: Prepared) -> None:
        digest = await in_thread(_request_digest)(existing)
        if digest != prepared.digest and not await in_thread(_chosen_otherwise)(existing, prepared.ask):
            raise IdempotencyConflict(id=str(existing))

    async def _flush(self, batch: list[tuple[Prepared, asyncio.Future[_Verdict]]]) -> None:
        items = [item for item, _ in batch]
        for item in items:  # before an answer can come
            queue: asyncio.Queue[tuple[int, Any]] = asyncio.Queue()
            self._waiting[item.id.bytes], self._unread[item.id.bytes] = [queue], queue
        try:
            async with self._database.connection() as connection:
                verdicts = await admission.admit(connection, items, self.channel)
        except (psycopg.Error, OSError) as error:
            log.error("admission failed", extra={"reason": type(error).__name__, "count": len(items)})
            for item, future in batch:
                self._forget(item.id.bytes)
                if not future.done():
                    future.set_exception(DependencyUnavailable(_UNCERTAIN, charged=None))
            return
        self._publish([item.id.hex for item, (code, _) in zip(items, verdicts, strict=True) if code == 0])
        for (item, future), (code, existing) in zip(batch, verdicts, strict=True):
            if code or future.cancelled():  # refused, or the asker left before anybody followed
                self._forget(item.id.bytes)
            resolve(future, (code, existing))

    def abandon(self, request_id: uuid.UUID) -> None:
        """Nobody will follow this request: keeps nothing for it. Without effect once somebody follows."""
        queue = self._unread.pop(request_id.bytes, None)
        queues = self._waiting.get(request_id.bytes, [])
        if queue in queues:
            queues.remove(queue)
        if not queues:
            self._waiting.pop(request_id.bytes, None)

    async def known(self, credential: Credential) -> None:
        """Raises :class:`Unauthenticated` for a credential that nobody holds; admission checks it once more."""
        await self._actors.get(credential)

    def _forget(self, key: bytes) -> None:
        self._waiting.pop(key, None)
        self._unread.pop(key, None)

    def _publish(self, ids: list[str]) -> None:
        from federation.tasks import dispatch

        if not ids:
            return
        try:
            dispatch.apply_async((ids,))  # committed already; ids only
        except (CeleryError, KombuError, redis.RedisError, OSError) as error:
            # The rows are durable: a worker's sweep takes them once their first lease runs out.
            log.warning("broker unreachable", extra={"reason": type(error).__name__, "count": len(ids)})

    def _deliver(self, key: bytes, kind: int, data: Any) -> None:
        for queue in self._waiting.get(key, ()):
            queue.put_nowait((kind, data))

    async def _deliver_ended(self, ids: list[uuid.UUID]) -> None:
        for pk, kind, data in await in_thread(_ended)(ids):
            self._deliver(pk.bytes, kind, data)

    async def _listen(self) -> None:
        while True:
            try:
                async with self._redis.pubsub() as channel:
                    await channel.subscribe(self.channel)
                    async for message in channel.listen():
                        if message["type"] == "message":
                            self._receive(message["data"])
            except (redis.RedisError, OSError) as error:
                log.warning("answers channel lost", extra={"reason": type(error).__name__})
                await asyncio.sleep(0.2)

    def _receive(self, data: bytes) -> None:
        for key, kind, sealed in frames.unpack_batch(data):
            if key in self._waiting:
                try:
                    self._deliver(key, kind, frames.open_sealed(uuid.UUID(bytes=key), sealed))
                except crypto.Unreadable:
                    log.error("unreadable frame", extra={"request_id": uuid.UUID(bytes=key)})

    async def _rescue(self) -> None:
        """Ended rows that are still waited for are read from the table: a lost frame costs seconds, no answer."""
        while True:
            await asyncio.sleep(_RESCUE_SECONDS)
            waiting = [uuid.UUID(bytes=key) for key in self._waiting]
            if not waiting:
                continue
            try:
                await self._deliver_ended(waiting)
            except Exception as error:  # noqa: BLE001  (a database restart must not end the rescue)
                log.warning("rescue failed", extra={"reason": type(error).__name__})


def _request_digest(request_id: uuid.UUID) -> bytes:
    return bytes(Inference.objects.values_list("request_digest", flat=True).get(pk=request_id))


def _chosen_otherwise(request_id: uuid.UUID, ask: Ask) -> bool:
    """Whether both left their kind open and something was published, or could not be asked, between them.

    A repeat of the same key must find its first answer then too. Their costs differ as their kinds do.
    """
    if not ask.chosen:
        return False
    row = Inference.objects.get(pk=request_id)
    content = frames.decode_json(crypto.unseal("request", row.pk.bytes, bytes(row.request or b"")))
    earlier = [content["messages"], content.get("options", []), row.hospitals, row.purpose, row.model]
    now = [list(ask.messages), list(ask.options), list(ask.hospitals), ask.purpose, ask.model]
    other = row.kind != ask.kind and Kind.COHORT_RELEASED in (row.kind, ask.kind)
    return bool(content.get("chosen")) and other and earlier == now


def _ended(ids: list[uuid.UUID]) -> list[tuple[uuid.UUID, Frame, dict[str, Any]]]:
    rows = Inference.objects.filter(pk__in=ids, state__in=TERMINAL).select_related("node")
    return [(row.pk, *last_frame(row)) for row in rows]


def last_frame(row: Inference) -> tuple[Frame, dict[str, Any]]:
    """The last frame of an ended row, read from the table."""
    if row.state == InferenceState.DONE:
        return Frame.DONE, result_of(row)
    return Frame.FAILED, {"id": str(row.pk), "state": row.state, "code": row.reason, "details": dict(row.details)}


def failure(data: dict[str, Any]) -> dict[str, Any]:
    """``{"id", "code", "message", "details", "charged"}`` for the asker, from a FAILED frame or an ended row."""
    details = dict(data["details"])
    charged = bool(details.pop("charged", False))
    error = errors.from_code("cancelled" if data["state"] == InferenceState.CANCELLED else data["code"], None, details)
    shown = {"id": data["id"], "code": error.code, "message": error.message, "details": dict(error.details)}
    return {**shown, "charged": charged}


def error_of(failure: dict[str, Any]) -> DomainError:
    """The error that a FAILED frame stands for."""
    error = errors.from_code(failure["code"], failure["message"], failure["details"])
    error.details = {**error.details, "charged": failure["charged"], "id": failure["id"]}
    return error


def without_end(details: Mapping[str, Any]) -> dict[str, Any]:
    """An error's details without what a failure says by itself, and :func:`error_of` had put among them."""
    return {name: value for name, value in details.items() if name not in ("charged", "id")}


def cancel_now(request_id: uuid.UUID, user_id: int) -> None:
    """:meth:`InferenceService.cancel` for synchronous callers."""
    rows = Inference.objects.filter(pk=request_id, user_id=user_id, cancel_requested_at__isnull=True)
    if rows.exclude(state__in=TERMINAL).update(cancel_requested_at=timezone.now()):
        try:
            with sync_redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=2, socket_timeout=2) as client:
                client.publish(CANCEL_CHANNEL, request_id.bytes)
        except (redis.RedisError, OSError) as error:
            log.warning("cancel not published", extra={"reason": type(error).__name__, "request_id": request_id})


def get_own(user_id: int, request_id: uuid.UUID) -> Inference:
    """The person's own row.

    Raises:
        NotFound: it does not exist or belongs to somebody else.
    """
    row = Inference.objects.select_related("node").filter(pk=request_id, user_id=user_id).first()
    if row is None:
        raise NotFound
    return row


@lru_cache(maxsize=1)
def _service() -> InferenceService:
    return InferenceService()


def service() -> InferenceService:
    """This process's service, started on first use inside its event loop."""
    found = _service()
    if not found._background:
        found.start()
    return found
