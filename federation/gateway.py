"""Calls to nodes. Two transports, one stream of events, one kind of failure that says whether anything left."""

from __future__ import annotations

import hashlib
import json
import ssl
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
from django.conf import settings

from federation import identity, receipts, sealing, tls
from federation.identity import PublicIdentity
from federation.models import MECHANISMS, Transport

_decode = msgspec.json.decode
_encode = msgspec.json.encode
MAX_LINE_BYTES = 1024 * 1024
MESSAGE_SECONDS = 300
WITNESS_SECONDS = 10


class CallFailed(Exception):
    """A node call did not end with an answer.

    ``code`` is one of :mod:`fdrouter.errors`; ``sent`` is False only when it is certain that the node acted on
    nothing (no connection, or the node itself says that it charged nothing).
    """

    def __init__(self, code: str, *, sent: bool, details: dict[str, Any] | None = None, broken: bool = True) -> None:
        self.code, self.sent, self.details = code, sent, details or {}
        self.broken = broken  # whether the breaker should count it
        super().__init__(code)


@dataclass(frozen=True, slots=True)
class Call:
    """One request for one node. ``payload`` is what a node's message holds (see ``federation.node.service``)."""

    id: str
    kind: str
    model: str
    stream: bool
    request_digest: str
    payload: dict[str, Any]


@dataclass(slots=True)
class Answer:
    """What a node gave in the end."""

    text: str = ""
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    receipt: dict[str, Any] | None = None

    @property
    def repeated(self) -> bool:
        """Whether the node answered from an earlier release, so that nothing was spent."""
        return bool(((self.receipt or {}).get("body", {}).get("mechanism") or {}).get("repeat_of"))


@dataclass(frozen=True, slots=True)
class Progress:
    """Something to tell while waiting."""

    text: str


@dataclass(frozen=True, slots=True)
class Offer:
    """A node takes part in a sum: its seeds for other nodes, each sealed to the node that it is named by."""

    session: str
    seeds: dict[str, str]


@dataclass(frozen=True, slots=True)
class Step:
    """A node's part in one token of a text of several hospitals, unchecked: see ``federation.node.token_sums``."""

    data: dict[str, Any]


@dataclass(slots=True)
class NodeEndpoint:
    """Where and how a node is called."""

    id: str
    name: str
    hospital: str
    url: str
    transport: str
    served_models: frozenset[str]
    public: PublicIdentity | None
    status: dict[str, Any] = field(default_factory=dict)
    certificate_sha256: str = ""


