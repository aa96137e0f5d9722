"""vLLM V1 logits processor that draws one private token for a whole group and forces it on every row.

The second fence: it trusts neither scheduler nor client. Rows of a group that is not whole, not in lockstep, past its
planned length or once broken get the reserved marker token and nothing else, which stops them. (In a prefill step only
some members may be in the batch, or all with a part of their prompt; the engine discards what is sampled then.)
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm.logger import init_logger
from vllm.v1.sample.logits_processor import LogitsProcessor, MoveDirectionality

from fdrouter.errors import InvalidParameter
from federation.engine.group import GroupArguments, arguments_of
from privacy.dp.decoding import TokenMechanism

REMEMBERED = 4096
logger = init_logger("vllm.federation.group")


@dataclass(slots=True)
class Row:
    """One row of the batch: its group arguments and the engine's own list of the tokens it has produced."""

    arguments: GroupArguments
    produced: list[int]


class GroupLogits(LogitsProcessor):  # type: ignore[misc]
    """Replaces the logits of a complete group by a single drawn token; leaves ordinary rows alone."""

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        self._rows: dict[int, Row] = {}
        self._mechanisms: OrderedDict[str, TokenMechanism] = OrderedDict()
        self._broken: OrderedDict[str, None] = OrderedDict()

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse a member the mechanism could not serve (HTTP 400 at the engine's door)."""
        try:
            arguments = arguments_of(sampling_params)
            if arguments is None:
                return
            arguments.mechanism()
        except InvalidParameter as error:
            raise ValueError(error.message) from error
        plain = (
            sampling_params.n == 1
            and sampling_params.max_tokens == arguments.tokens
            and sampling_params.logprobs is None
            and sampling_params.prompt_logprobs is None
            and not sampling_params.logit_bias
            and not sampling_params.min_tokens
            and not sampling_params.presence_penalty
            and not sampling_params.frequency_penalty
            and sampling_params.repetition_penalty == 1.0
            and not sampling_params.bad_words
            and not sampling_params.allowed_token_ids
            and arguments.marker in (sampling_params.stop_token_ids or [])
        )
        if not plain:
            # Log-probabilities would leave the mechanism; the others would change its law or unequal the rows' ends.
            raise ValueError("a group member may set max_tokens, temperature and the stop token, and nothing else")

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
            arguments = arguments_of(params)
            if arguments is None:
                self._rows.pop(row, None)
            else:
                self._rows[row] = Row(arguments, produced)
        for a, b, direction in batch_update.moved:
            row_a, row_b = self._rows.pop(a, None), self._rows.pop(b, None)
            if row_a is not None:
                self._rows[b] = row_a
            if direction == MoveDirectionality.SWAP and row_b is not None:
                self._rows[a] = row_b

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Force one token on all rows of each group; ``logits`` has shape (rows, vocabulary), changed in place."""
        groups: dict[str, list[int]] = defaultdict(list)
        for row, state in self._rows.items():
            groups[state.arguments.gid].append(row)
        for gid, rows in groups.items():
            token = self._token(gid, rows, logits)
            logits[rows] = -torch.inf
            logits[rows, token] = 0.0
        return logits

    def _token(self, gid: str, rows: list[int], logits: torch.Tensor) -> int:
        states = [self._rows[row] for row in rows]
        arguments = states[0].arguments
        if not self._sound(gid, states):
            return arguments.marker
        publics = [row for row in rows if self._rows[row].arguments.role == "public"]
        private = sorted(set(rows) - set(publics))
        try:
            return self._draw(gid, arguments, logits[publics[0]], logits[private])
        except (ValueError, InvalidParameter, RuntimeError, OverflowError) as error:
            logger.warning("group %s broke: %s", gid[:8], type(error).__name__)
            self._break(gid)
            return arguments.marker

    def _sound(self, gid: str, states: list[Row]) -> bool:
        """Whole, in lockstep, within its length and never broken before."""
        first = states[0].arguments
        lengths = {len(state.produced) for state in states}
        publics = sum(state.arguments.role == "public" for state in states)
        whole = len(states) == first.n and publics == 1 and all(s.arguments.common == first.common for s in states)
        started = max(lengths) > 0
        if started and (not whole or len(lengths) > 1 or max(lengths) >= first.tokens):
            self._break(gid)
        return whole and len(lengths) == 1 and gid not in self._broken

    def _break(self, gid: str) -> None:
        self._broken[gid] = None
        while len(self._broken) > REMEMBERED:
            self._broken.popitem(last=False)

    def _draw(self, gid: str, arguments: GroupArguments, public: torch.Tensor, private: torch.Tensor) -> int:
        mechanism = self._mechanism(gid, arguments)
        base = public.double().log_softmax(-1).cpu().numpy()
        allowed = mechanism.candidates(base)
        ids = torch.from_numpy(allowed).to(private.device)
        rows = private.float()
        # Only the candidates' columns leave torch; the normaliser needs all of them.
        values = (rows[:, ids].double() - rows.logsumexp(-1, keepdim=True).double()).cpu().numpy()
        total = mechanism.parts(base[allowed], values).sum(axis=0, dtype=np.int64)
        return int(allowed[mechanism.draw(mechanism.scores(base[allowed], total))])

    def _mechanism(self, gid: str, arguments: GroupArguments) -> TokenMechanism:
        if gid not in self._mechanisms:
            self._mechanisms[gid] = arguments.mechanism()
            while len(self._mechanisms) > 64:
                self._mechanisms.popitem(last=False)
        return self._mechanisms[gid]
