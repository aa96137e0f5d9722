"""A batch as each of vLLM's model runners shows it to a logits processor, with the same handles for both.

The V1 batch is told to the adapter by vLLM's own ``BatchUpdate``. The V2 batch stands on vLLM's own request state,
loader and sampler, with CPU tensors in place of the GPU's (by the same swap of one buffer class that vLLM makes for its
CPU worker); what needs a GPU kernel, the forward pass and the final draw of a forced token, is left out.

torch and vLLM are imported when something is made: collecting tests must not load them.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from federation.engine.group import KEY, GroupArguments, Role
from privacy.dp.text_plan import plan_text

VOCABULARY = 300
RESERVED = (0, 1, 7)
MARKER = 7
TOKENS = 8
PROMPT = 5
SLOTS = 32
DOOR = "federation.engine.group_decoding:GroupLogits"


def arguments(role: Role, gid: str, n: int = 5, **changes: Any) -> GroupArguments:
    plan = plan_text(epsilon=10, contexts=64, max_tokens=TOKENS)
    found = GroupArguments.of_plan(plan, gid=gid, role=role, n=n, marker=MARKER, shared=0, reserved=RESERVED)
    return replace(found, **changes)


def params(found: GroupArguments | None, **changes: Any) -> Any:
    """Sampling parameters of a member, or of an ordinary request."""
    from vllm import SamplingParams

    if found is None:
        return SamplingParams(max_tokens=TOKENS, temperature=0, **changes)
    usual = {"max_tokens": found.tokens, "temperature": 0, "stop_token_ids": [found.marker]}
    return SamplingParams(**{**usual, "extra_args": {KEY: found.encode()}, **changes})


class V1Batch:
    """Rows stay where they are until the batch is condensed; tokens so far are the engine's own lists."""

    def __init__(self) -> None:
        import torch
        from vllm.v1.sample.logits_processor import MoveDirectionality, build_logitsprocs
        from vllm.v1.sample.logits_processor.interface import BatchUpdate

        self._update, self._direction = BatchUpdate, MoveDirectionality
        config = SimpleNamespace(speculative_config=None, scheduler_config=SimpleNamespace(max_num_seqs=SLOTS))
        made = build_logitsprocs(config, torch.device("cpu"), False, False, [DOOR])
        self.adapter: Any = [found for found in made.non_argmax_invariant if "GroupLogits" in type(found).__name__][0]
        self.rows: list[str] = []
        self.produced: dict[str, list[int]] = {}

    def _tell(self, **changes: Any) -> None:
        empty: dict[str, Any] = {"removed": [], "added": [], "moved": []}
        self.adapter.update_state(self._update(batch_size=len(self.rows), **{**empty, **changes}))

    def add(self, name: str, given: Any, produced: int = 0) -> None:
        self.rows.append(name)
        self.produced[name] = [5] * produced
        self._tell(added=[(len(self.rows) - 1, given, [1] * PROMPT, self.produced[name])])

    def remove(self, name: str) -> None:
        """The last row takes the place of the one that leaves, as in vLLM."""
        row, last = self.rows.index(name), len(self.rows) - 1
        self.rows[row] = self.rows[last]
        self.rows.pop()
        moved = [(last, row, self._direction.UNIDIRECTIONAL)] if row != last else []
        self._tell(removed=[row], moved=moved)

    def swap(self, one: str, other: str) -> None:
        a, b = self.rows.index(one), self.rows.index(other)
        self.rows[a], self.rows[b] = other, one
        self._tell(moved=[(a, b, self._direction.SWAP)])

    def give(self, name: str, token: int) -> None:
        self.produced[name].append(token)

    def step(self, logits: Mapping[str, Any]) -> dict[str, Any]:
        import torch

        given = torch.stack([logits[name] for name in self.rows])
        self.adapter.update_state(None)
        return dict(zip(self.rows, self.adapter.apply(given), strict=True))


