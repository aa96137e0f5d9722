"""The clients: HTTP around ``fdrouter.sdk.protocol``. One client may be used for many questions; close it after."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, TypeVar, Unpack, overload

import httpx
from tenacity import AsyncRetrying, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from fdrouter.sdk import protocol
from fdrouter.sdk.answers import Response
from fdrouter.sdk.errors import NotAuthenticated, NotOffered, RouterError
from fdrouter.sdk.protocol import CHAT, Call, EventReader, Question, Session, Steps, Transient

T = TypeVar("T")
DEFAULT_ENDPOINT = "http://localhost:8080"
DEFAULT_TIMEOUT = 330.0  # a little more than the router lets a request take
_CONNECT_SECONDS = 5.0


class Options(TypedDict, total=False):
    """What a question may say beside its text, its bound and its kind."""

    epsilon: float | None
    delta: float | None
    hospitals: Sequence[str]
    patient: str | None
    purpose: str | None
    contexts: int | None
    options: Sequence[str]
    picks: int | None
    threshold: int | None
    across: bool
    max_tokens: int | None
    model: str | None
    idempotency_key: str
    require_consensus: bool
    audit_trail: bool


def _token(given: str | None) -> str:
    if token := (given or os.environ.get("FDROUTER_TOKEN", "")).strip():
        return token
    if file := os.environ.get("FDROUTER_TOKEN_FILE"):
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise NotAuthenticated(f"FDROUTER_TOKEN_FILE cannot be read: {error.strerror}.") from None
    raise NotAuthenticated(
        "An access token is needed: give token=..., or set FDROUTER_TOKEN or FDROUTER_TOKEN_FILE. "
        "An administrator of the router issues tokens."
    )


def _endpoint(given: str, allow_plain_http: bool) -> str:
    try:
        url = httpx.URL(given)
    except httpx.InvalidURL:
        raise NotOffered("router_endpoint must be the address of a router, such as https://router.example.") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise NotOffered("router_endpoint must be the address of a router, such as https://router.example.")
    if url.scheme == "http" and not _is_loopback(url.host) and not allow_plain_http:
        raise NotOffered(
            "Token and question would cross the network in clear: use https://, or say allow_plain_http=True where "
            "something else protects the way."
        )
    return str(url).rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Client:
    """What both clients share."""

    def __init__(
        self,
        router_endpoint: str = DEFAULT_ENDPOINT,
        user_id: str | None = None,
        department: str | None = None,
        token: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        retries: int = 2,
        trusted_keys: Mapping[str, Mapping[str, str]] | None = None,
        trusted_router: Mapping[str, str] | None = None,
        allow_plain_http: bool = False,
    ) -> None:
        """Nothing is sent before the first question.

        Args:
            user_id, department: who the token is expected to belong to; another one's token is refused.
            token: an access token; without it FDROUTER_TOKEN, then the file that FDROUTER_TOKEN_FILE names.
            timeout: seconds of silence after which an answer is given up. Connecting has its own, short limit.
            retries: how often a call that failed on the way is repeated. A question is charged once all the same.
            trusted_keys: public identities by node id to check receipts with. Without them the router's own list is
                used: that shows that a receipt is whole and the listed node's, not that the list is right.
            trusted_router: the router's public identity, for what several hospitals answered together. Where either of
                the two is given, no key is taken from the router.
            allow_plain_http: lets token and question travel unencrypted to another machine.
        """
        self._endpoint = _endpoint(router_endpoint, allow_plain_http)
        self._session = Session(
            user_id=user_id, department=department, trusted_keys=trusted_keys, trusted_router=trusted_router
        )
        self._http_options: dict[str, Any] = {
            "base_url": self._endpoint,
            "headers": {"Authorization": f"Bearer {_token(token)}", "User-Agent": "fdrouter-sdk"},
            "timeout": httpx.Timeout(timeout, connect=_CONNECT_SECONDS),
        }
        self._retry_options: dict[str, Any] = {
            "stop": stop_after_attempt(1 + max(0, retries)),
            "wait": wait_exponential_jitter(multiplier=0.2, max=5.0),
            "retry": retry_if_exception_type(Transient),
            "reraise": True,
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._endpoint!r})"

    @staticmethod
    def _question(prompt: str, max_privacy_budget: float | None, kind: str | None, options: Options) -> Question:
        return Question(prompt=prompt, bound=max_privacy_budget, kind=kind or protocol.GENERAL, **options)


class PrivateInferenceClient(_Client):
    """Asks a router. Not for use by several threads at once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http = httpx.Client(**self._http_options)

    __init__.__doc__ = _Client.__init__.__doc__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    @overload
    def query(
        self,
        prompt: str,
        max_privacy_budget: float | None = None,
        *,
        kind: str | None = None,
        stream: Literal[False] = False,
        **options: Unpack[Options],
    ) -> Response: ...
    @overload
    def query(
        self,
        prompt: str,
        max_privacy_budget: float | None = None,
        *,
        kind: str | None = None,
        stream: Literal[True],
        **options: Unpack[Options],
    ) -> TextStream: ...
    @overload
    def query(
        self,
        prompt: str,
        max_privacy_budget: float | None = None,
        *,
        kind: str | None = None,
        stream: bool = False,
        **options: Unpack[Options],
    ) -> Response | TextStream: ...
    def query(
        self,
        prompt: str,
        max_privacy_budget: float | None = None,
        *,
        kind: str | None = None,
        stream: bool = False,
        **options: Unpack[Options],
    ) -> Response | TextStream:
        """Asks one question.

        Args:
            max_privacy_budget: the most epsilon that the answer may cost. It is never spent because it is there: what
                is spent is the router's usual epsilon for the kind, or the bound where that is less.
            kind: ``general`` (the default: no record is read, nothing is spent), ``chart`` (needs ``patient``), or over
                many records ``cohort.count``, ``cohort.choice`` (needs ``options``), ``cohort.keywords`` and
                ``cohort.text``, or ``cohort`` for the cheapest of these that can answer (the response's ``chosen`` says
                which and why). Records are never read unless they are asked for.
            stream: gives an iterator of text instead; its ``response`` is there at the end.
            options: ``epsilon``, ``delta``, ``hospitals``, ``patient``, ``purpose``, ``contexts``, ``max_tokens``,
                ``options``, ``picks``, ``threshold``, ``across`` (True: several hospitals answer a count, a choice or a
                text together), ``model``, ``idempotency_key``, ``audit_trail`` (True: the receipt is checked).
                ``require_consensus`` is refused: one node answers a request in this version.

        Raises:
            PrivacyBudgetExceeded: bound, allowance or block do not pay; ``offers`` say what would do.
            RouterError: everything else; see :mod:`fdrouter.sdk.errors`.
        """
        question = self._question(prompt, max_privacy_budget, kind, options)
        if stream:
            return TextStream(self._streamed(question))
        return self._run(protocol.ask(self._session, question))

    def _run(self, steps: Steps[T]) -> T:
        try:
            call = next(steps)
            while True:
                try:
                    document = self._send(call)
                except RouterError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(document)
        except StopIteration as end:
            result: T = end.value
            return result

    def _send(self, call: Call) -> Any:
        try:
            for attempt in Retrying(**self._retry_options):
                with attempt:
                    return self._send_once(call)
        except Transient as error:
            raise error.error from None
        raise AssertionError("the last attempt returns or raises")

    def _send_once(self, call: Call) -> Any:
        try:
            response = self._http.request(call.method, call.path, json=call.body)
        except httpx.TransportError as error:
            raise protocol.unreachable(self._endpoint, error) from None
        return protocol.document_of(response.status_code, response.content)

    def _streamed(self, question: Question) -> Iterator[str | Response]:
        body = self._run(protocol.body_of(self._session, question))
        reader = EventReader()
        try:
            with self._http.stream("POST", CHAT, json={**body, "stream": True}) as response:
                if response.status_code != httpx.codes.OK:
                    protocol.document_of(response.status_code, response.read())
                for line in response.iter_lines():
                    if text := reader.feed(line):
                        yield text
        except (httpx.TransportError, Transient):
            pass  # asked for again below
        if reader.last is None:  # broken off: the same key gives the same answer, in one piece
            full = self._run(protocol.completed(self._session, question, body))
            yield _rest(full, reader)
            yield full
        else:
            yield self._run(protocol.response_of(self._session, question, reader.last, reader.text))


