"""The gang scheduler as vLLM runs it, without the model: real requests, real cache manager, made-up tokens.

vLLM is imported when an engine is made: collecting tests must not load it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import Any

from federation.engine import serve
from tests.engine.batches import MARKER, TOKENS, arguments, params

BLOCK = serve.BLOCK_TOKENS
TOKEN = 5


class Engine:
    """Steps a scheduler with ``blocks`` of cache, ``seats`` requests at once and ``budget`` tokens a step."""

    def __init__(
        self, model: os.PathLike[str] | str, *, blocks: int = 400, seats: int = 40, budget: int = 1024
    ) -> None:
        import torch
        from vllm.engine.arg_utils import EngineArgs
        from vllm.utils.hashing import sha256
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.structured_output import StructuredOutputManager

        from federation.engine.gang_scheduler import GangScheduler

        options = EngineArgs(
            model=os.fspath(model),
            max_model_len=1024,
            dtype="bfloat16",
            enforce_eager=True,
            block_size=BLOCK,
            max_num_batched_tokens=budget,
            max_num_seqs=seats,
            kv_cache_memory_bytes=2**28,
            async_scheduling=False,
            skip_tokenizer_init=True,
        )
        self.config = options.create_engine_config()
        self.config.cache_config.num_gpu_blocks = blocks
        spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
        cache = KVCacheConfig(
            num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
        )
        self.scheduler = GangScheduler(self.config, cache, StructuredOutputManager(self.config), block_size=BLOCK)
        init_none_hash(sha256)
        self._hasher = get_request_block_hasher(BLOCK, sha256)
        self.tokens: dict[str, list[int]] = {}
        self.ends: dict[str, str] = {}
        self.found: dict[str, int] = {}  # tokens of its prompt that a request found in the cache
        self.planned: list[dict[str, int]] = []  # tokens of each request in each step

    def add(self, name: str, prompt: list[int], given: Any) -> None:
        from vllm.v1.request import Request

        self.tokens[name] = []
        self.scheduler.add_request(Request(name, prompt, given, None, block_hasher=self._hasher))

    def chat(self, name: str, length: int = 40, tokens: int = TOKENS) -> None:
        self.plain(name, [secrets.randbelow(40_000) + 9_000 for _ in range(length)], tokens)

    def plain(self, name: str, prompt: list[int], tokens: int = 1) -> None:
        """An ordinary request."""
        from vllm import SamplingParams

        self.add(name, prompt, SamplingParams(max_tokens=tokens, temperature=0))

    def abort(self, name: str) -> None:
        """A request's client went away."""
        from vllm.v1.request import RequestStatus

        self.scheduler.finish_requests([name], RequestStatus.FINISHED_ABORTED)

    def step(self, between: Callable[[], object] = lambda: None, *, tokens: dict[str, int] | None = None) -> None:
        """Plan a step, let ``between`` happen while it runs, and book one token for each row that ends its prompt."""
        from vllm.v1.outputs import ModelRunnerOutput

        plan = self.scheduler.schedule()
        self.planned.append(dict(plan.num_scheduled_tokens))
        self.found.update({new.req_id: new.num_computed_tokens for new in plan.scheduled_new_reqs})
        names = list(plan.num_scheduled_tokens)
        sampled = [self._sampled(name, (tokens or {}).get(name, TOKEN)) for name in names]
        between()
        ran = ModelRunnerOutput(names, {name: row for row, name in enumerate(names)}, sampled)
        for outputs in self.scheduler.update_from_output(plan, ran).values():
            for output in outputs.outputs:
                self.tokens[output.request_id] += output.new_token_ids
                if output.finish_reason is not None:
                    self.ends[output.request_id] = str(output.finish_reason)

    def _sampled(self, name: str, token: int) -> list[int]:
        request = self.scheduler.requests[name]
        return [token] if request.num_computed_tokens >= request.num_tokens else []

    def run(self, steps: int = 200) -> None:
        while self.scheduler.has_requests():
            steps -= 1
            assert steps, "the scheduler does not come to an end"
            self.step()

    @property
    def free(self) -> int:
        """Blocks of cache that nobody holds."""
        return int(self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks())


class Gang:
    """A group of ``n`` requests with ``shared`` public tokens and ``own`` of each row's own; ``.../0`` is public."""

    def __init__(
        self, engine: Engine, name: str, n: int = 5, *, shared: int = 70, own: int = 60, asked: int = 1
    ) -> None:
        self.engine, self.gid = engine, secrets.token_hex(16)
        self.n, self.shared = n, shared
        self.names = [f"{name}/{index}" for index in range(n)]
        self.prompts = [[1000 + asked] * shared + [2000 + index] * own for index in range(n)]

    def params(self, index: int, **changes: Any) -> Any:
        role: Any = "private" if index else "public"
        return params(arguments(role, self.gid, **{"n": self.n, "shared": self.shared, **changes}))

    def arrive(self, *indices: int, **changes: Any) -> Gang:
        """Members come in, all by default, the public one last."""
        for index in indices or (*range(1, self.n), 0):
            self.engine.add(self.names[index], self.prompts[index], self.params(index, **changes))
        return self

    @property
    def tokens(self) -> list[list[int]]:
        return [self.engine.tokens[name] for name in self.names]

    @property
    def ends(self) -> set[str | None]:
        return {self.engine.ends.get(name) for name in self.names}


__all__ = ["BLOCK", "MARKER", "TOKEN", "TOKENS", "Engine", "Gang"]