class V2Batch:
    """Slots never move, rows are in a new order each step; only lengths are known of the tokens so far."""

    def __init__(self) -> None:
        import torch
        from vllm.v1.worker.cpu.buffer_utils import UvaBuffer
        from vllm.v1.worker.gpu import buffer_utils

        buffer_utils.UvaBuffer = UvaBuffer  # as vllm.v1.worker.cpu.shm does
        from vllm.v1.worker.gpu.sample.logits_processor import build_custom_logits_processors
        from vllm.v1.worker.gpu.sample.sampler import Sampler
        from vllm.v1.worker.gpu.states import RequestState

        device = torch.device("cpu")
        self.state = RequestState(SLOTS, PROMPT + TOKENS + 8, 64, 0, VOCABULARY, device)
        config: Any = SimpleNamespace(reasoning_config=None, speculative_config=None, num_speculative_tokens=0)
        (self.adapter,) = build_custom_logits_processors(config, self.state, False, [DOOR])
        self.sampler = Sampler(config, SLOTS, VOCABULARY, device, self.state, custom_logits_processors=(self.adapter,))
        self.computed: dict[str, int] = {}  # tokens that the model has seen after the step, prompt included
        self.order = random.Random(1)

    def add(self, name: str, given: Any, produced: int = 0) -> None:
        self.state.add_request(name, PROMPT, [1] * (PROMPT + produced), 0, TOKENS)
        self.sampler.add_request(self.state.req_id_to_index[name], given)
        self.computed[name] = PROMPT + produced

    def remove(self, name: str) -> None:
        """The slot falls free and the sampler is not told."""
        self.state.remove_request(name)
        del self.computed[name]

    def swap(self, one: str, other: str) -> None:
        """Every step has an order of its own anyway."""

    def give(self, name: str, token: int) -> None:
        self.computed[name] += 1

    def step(self, logits: Mapping[str, Any]) -> dict[str, Any]:
        import torch

        names = self.order.sample(sorted(self.computed), len(self.computed))
        slots = np.array([self.state.req_id_to_index[name] for name in names])
        mapping, ends = torch.from_numpy(slots), np.array([self.computed[name] for name in names])
        found = self.sampler.apply_sampling_params(
            torch.stack([logits[name] for name in names]),
            expanded_idx_mapping=mapping,
            idx_mapping=mapping,
            idx_mapping_np=slots,
            pos=torch.from_numpy(ends - 1),
            input_ids=torch.ones(len(names), dtype=torch.int32),
            expanded_local_pos=torch.zeros(len(names), dtype=torch.int32),
            seq_lens_upper_bound_np=ends,
            skip_top_k_top_p=True,
        )
        return dict(zip(names, found, strict=True))


class Group:
    """A group of ``n`` in a batch; its rows are named after it, the public one ``.../0``."""

    def __init__(self, batch: V1Batch | V2Batch, name: str = "g", n: int = 5, **changes: Any) -> None:
        self.batch, self.gid = batch, secrets.token_hex(16)
        self.names = [f"{name}/{index}" for index in range(n)]
        for index, row in enumerate(self.names):
            role: Role = "private" if index else "public"
            batch.add(row, params(arguments(role, self.gid, n, **changes)))

    def member(self, index: int, role: Role = "private", **changes: Any) -> Any:
        return params(arguments(role, self.gid, len(self.names), **changes))

    def give(self, token: int, *, but: int | None = None) -> None:
        for index, name in enumerate(self.names):
            if index != but:
                self.batch.give(name, token)


def noise(names: list[str], seed: int = 1) -> dict[str, Any]:
    import torch

    torch.manual_seed(seed)
    return {name: torch.randn(VOCABULARY) * 3 for name in names}


def forced(row: Any) -> int | None:
    """The token that a row was forced to; None where more than one is possible."""
    import torch

    possible = torch.isfinite(row).nonzero().flatten().tolist()
    return int(possible[0]) if len(possible) == 1 else None