class AsyncPrivateInferenceClient(_Client):
    """The same for asyncio: ``await client.query(...)``; streams with ``async for``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._http = httpx.AsyncClient(**self._http_options)

    __init__.__doc__ = _Client.__init__.__doc__

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self._http.aclose()

    async def query(
        self,
        prompt: str,
        max_privacy_budget: float | None = None,
        *,
        kind: str | None = None,
        **options: Unpack[Options],
    ) -> Response:
        """As :meth:`PrivateInferenceClient.query`; :meth:`stream` streams."""
        question = self._question(prompt, max_privacy_budget, kind, options)
        return await self._run(protocol.ask(self._session, question))

    def stream(
        self,
        prompt: str,
        max_privacy_budget: float | None = None,
        *,
        kind: str | None = None,
        **options: Unpack[Options],
    ) -> AsyncTextStream:
        """As :meth:`query`, with the text as it comes; ``response`` is there at the end."""
        return AsyncTextStream(self._streamed(self._question(prompt, max_privacy_budget, kind, options)))

    async def _run(self, steps: Steps[T]) -> T:
        try:
            call = next(steps)
            while True:
                try:
                    document = await self._send(call)
                except RouterError as error:
                    call = steps.throw(error)
                else:
                    call = steps.send(document)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _send(self, call: Call) -> Any:
        try:
            async for attempt in AsyncRetrying(**self._retry_options):
                with attempt:
                    return await self._send_once(call)
        except Transient as error:
            raise error.error from None
        raise AssertionError("the last attempt returns or raises")

    async def _send_once(self, call: Call) -> Any:
        try:
            response = await self._http.request(call.method, call.path, json=call.body)
        except httpx.TransportError as error:
            raise protocol.unreachable(self._endpoint, error) from None
        return protocol.document_of(response.status_code, response.content)

    async def _streamed(self, question: Question) -> AsyncIterator[str | Response]:
        body = await self._run(protocol.body_of(self._session, question))
        reader = EventReader()
        try:
            async with self._http.stream("POST", CHAT, json={**body, "stream": True}) as response:
                if response.status_code != httpx.codes.OK:
                    protocol.document_of(response.status_code, await response.aread())
                async for line in response.aiter_lines():
                    if text := reader.feed(line):
                        yield text
        except (httpx.TransportError, Transient):
            pass  # asked for again below
        if reader.last is None:  # broken off: the same key gives the same answer, in one piece
            full = await self._run(protocol.completed(self._session, question, body))
            yield _rest(full, reader)
            yield full
        else:
            yield await self._run(protocol.response_of(self._session, question, reader.last, reader.text))


def _rest(full: Response, reader: EventReader) -> str:
    """What of the answer has not been given out yet."""
    if not full.text.startswith(reader.text):
        raise RouterError("The answer on record is not the one that was being streamed.")
    return full.text[len(reader.text) :]


class TextStream:
    """The text of one answer as it comes. ``response`` is there once it has been read to its end."""

    def __init__(self, items: Iterator[str | Response]) -> None:
        self._items = items
        self._response: Response | None = None

    def __iter__(self) -> Iterator[str]:
        for item in self._items:
            if isinstance(item, Response):
                self._response = item
            elif item:
                yield item

    @property
    def response(self) -> Response:
        """Reads what is left of the text first."""
        if self._response is None:
            for _ in self:
                pass
        if self._response is None:
            raise RouterError("The stream was closed, or had failed.")
        return self._response


class AsyncTextStream:
    """:class:`TextStream` for ``async for``; ``await stream.response()`` at the end."""

    def __init__(self, items: AsyncIterator[str | Response]) -> None:
        self._items = items
        self._response: Response | None = None

    async def __aiter__(self) -> AsyncIterator[str]:
        async for item in self._items:
            if isinstance(item, Response):
                self._response = item
            elif item:
                yield item

    async def response(self) -> Response:
        """Reads what is left of the text first."""
        if self._response is None:
            async for _ in self:
                pass
        if self._response is None:
            raise RouterError("The stream was closed, or had failed.")
        return self._response
