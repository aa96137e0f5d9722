"""Adapter for vLLM's V1 model runner (the CPU build): follows the rows of its persistent batch."""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor, MoveDirectionality

from federation.engine.draws import GroupDraws, Member, Seat, check_params


class GroupLogitsV1(LogitsProcessor):  # type: ignore[misc]
    """Replaces the logits of a complete group by a single drawn token; leaves ordinary rows alone."""

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        self._draws = GroupDraws()
        # Row of the batch -> its member, and the engine's own list of the tokens it has produced.
        self._rows: dict[int, tuple[Member, list[int]]] = {}

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Called at the engine's door; a ``ValueError`` becomes HTTP 400."""
        check_params(sampling_params)

    def is_argmax_invariant(self) -> bool:
        """It decides the token."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow the rows as the engine adds, removes and moves them (in that documented order)."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self._rows.pop(row, None)
        for row, params, _prompt, produced in batch_update.added:
            member = Member.of(params)
            if member is None:
                self._rows.pop(row, None)
            else:
                self._rows[row] = (member, produced)
        for a, b, direction in batch_update.moved:
            row_a, row_b = self._rows.pop(a, None), self._rows.pop(b, None)
            if row_a is not None:
                self._rows[b] = row_a
            if direction == MoveDirectionality.SWAP and row_b is not None:
                self._rows[a] = row_b

    def seats(self) -> list[Seat]:
        """The members of the batch. A row that is still in its prompt counts as one without a token."""
        return [Seat(row, member, len(produced)) for row, (member, produced) in self._rows.items()]

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Force one token on all rows of each group; ``logits`` has shape (rows, vocabulary), changed in place."""
        return self._draws.force(logits, self.seats())