class Gateway:
    """HTTP sessions to all nodes of the network. Lives on one event loop."""

    def __init__(self) -> None:
        timeout = aiohttp.ClientTimeout(
            total=None, connect=settings.NODE_CONNECT_SECONDS, sock_read=settings.NODE_READ_SECONDS
        )
        self._plain = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60), timeout=timeout
        )
        self._sealed: aiohttp.ClientSession | None = None
        self._timeout = timeout

    def _tls(self) -> aiohttp.ClientSession:
        if self._sealed is None:
            self._sealed = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60),
                timeout=self._timeout,
                read_bufsize=MAX_LINE_BYTES,
            )
        return self._sealed

    def _session(self, node: NodeEndpoint) -> aiohttp.ClientSession:
        return self._tls() if _is_encrypted(node) else self._plain

    @staticmethod
    def _trust(node: NodeEndpoint) -> ssl.SSLContext | bool:
        if not _is_encrypted(node):
            return True
        try:
            return tls.context_for(settings.IDENTITY_DIR, node.certificate_sha256)
        except ValueError:
            raise CallFailed("no_node", sent=False, details={"reason": "not enrolled"}) from None

    async def close(self) -> None:
        await self._plain.close()
        if self._sealed is not None:
            await self._sealed.close()

    async def call(self, node: NodeEndpoint, call: Call) -> AsyncIterator[str | Progress | Answer | Offer | Step]:
        """Text as it comes, progress, and last the :class:`Answer`, or the :class:`Offer` or :class:`Step` asked for.

        Raises:
            CallFailed: and nothing else for anything that a node or network can do.
        """
        stream = self._openai(node, call) if node.transport == Transport.OPENAI else self._node(node, call)
        try:
            async for item in stream:
                yield item
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):  # a wrong certificate is among these
            raise CallFailed("no_node", sent=False) from None
        except TimeoutError:
            raise CallFailed("node_timeout", sent=True) from None
        except (aiohttp.ClientError, OSError, msgspec.MsgspecError, UnicodeError, ValueError, KeyError, TypeError):
            raise CallFailed("node_failed", sent=True) from None

    async def health(self, node: NodeEndpoint) -> dict[str, Any]:
        """The node's health document, or that of a plain engine. Raises :class:`CallFailed`."""
        plain = node.transport == Transport.OPENAI
        url = f"{node.url}/v1/models" if plain else f"{node.url}/node/health"
        try:
            timeout = aiohttp.ClientTimeout(total=5)
            async with self._session(node).get(
                url, timeout=timeout, ssl=self._trust(node), allow_redirects=False
            ) as response:
                if response.status != 200:
                    raise CallFailed("node_failed", sent=False)
                return {} if plain else await response.json()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            raise CallFailed("no_node", sent=False) from None

    async def witness(self, node: NodeEndpoint, document: dict[str, Any]) -> dict[str, Any]:
        """What a node says to a checkpoint of the coordinator's log, unchecked. Raises :class:`CallFailed`."""
        if node.public is None or not _is_encrypted(node):
            raise CallFailed("no_node", sent=False, details={"reason": "not enrolled"})
        now = int(time.time())
        payload = {"witness": document, "issued_at": now, "expires_at": now + MESSAGE_SECONDS}
        envelope = sealing.seal(identity.load(settings.IDENTITY_DIR), node.public, str(uuid.uuid4()), payload)
        try:
            async with self._tls().post(
                f"{node.url}/node/witness",
                data=envelope,
                timeout=aiohttp.ClientTimeout(total=WITNESS_SECONDS),
                ssl=self._trust(node),
                allow_redirects=False,
            ) as response:
                answer = _decode(await response.read()) if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError, ValueError):
            raise CallFailed("no_node", sent=False) from None
        if not isinstance(answer, dict):
            raise CallFailed("node_failed", sent=False)
        return answer

    async def _openai(self, node: NodeEndpoint, call: Call) -> AsyncIterator[str | Answer]:
        body = {"model": call.model, "messages": call.payload["messages"], "stream": call.stream}
        body |= {"max_tokens": call.payload["max_tokens"], "temperature": call.payload["temperature"]}
        headers = {"content-type": "application/json"}
        url = f"{node.url}/v1/chat/completions"
        async with self._session(node).post(
            url, data=_encode(body), headers=headers, ssl=self._trust(node)
        ) as response:
            if 400 <= response.status < 500:  # the engine is well, it does not take this question
                raise CallFailed("invalid_parameter", sent=False, broken=False, details={"field": "messages"})
            if response.status != 200:
                raise CallFailed("node_failed", sent=True)
            if not call.stream:
                document = _decode(await response.read())
                choice, usage = document["choices"][0], document.get("usage") or {}
                yield _answer(choice["message"]["content"], choice.get("finish_reason") or "stop", usage)
                return
            async for item in _openai_events(response):
                yield item

    async def _node(self, node: NodeEndpoint, call: Call) -> AsyncIterator[str | Progress | Answer | Offer | Step]:
        if node.public is None or not _is_encrypted(node):
            raise CallFailed("no_node", sent=False, details={"reason": "not enrolled"})
        now = int(time.time())
        payload = {**call.payload, "issued_at": now, "expires_at": now + MESSAGE_SECONDS}
        envelope = sealing.seal(identity.load(settings.IDENTITY_DIR), node.public, call.id, payload)
        async with self._tls().post(
            f"{node.url}/node/messages", data=envelope, ssl=self._trust(node), allow_redirects=False
        ) as response:
            if response.status != 200:
                raise CallFailed("node_failed", sent=response.status >= 500, details={"status": response.status})
            answer: Answer | Offer | Step | None = None
            async for line in response.content:
                item = _node_event(_decode(line), node, call)
                if isinstance(item, Answer | Offer | Step):
                    answer = item
                yield item
            if answer is None:
                raise CallFailed("node_failed", sent=True)


