"""The dispatching side: claim, plan, call, settle, answer. One event loop in a Celery worker does all of it.

Celery's thread only passes ids in. The lease, not the broker, finds a dead worker: rows whose lease ran out are
claimed again, here or elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import psycopg
import redis.asyncio as redis
import uvloop
from django.conf import settings
from psycopg.types.json import Jsonb

from fdrouter import crypto
from federation import across, frames, outcome, token_sums
from federation.batching import BATCH, Batcher, resolve
from federation.database import Reconnecting
from federation.frames import Frame
from federation.gateway import Answer, Call, CallFailed, Gateway, Progress
from federation.inference import CANCEL_CHANNEL
from federation.models import MECHANISMS, Kind
from federation.network import Network
from federation.planning.greedy import Demand, assign
from federation.states import InferenceState
from privacy import quotas

log = logging.getLogger(__name__)

PLANNER = "greedy"
_CLAIM = "SELECT * FROM inference_claim(%b::uuid[], %b::real)"
_ROUTE = "SELECT inference_route(%b::uuid[], %b::smallint[], %b::text[], %b::text)"
_FINISH = (
    "SELECT inference_finish(%b::uuid[], %b::smallint[], %b::text[], %b::text[], %b::jsonb[], %b::bytea[],"
    " %b::jsonb[], %b::int[], %b::int[], %b::text[], %b::text[], %b::bigint[])"
)
_RENEW = (
    "UPDATE federation_inference SET lease = now() + %s * interval '1 s' WHERE id = ANY(%s) AND state = 'dispatched'"
)
_LOST = "SELECT id FROM federation_inference WHERE state IN ('queued', 'dispatched') AND lease < now() LIMIT 256"
_RELEASED = (
    "SELECT DISTINCT ON (request_digest) request_digest, node_id FROM federation_inference"
    " WHERE request_digest = ANY(%s) AND state = 'done' AND kind LIKE 'cohort.%%' AND node_id IS NOT NULL"
    " ORDER BY request_digest, finished_at"
)
_RELEASED_TOGETHER = (
    "SELECT id, answer, receipt FROM federation_inference WHERE request_digest = %s AND state = 'done'"
    " AND kind LIKE 'cohort.%%' AND receipt ? 'shares' AND NOT receipt #> '{body,mechanism}' ? 'repeat_of'"
    " ORDER BY finished_at LIMIT 1"
)
_ACTOR = (
    "SELECT m.role, m.hospital_id, d.code FROM accounts_membership m"
    " LEFT JOIN accounts_department d ON d.id = m.department_id WHERE m.id = %s"
)


@dataclass(slots=True)
class Claimed:
    """A row under lease, as ``inference_claim`` returns it."""

    id: uuid.UUID
    attempt: int
    reply_to: str
    stream: bool
    kind: str
    model: str
    purpose: str
    hospitals: list[str]
    patient: str
    parameters: dict[str, Any]
    epsilon_micro: int
    delta: float
    request: bytes
    request_digest: bytes
    user_id: int
    membership_id: int
    node_id: str | None
    cancelled: bool
    home: str | None
    department_id: int | None

    @property
    def quota_keys(self) -> tuple[str, str]:
        """Keys of the person's and the department's quotas that the request was charged to."""
        return quotas.user_key(self.user_id), quotas.department_key(self.department_id or 0)

    @property
    def demand(self) -> Demand:
        """The row as the planner sees it."""
        hospitals = frozenset(self.hospitals)
        released = self.kind == Kind.COHORT_RELEASED
        return Demand(str(self.id), self.model, hospitals, self.kind != Kind.GENERAL, self.home, released)


@dataclass(slots=True)
class Ending:
    """How a row ends. ``charged`` False gives the whole reservation back."""

    row: Claimed
    state: InferenceState
    charged: bool
    answer: Answer = field(default_factory=Answer)
    code: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    node: dict[str, str] | None = None


class Dispatcher:
    """Runs on its own thread and loop; :meth:`submit` is the only method for other threads."""

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="dispatcher", daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(15)

    def submit(self, ids: list[str]) -> None:
        """Takes over the rows with these ids (hex)."""
        self._loop.call_soon_threadsafe(self._claims.add, [uuid.UUID(hex=i) for i in ids])

    async def _start(self) -> None:
        self._claim_db, self._settle_db, self._lease_db = Reconnecting(), Reconnecting(), Reconnecting()
        self._gateway, self._network = Gateway(), Network()
        self._redis = redis.from_url(settings.REDIS_URL)
        self._running: dict[uuid.UUID, asyncio.Task[None]] = {}
        self._stopping: set[uuid.UUID] = set()
        self._claims: Batcher[list[uuid.UUID]] = Batcher(self._claim)
        self._outbox: Batcher[tuple[str, bytes, int, bytes]] = Batcher(self._send)
        self._endings: Batcher[tuple[Ending, asyncio.Future[bool]]] = Batcher(self._finish, **BATCH)
        await self._network.refresh(self._lease_db)
        loop = asyncio.get_running_loop()
        self._background = [
            loop.create_task(self._keep("lease", self._renew, settings.LEASE_SECONDS / 3)),
            loop.create_task(self._keep("sweep", self._sweep, settings.LEASE_SECONDS / 3)),
            loop.create_task(self._keep("network", self._refresh, 1.0)),
            loop.create_task(self._listen_for_cancels()),
        ]

    # --- claim and plan -----------------------------------------------------------------------------------------

    async def _claim(self, batches: list[list[uuid.UUID]]) -> None:
        ids = [i for batch in batches for i in batch if i not in self._running]
        try:
            rows = [Claimed(*row) for row in await self._claim_db.fetch(_CLAIM, (ids, settings.LEASE_SECONDS))]
            planned = await self._plan(rows)
        except (psycopg.Error, OSError) as error:
            log.warning("claim failed", extra={"reason": type(error).__name__, "count": len(ids)})
            return  # the sweep finds the rows
        for row in rows:
            task = self._loop.create_task(self._run(row, planned.get(str(row.id))))
            self._running[row.id] = task
            task.add_done_callback(partial(self._ended, row.id))

    def _ended(self, key: uuid.UUID, task: asyncio.Task[None]) -> None:
        self._running.pop(key, None)
        self._stopping.discard(key)

    async def _plan(self, rows: list[Claimed]) -> dict[str, str | None]:
        """Assigns the batch and records the routes. A row that was at a node before goes back to it: it remembers."""
        rows = [r for r in rows if not across.is_across(r.parameters)]  # these go to several nodes, which are named
        bound = {str(r.id): r.node_id for r in rows if r.node_id and r.kind != Kind.GENERAL}
        bound = await self._released_at([r for r in rows if r.kind in MECHANISMS]) | bound
        planned: dict[str, str | None] = dict(bound)
        planned |= assign([r.demand for r in rows if str(r.id) not in bound], self._network.candidates())
        await self._record_route([(r, node) for r in rows if (node := planned.get(str(r.id)))])
        return planned

    async def _released_at(self, rows: list[Claimed]) -> dict[str, str]:
        """Where the very same request was answered before: that node says it again for nothing, if it is up."""
        if not rows:
            return {}
        found = dict(await self._claim_db.fetch(_RELEASED, ([r.request_digest for r in rows],)))
        up = {candidate.node for candidate in self._network.candidates() if candidate.healthy}
        return {str(r.id): node for r in rows if (node := found.get(r.request_digest)) in up and node is not None}

    async def _record_route(self, routes: list[tuple[Claimed, str]]) -> None:
        if routes:
            columns = [r.id for r, _ in routes], [r.attempt for r, _ in routes], [node for _, node in routes]
            await self._claim_db.fetch(_ROUTE, (*columns, PLANNER))

    # --- call ---------------------------------------------------------------------------------------------------

    async def _run(self, row: Claimed, node_id: str | None) -> None:
        try:
            ending = await self._answer(row, node_id)
        except asyncio.CancelledError:
            if row.id not in self._stopping:
                raise
            ending = Ending(row, InferenceState.CANCELLED, charged=True, code="cancelled")
        except Exception as error:  # noqa: BLE001  (one request's fault must not end the others; it stays charged)
            log.exception("request failed", extra={"request_id": row.id, "reason": type(error).__name__})
            ending = Ending(row, InferenceState.FAILED, charged=True, code="node_failed")
        ended: asyncio.Future[bool] = self._loop.create_future()
        self._endings.add((ending, ended))
        await ended

    async def _answer(self, row: Claimed, node_id: str | None) -> Ending:
        if row.cancelled:
            return Ending(row, InferenceState.CANCELLED, charged=row.attempt > 1, code="cancelled")
        if row.attempt > settings.MAX_ATTEMPTS:
            return Ending(row, InferenceState.FAILED, charged=True, code="node_failed", details={"reason": "lost"})
        if across.is_across(row.parameters):
            return await self._together(row)
        tried: set[str] = set()
        failure = CallFailed("no_node", sent=row.attempt > 1)
        while node_id is not None:
            tried.add(node_id)
            try:
                answer = await self._call(row, node_id)
                return Ending(row, InferenceState.DONE, not answer.repeated, answer, node=self._network.label(node_id))
            except CallFailed as error:
                failure = error
            if failure.sent or failure.code not in ("no_node", "block_exhausted", "nothing_released"):
                break
            if row.attempt > 1 and row.kind != Kind.GENERAL:
                break  # an earlier attempt may have been answered there: another hospital must not be asked as well
            node_id = self._alternative(row, tried)
            if node_id is not None:
                await self._record_route([(row, node_id)])
        charged = failure.sent or (row.attempt > 1 and row.kind != Kind.GENERAL)
        label = self._network.label(node_id) if node_id else None
        return Ending(row, InferenceState.FAILED, charged, code=failure.code, details=failure.details, node=label)

    async def _together(self, row: Claimed) -> Ending:
        """Several hospitals' answer; or an earlier one to the very same request, for nothing."""
        payload = await self._payload(row, row.hospitals[0])
        question = across.Question(row.id, row.kind, row.model, row.hospitals, row.request_digest.hex(), payload)
        for pk, sealed, receipt in await self._lease_db.fetch(_RELEASED_TOGETHER, (row.request_digest,)):
            text = crypto.unseal("answer", pk.bytes, sealed).decode()
            if (again := across.repeated(question, pk, text, receipt)) is not None:
                return Ending(row, InferenceState.DONE, charged=False, answer=again)

        def progress(text: str) -> None:
            self._tell(row, Frame.PROGRESS, {"text": text, "node": None})

        def delta(text: str) -> None:
            if row.stream:
                self._tell(row, Frame.DELTA, text)

        try:
            if token_sums.is_text(row.parameters):
                answer = await token_sums.answer(self._gateway, self._network, question, progress, delta)
            else:
                answer = await across.answer(self._gateway, self._network, question, progress)
        except CallFailed as error:
            charged = error.sent or row.attempt > 1
            return Ending(row, InferenceState.FAILED, charged, code=error.code, details=error.details)
        return Ending(row, InferenceState.DONE, charged=True, answer=answer)

    def _alternative(self, row: Claimed, tried: set[str]) -> str | None:
        candidates = [c for c in self._network.candidates() if c.node not in tried]
        return assign([row.demand], candidates)[str(row.id)]

    async def _call(self, row: Claimed, node_id: str) -> Answer:
        node = self._network.endpoint(node_id)
        if node is None:
            raise CallFailed("no_node", sent=False)
        call = Call(
            str(row.id),
            row.kind,
            row.model,
            row.stream,
            row.request_digest.hex(),
            await self._payload(row, node.hospital),
        )
        answer: Answer | None = None
        with self._network.using(node_id) as breaker:
            try:
                async for item in self._gateway.call(node, call):
                    if isinstance(item, Answer):
                        answer = item
                    elif isinstance(item, Progress):
                        self._tell(row, Frame.PROGRESS, {"text": item.text, "node": {"id": node.id, "name": node.name}})
                    elif row.stream:
                        self._tell(row, Frame.DELTA, item)
            except CallFailed as error:
                if error.broken:
                    breaker.failed()
                raise
            breaker.succeeded()
        if answer is None:
            raise CallFailed("node_failed", sent=True)
        return answer

    async def _payload(self, row: Claimed, hospital: str) -> dict[str, Any]:
        request = frames.decode_json(crypto.unseal("request", row.id.bytes, row.request))
        request.pop("chosen", None)  # a word to the asker
        payload: dict[str, Any] = {"kind": row.kind, "model": row.model, **request}
        if row.kind == Kind.GENERAL and not self._network.has_records(hospital):
            return payload
        found = await self._lease_db.fetch(_ACTOR, (row.membership_id,))
        role, home, department = found[0]
        return payload | {
            "request_digest": row.request_digest.hex(),
            "purpose": row.purpose,
            "patient": row.patient,
            "parameters": row.parameters,
            "actor": {"id": row.user_id, "role": role, "hospital": home, "department": department},
        }

    # --- settle and answer --------------------------------------------------------------------------------------

    async def _finish(self, items: list[tuple[Ending, asyncio.Future[bool]]]) -> None:
        try:
            await self._finish_batch(items)
        except Exception as error:  # noqa: BLE001  (one bad row must not keep the others from ending)
            log.error("batch refused", extra={"reason": type(error).__name__, "count": len(items)})
            if len(items) > 1:
                for item in items:
                    await self._finish([item])
            else:
                resolve(items[0][1], False)

    async def _finish_batch(self, items: list[tuple[Ending, asyncio.Future[bool]]]) -> None:
        endings = [ending for ending, _ in items]
        try:
            async with self._settle_db.connection() as connection:
                cursor = await connection.execute(_FINISH, _finish_columns(endings), binary=True)
                mine = {row[0] for row in await cursor.fetchall()}
                left = await self._remaining(connection, endings)
        except (psycopg.OperationalError, psycopg.InterfaceError, OSError) as error:
            # Still dispatched: the lease runs out and the row is taken again; a node remembers its answer.
            log.warning("settlement failed", extra={"reason": type(error).__name__, "count": len(items)})
            mine, left = set(), {}
        for ending, future in items:
            if ending.row.id in mine:  # one attempt alone ends a row, and its asker hears once that is durable
                self._tell(ending.row, *_last_frame(ending, left))
            resolve(future, ending.row.id in mine)

    async def _remaining(self, connection: psycopg.AsyncConnection[Any], endings: list[Ending]) -> dict[str, int]:
        sql, keys = outcome.remaining_query({key for e in endings for key in e.row.quota_keys})
        cursor = await connection.execute(sql, keys)
        return dict(await cursor.fetchall())

    def _tell(self, row: Claimed, kind: Frame, data: Any) -> None:
        self._outbox.add((row.reply_to, row.id.bytes, kind, frames.seal(row.id, data)))

    async def _send(self, items: list[tuple[str, bytes, int, bytes]]) -> None:
        channels: dict[str, list[tuple[bytes, int, bytes]]] = defaultdict(list)
        for reply_to, key, kind, sealed in items:
            channels[reply_to].append((key, kind, sealed))
        for channel, batch in channels.items():
            try:
                await self._redis.publish(channel, frames.pack_batch(batch))
            except (redis.RedisError, OSError) as error:
                log.warning("answer not published", extra={"reason": type(error).__name__, "count": len(batch)})

    # --- housekeeping -------------------------------------------------------------------------------------------

    async def _keep(self, name: str, step: Any, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await step()
            except (psycopg.Error, OSError) as error:
                log.warning("housekeeping failed", extra={"part": name, "reason": type(error).__name__})

    async def _renew(self) -> None:
        if self._running:
            await self._lease_db.fetch(_RENEW, (settings.LEASE_SECONDS, list(self._running)))

    async def _sweep(self) -> None:
        """Takes rows that nobody keeps: lost messages, dead workers."""
        lost = [row[0] for row in await self._lease_db.fetch(_LOST)]
        if lost:
            self._claims.add(lost)

    async def _refresh(self) -> None:
        await self._network.refresh(self._lease_db)

    async def _listen_for_cancels(self) -> None:
        while True:
            try:
                async with self._redis.pubsub() as channel:
                    await channel.subscribe(CANCEL_CHANNEL)
                    async for message in channel.listen():
                        if message["type"] == "message":
                            self._cancel(uuid.UUID(bytes=message["data"]))
            except (redis.RedisError, OSError, ValueError) as error:
                log.warning("cancel channel lost", extra={"reason": type(error).__name__})
                await asyncio.sleep(0.5)

    def _cancel(self, key: uuid.UUID) -> None:
        if task := self._running.get(key):
            self._stopping.add(key)
            task.cancel()


def _finish_columns(endings: list[Ending]) -> list[Any]:
    sealed = [
        crypto.seal("answer", e.row.id.bytes, e.answer.text.encode()) if e.state == InferenceState.DONE else None
        for e in endings
    ]
    return [
        [e.row.id for e in endings],
        [e.row.attempt for e in endings],
        [e.state.value for e in endings],
        [e.code for e in endings],
        [Jsonb(_stored_details(e)) for e in endings],
        sealed,
        [Jsonb(e.answer.receipt) if e.answer.receipt else None for e in endings],
        [e.answer.prompt_tokens for e in endings],
        [e.answer.completion_tokens for e in endings],
        [e.answer.finish_reason if e.state == InferenceState.DONE else "" for e in endings],
        ["settled" if e.charged else "released" for e in endings],
        [None if e.charged else 0 for e in endings],
    ]


def _stored_details(ending: Ending) -> dict[str, Any]:
    return {} if ending.state == InferenceState.DONE else {**ending.details, "charged": ending.charged}


def _last_frame(ending: Ending, left: dict[str, int]) -> tuple[Frame, Any]:
    row = ending.row
    if ending.state != InferenceState.DONE:
        details = {**ending.details, "charged": ending.charged}
        return Frame.FAILED, {"id": str(row.id), "state": ending.state.value, "code": ending.code, "details": details}
    answer = ending.answer
    privacy = outcome.claim(row.kind, answer.receipt, row.epsilon_micro, row.delta)
    privacy["chosen"] = outcome.chosen_of(row.kind, row.id, row.request)
    privacy["remaining"] = {
        "user": left.get(row.quota_keys[0], 0) / quotas.MICRO,
        "department": left.get(row.quota_keys[1], 0) / quotas.MICRO,
        "block": outcome.block_left(answer.receipt),
    }
    return Frame.DONE, {
        "id": str(row.id),
        "model": row.model,
        "answer": answer.text,
        "finish_reason": answer.finish_reason,
        "usage": [answer.prompt_tokens, answer.completion_tokens],
        "node": ending.node,
        "privacy": privacy,
    }


@lru_cache(maxsize=1)
def dispatcher() -> Dispatcher:
    """This worker's dispatcher. The worker runs with the solo pool: one thread calls this."""
    return Dispatcher()
