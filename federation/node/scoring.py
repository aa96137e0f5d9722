"""One step of rows that somebody else decodes: log-probabilities of given tokens, asked of the node's own engine.

Every row is a request of its own, for one token that nobody looks at, with a cache salt of its own. A step finds what
the step before it computed of the same row in the engine's prefix cache; nothing else ever does, not even a row with
the very same text. So how much is computed follows from how many tokens were written, and never from a record.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
from collections.abc import Sequence
from typing import Any

import aiohttp
import numpy as np

from fdrouter.errors import InvalidParameter, NodeFailed, NodeTimeout
from federation.node.engine import EngineClient
from federation.node.prompts import PromptBuilder
from privacy.dp.across_text import MOST_CANDIDATES
from privacy.dp.decoding import Floats

_PREFIX = "token_id:"  # how the engine names a token whose id was asked for
_TRIES = 5
_PAUSE = 0.05  # seconds


def fresh_salt() -> str:
    """A cache salt that nobody can guess: 256 bits of the operating system."""
    return secrets.token_urlsafe(32)


class ScoringClient(EngineClient):
    """Asks an engine that was started by :func:`federation.engine.serve.command`."""

    @property
    def prompts(self) -> PromptBuilder:
        """The builder of prompts, whose tokens the engine speaks.

        Raises:
            InvalidParameter: this client has none.
        """
        if self._prompts is None:
            raise InvalidParameter("This engine client has no tokenizer.", field="prompts")
        return self._prompts

    async def likeliest(self, row: Sequence[int], salt: str) -> tuple[list[int], list[float]]:
        """The likeliest next tokens of a public row and their log-probabilities, without reserved ids; likeliest first.

        Raises:
            NodeFailed: the engine did not say; nothing of a record was in the question.
        """
        reserved = set(self.prompts.reserved())
        for attempt in range(_TRIES):
            found = await self._ask(row, salt, {"logprobs": MOST_CANDIDATES})
            # Beside a row of another request that names its tokens, vLLM's V1 sampler gives this one nothing.
            if len(found) >= MOST_CANDIDATES and all(map(math.isfinite, found.values())):
                ranked = sorted(found.items(), key=lambda pair: (-pair[1], pair[0]))
                kept = [pair for pair in ranked if pair[0] not in reserved]
                return [token for token, _ in kept], [value for _, value in kept]
            await asyncio.sleep(_PAUSE * 2**attempt)
        raise NodeFailed("The hospital's engine did not give the likeliest tokens.")

    async def at(self, rows: Sequence[Sequence[int]], tokens: Sequence[int], salts: Sequence[str]) -> Floats:
        """Log-probabilities of ``tokens`` as each row's next one, shape (rows, tokens). NaN where the engine has none.

        Raises:
            NodeFailed: a row was not answered, or not about these tokens.
        """
        asked = {"logprobs": 1, "logprob_token_ids": list(tokens)}
        tasks = [asyncio.ensure_future(self._ask(row, salt, asked)) for row, salt in zip(rows, salts, strict=True)]
        try:
            found = await asyncio.gather(*tasks)
        finally:  # one that failed, or a caller who left, ends the others
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        try:
            values = [[row[token] for token in tokens] for row in found]
        except KeyError:
            raise NodeFailed("The hospital's engine left out a token.") from None
        return np.array(values, dtype=np.float64).reshape(len(found), len(tokens))

    async def _ask(self, row: Sequence[int], salt: str, asked: dict[str, Any]) -> dict[int, float]:
        """Log-probabilities of a row's next token, by id."""
        body = {
            "prompt": list(row),
            "max_tokens": 1,
            "temperature": 0,
            "return_tokens_as_token_ids": True,
            "cache_salt": salt,
            "stream": False,
            **asked,
        }
        async with self._guarded(self._post("/v1/completions", body, read=self._timeouts.read)) as response:
            try:
                document = json.loads(await response.read())
                named = document["choices"][0]["logprobs"]["top_logprobs"][0]
                return {
                    int(name.removeprefix(_PREFIX)): math.nan if value is None else float(value)
                    for name, value in named.items()
                }
            except TimeoutError as error:
                raise NodeTimeout from error
            except (aiohttp.ClientError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
                raise NodeFailed from error
