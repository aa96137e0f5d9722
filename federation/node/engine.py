"""Client of the node's vLLM engine: plain chats, and groups of requests decoded as one private mechanism."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar

import aiohttp

from fdrouter.errors import InvalidParameter, NodeFailed, NodeTimeout
from federation.engine.group import KEY, GroupArguments, Role
from federation.node.prompts import GroupPrompts, PromptBuilder, chat_messages
from privacy.dp.text_plan import TextPlan

MAX_LINE = 1 << 20  # bytes; no event of the engine comes near it


class GroupFailed(NodeFailed):
    """A group of requests could not be decoded as one mechanism; nothing more is released, the charge is kept.

    ``details['tokens']`` is how many tokens had been released before.
    """

    code: ClassVar[str] = "group_failed"
    default_message: ClassVar[str] = "The hospital's engine could not finish the private answer."


class EngineRefused(NodeFailed):
    """The engine did not accept a request (a defect of this node, not of the asker's input)."""

    code: ClassVar[str] = "engine_refused"
    default_message: ClassVar[str] = "The hospital's engine did not accept the request."


class EngineUnreachable(NodeFailed):
    """No connection to the engine: it has seen nothing."""

    code: ClassVar[str] = "engine_unreachable"
    default_message: ClassVar[str] = "The hospital's engine is not reachable."


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect, for a whole answer, and between two events of a plain chat's stream."""

    connect: float = 5.0
    total: float = 240.0
    read: float = 60.0


@dataclass(frozen=True, slots=True)
class Usage:
    """End of a plain chat; ``finish_reason`` is stop or length."""

    prompt_tokens: int
    completion_tokens: int
    finish_reason: str


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """End of a privately decoded answer.

    ``tokens`` were sampled (the end token counts, START does not): the node settles ``plan.rho_of(tokens)``.
    ``patients`` is how many slots held one; it is itself private and stays at the node. ``finish_reason`` is stop or
    length.
    """

    tokens: int
    finish_reason: str
    prompt_length: int
    patients: int = field(repr=False)


class EngineClient:
    """Talks to one vLLM server. ``session`` is the caller's and stays open; ``prompts`` is needed for groups only."""

    def __init__(
        self,
        base_url: str,
        model: str,
        session: aiohttp.ClientSession,
        *,
        prompts: PromptBuilder | None = None,
        timeouts: Timeouts | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._model = model
        self._session = session
        self._prompts = prompts
        self._timeouts = timeouts or Timeouts()

    async def healthy(self) -> bool:
        """Whether the engine answers and serves this client's model."""
        timeout = aiohttp.ClientTimeout(total=self._timeouts.connect)
        try:
            async with self._session.get(f"{self._base_url}/v1/models", timeout=timeout) as response:
                names = [str(entry["id"]) for entry in (await response.json())["data"]]
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
            return False
        return self._model in names

    async def check_question(self, question: str) -> None:
        """Whether a group can be asked this, before anything is reserved or read.

        Raises:
            InvalidParameter: the question is empty or too long.
        """
        if self._prompts is not None:
            await asyncio.to_thread(self._prompts.group, question, [], 1)

    async def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int = 256,
        temperature: float = 0.2,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        private: bool = False,
    ) -> AsyncIterator[str | Usage]:
        """Texts of the answer as they come, then one :class:`Usage`. Closing the iterator aborts the request.

        With ``private`` the prompt is never found in the engine's prefix cache again: how fast another request is
        answered then tells nothing about it.
        """
        body = {
            "messages": chat_messages(messages),
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "stop": list(stop),
        }
        if private:
            body["cache_salt"] = secrets.token_urlsafe(32)
        reason: str | None = None
        usage: Mapping[str, Any] = {}
        stream = self._events("/v1/chat/completions", body, read=self._timeouts.read)
        try:
            async for event in stream:
                usage = event.get("usage") or usage
                for choice in event.get("choices", ()):
                    reason = choice.get("finish_reason") or reason
                    if text := choice["delta"].get("content"):
                        yield text
        except (KeyError, TypeError, AttributeError) as error:
            raise NodeFailed from error
        finally:
            await stream.aclose()
        if reason not in ("stop", "length"):
            raise NodeFailed("The hospital's engine stopped before the answer was finished.")
        yield Usage(int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0)), reason)

    async def decode_group(
        self, question: str, documents: Sequence[str], plan: TextPlan, *, start: str | None = None
    ) -> AsyncIterator[str | GroupSummary]:
        """Texts of one private answer, then one :class:`GroupSummary`.

        The first text is the answer's public beginning: ``start``, or one made from the question.

        ``documents`` holds one text per patient, best first, at most ``plan.contexts``. Charge ``plan.rho`` before
        calling. Raises :class:`GroupFailed` when the engine ended the group; what came before it was paid for. Closing
        the iterator aborts every member at the engine.
        """
        if self._prompts is None:
            raise InvalidParameter("This engine client has no tokenizer.", field="prompts")
        builder = self._prompts
        rows = await asyncio.to_thread(builder.group, question, documents, plan.contexts, start=start)
        marker = builder.marker()
        released = 0
        reason: str | None = None
        stream = self._group_events(builder, rows, plan)
        try:
            async for event in stream:
                for choice in event.get("choices", ()):
                    ids = choice.get("token_ids") or ()
                    ends = (choice.get("stop_reason"), *ids)
                    if marker in ends or choice.get("finish_reason") == "abort":
                        raise GroupFailed(tokens=released)
                    if ids and released == 0:
                        yield rows.start
                    released += len(ids)
                    reason = choice.get("finish_reason") or reason
                    if text := choice.get("text"):
                        yield text
        except (KeyError, TypeError, AttributeError) as error:
            raise NodeFailed from error
        finally:
            await stream.aclose()
        if reason not in ("stop", "length") or not 0 < released <= plan.max_tokens:
            raise GroupFailed(tokens=released)
        yield GroupSummary(released, reason, rows.length, len(documents))

    # --- transport ----------------------------------------------------------------------------------------------------

    def _member(
        self, builder: PromptBuilder, rows: GroupPrompts, plan: TextPlan, gid: str, role: Role
    ) -> dict[str, Any]:
        """Body of one of the two requests that make up a group."""
        marker = builder.marker()
        arguments = GroupArguments.of_plan(
            plan,
            gid=gid,
            role=role,
            n=len(rows.private) + 1,
            marker=marker,
            shared=rows.shared,
            reserved=builder.reserved(),
        )
        return {
            "prompt": rows.public if role == "public" else rows.private,
            "max_tokens": plan.max_tokens,
            "temperature": 0,  # the draw is the plug-in's; every row only repeats it
            "stop_token_ids": [marker],
            "return_token_ids": role == "public",
            "vllm_xargs": {KEY: arguments.encode()},
        }

    async def _group_events(
        self, builder: PromptBuilder, rows: GroupPrompts, plan: TextPlan
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Events of the public row, while the private rows are held open beside it.

        The private rows' own answer is not read: it repeats the public row's. Should it end early or badly, the engine
        has ended the group, and the public row says so itself.
        """
        gid = secrets.token_hex(16)
        async with AsyncExitStack() as stack:
            held = asyncio.create_task(self._hold("/v1/completions", self._member(builder, rows, plan, gid, "private")))
            stack.push_async_callback(_cancelled, held)
            # A group may wait for room and for its prompts, so only the whole answer has a limit.
            stream = self._events(
                "/v1/completions", self._member(builder, rows, plan, gid, "public"), read=self._timeouts.total
            )
            stack.push_async_callback(stream.aclose)
            following = aiter(stream)
            while True:
                upcoming = asyncio.ensure_future(anext(following, None))
                try:
                    await asyncio.wait({upcoming, held}, return_when=asyncio.FIRST_COMPLETED)
                    if not upcoming.done() and held.done() and held.exception() is not None:
                        # Without its private rows the group would wait in the engine until it is given up there.
                        await held
                    event = await upcoming
                finally:
                    await _cancelled(upcoming)
                if event is None:
                    return
                yield event

    async def _hold(self, path: str, body: dict[str, Any]) -> None:
        """Send a request and wait for its end, without looking at the answer."""
        async with self._guarded(self._post(path, {**body, "stream": False}, read=self._timeouts.total)) as response:
            with suppress(aiohttp.ClientError):
                await response.read()

    async def _events(self, path: str, body: dict[str, Any], *, read: float) -> AsyncGenerator[dict[str, Any], None]:
        """Server-sent events of a streaming request, parsed."""
        options = {"include_usage": True}
        request = self._post(path, {**body, "stream": True, "stream_options": options}, read=read)
        async with self._guarded(request) as response:
            try:
                async for line in response.content:
                    if not line.startswith(b"data:"):
                        continue
                    data = line[5:].strip()
                    if data == b"[DONE]":
                        return
                    event = json.loads(data)
                    if not isinstance(event, dict) or "error" in event:
                        raise NodeFailed("The hospital's engine reported an error.")
                    yield event
            except TimeoutError as error:
                raise NodeTimeout from error
            except (aiohttp.ClientError, ValueError) as error:
                raise NodeFailed from error
        raise NodeFailed("The hospital's engine broke off its answer.")

    def _post(self, path: str, body: dict[str, Any], *, read: float) -> Any:
        limits = self._timeouts
        timeout = aiohttp.ClientTimeout(total=limits.total, sock_connect=limits.connect, sock_read=read)
        payload = {"model": self._model, **body}
        return self._session.post(f"{self._base_url}{path}", json=payload, timeout=timeout)

    def _guarded(self, request: Any) -> _Guarded:
        return _Guarded(request)


class _Guarded:
    """Enter a request's response with the engine's failures translated into this project's errors."""

    def __init__(self, request: Any) -> None:
        self._request = request

    async def __aenter__(self) -> aiohttp.ClientResponse:
        try:
            response: aiohttp.ClientResponse = await self._request.__aenter__()
        except TimeoutError as error:
            raise NodeTimeout from error
        except aiohttp.ClientConnectorError as error:
            raise EngineUnreachable from error
        except aiohttp.ClientError as error:
            raise NodeFailed from error
        if response.status != 200:
            response.close()  # its text may quote the prompt, so it is neither read nor kept
            raise EngineRefused(status=response.status) if response.status < 500 else NodeFailed(status=response.status)
        return response

    async def __aexit__(self, *exc: Any) -> None:
        await self._request.__aexit__(*exc)


async def _cancelled(future: asyncio.Future[Any]) -> None:
    """Cancel ``future`` and wait until it has let go of what it held; its own outcome is of no interest."""
    future.cancel()
    await asyncio.wait({future})
    if not future.cancelled():
        future.exception()  # marks it as seen