def _is_encrypted(node: NodeEndpoint) -> bool:
    return node.url.lower().startswith("https://")


def _answer(text: Any, finish_reason: Any, usage: dict[str, Any], receipt: dict[str, Any] | None = None) -> Answer:
    """An answer that can be stored.

    Raises:
        TypeError, ValueError: it cannot.
    """
    if not isinstance(text, str) or not isinstance(finish_reason, str):
        raise TypeError("an answer is text")
    text.encode()
    counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
    if not all(0 <= count < 2**31 for count in counts):
        raise ValueError("counts of tokens")
    return Answer(text, finish_reason[:24].replace("\0", ""), counts[0], counts[1], receipt)


async def _openai_events(response: aiohttp.ClientResponse) -> AsyncIterator[str | Answer]:
    answer = Answer()
    parts: list[str] = []
    async for line in response.content:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            counts = {
                "prompt_tokens": answer.prompt_tokens,
                "completion_tokens": answer.completion_tokens or len(parts),
            }
            yield _answer("".join(parts), answer.finish_reason, counts)
            return
        event = _decode(data)
        if usage := event.get("usage"):
            answer.prompt_tokens = usage.get("prompt_tokens", 0)
            answer.completion_tokens = usage.get("completion_tokens", 0)
        for choice in event.get("choices", ()):
            if text := (choice.get("delta") or {}).get("content"):
                parts.append(text)
                yield text
            answer.finish_reason = choice.get("finish_reason") or answer.finish_reason
    raise CallFailed("node_failed", sent=True)  # the stream ended without its end


def _node_event(event: dict[str, Any], node: NodeEndpoint, call: Call) -> str | Progress | Answer | Offer | Step:
    kind = event["type"]
    if kind == "delta":
        return str(event["text"])
    if kind == "progress":
        return Progress(str(event["text"]))
    if kind == "offer" and call.payload.get("across", {}).get("phase") == "offer":
        return Offer(str(event["session"]), {str(name): str(seed) for name, seed in event["seeds"].items()})
    if kind == "step" and call.payload.get("across", {}).get("phase") in ("public", "sums"):
        return Step(event)
    if kind == "error":
        charged = event.get("charged", True) is not False
        code, details = event["code"], event.get("details") or {}
        if not isinstance(code, str) or not isinstance(details, dict) or "\\u0000" in json.dumps(details):
            raise CallFailed("node_failed", sent=True)
        raise CallFailed(
            code[:40].replace("\0", ""),
            sent=charged,
            details=details,
            broken=bool(event.get("broken", charged)),
        )
    if kind != "answer":
        raise CallFailed("node_failed", sent=True)
    receipt = event["receipt"]
    if node.public is None or not receipts.is_valid(
        receipt, node.public, message_id=call.id, request_digest=call.request_digest
    ):
        raise CallFailed("node_failed", sent=True, details={"reason": "receipt"})
    if not _speaks_of(receipt["body"], event["text"], call):
        raise CallFailed("node_failed", sent=True, details={"reason": "receipt"})
    return _answer(event["text"], event["finish_reason"], event, receipt)


def _speaks_of(body: dict[str, Any], text: str, call: Call) -> bool:
    """Whether a valid receipt is about this answer, and states what was asked for."""
    if body["kind"] != call.kind or body["answer_sha256"] != hashlib.sha256(text.encode()).hexdigest():
        return False
    mechanism = body["mechanism"]
    if call.kind not in MECHANISMS:
        return mechanism is None
    asked = call.payload["parameters"]
    same = all(mechanism[name] == asked[name] for name in ("epsilon", "delta", "adjacency", "unit"))
    return same and mechanism["name"] == asked["mechanism"]
