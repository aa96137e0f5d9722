"""Adapter for vLLM's V2 model runner (the GPU build): finds each step's rows through the runner's request slots.

Run so far with the real interface, request state and sampler stages of the installed vLLM on CPU tensors, in the same
tests as the V1 adapter. Not run: a whole V2 engine. It needs Triton kernels, so a GPU; that its sampler then takes the
forced token of every row, and what a step costs there, has been read in its source and not been seen.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor

from federation.engine.draws import GroupDraws, Member, Seat, check_params


class GroupLogitsV2(LogitsProcessor):  # type: ignore[misc]
    """Replaces the logits of a complete group by a single drawn token; leaves ordinary rows alone."""

    def __init__(self, vllm_config: Any, req_states: Any) -> None:
        self._draws = GroupDraws()
        self._prompt_len = req_states.prompt_len  # its host side is the source of truth
        self._members: dict[int, Member] = {}  # request slot -> member

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Called at the engine's door; a ``ValueError`` becomes HTTP 400."""
        check_params(sampling_params)

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """A request takes a slot; whatever the slot held before is forgotten. Slots are not told when they fall free:
        only those in a step's batch count."""
        member = Member.of(sampling_params)
        if member is None:
            self._members.pop(req_idx, None)
            return False
        self._members[req_idx] = member
        return True

    def seats(self, ctx: Any) -> list[Seat]:
        """The members that are given a token in this step; those still in their prompt are not, and are left alone."""
        ends = ctx.seq_lens_upper_bound_np  # exact, since the scheduler refuses speculative decoding
        found = []
        for row, slot in enumerate(ctx.idx_mapping_np.tolist()):
            if (member := self._members.get(slot)) is not None:
                produced = int(ends[row]) - int(self._prompt_len.np[slot])
                if produced >= 0:
                    found.append(Seat(row, member, produced))
        return found

    def apply(self, logits: torch.Tensor, ctx: Any) -> torch.Tensor:
        """Force one token on all rows of each group; ``logits`` has shape (rows, vocabulary), changed in place."""
        if logits.shape[0] == len(ctx.idx_mapping_np):
            return self._draws.force(logits, self.seats(ctx))
        # Several rows a request: speculative decoding after all. Nothing is known about such rows but whose they are.
        slots = enumerate(ctx.expanded_idx_mapping.tolist())
        return self._draws.refuse(logits, [Seat(r, self._members[s], 0) for r, s in slots if s in self._members])
