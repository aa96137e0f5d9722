"""One token for every group in a batch: the part of the plug-in that both of vLLM's model runners share.

The second fence: it trusts neither scheduler nor client. Rows of a group that is not whole, not in lockstep, past its
planned length or once broken get the reserved marker token and nothing else, which stops them. (In a prefill step only
some members may be in the batch, or all with a part of their prompt; the engine discards what is sampled then.)

The mechanism is :class:`privacy.dp.decoding.TokenMechanism`; an adapter's only business is to say which row of the
logits belongs to whom. Torch and numpy are known here, vLLM is not.
"""

from __future__ import annotations

import logging
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fdrouter.errors import InvalidParameter
from federation.engine.group import GroupArguments, Role, arguments_of
from privacy.dp.decoding import TokenMechanism

REMEMBERED = 4096  # names of broken groups that stay broken
MECHANISMS = 64  # kept ready; making one asks OpenDP for its cost

#: Sampling parameters that a member may choose: none changes a token, or lets anything but the token out.
FREE = frozenset(
    {
        "max_tokens",
        "temperature",
        "stop_token_ids",
        "extra_args",
        "detokenize",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "output_kind",
        "stream_interval",
        "skip_clone",
        "output_text_buffer_length",
    }
)
logger = logging.getLogger("vllm.federation.group")


@dataclass(frozen=True, slots=True)
class Member:
    """One request of a group; ``common`` is what it must have in common with the others."""

    role: Role
    common: GroupArguments

    @classmethod
    def of(cls, sampling_params: Any) -> Member | None:
        """The member that a request's sampling parameters describe, None for an ordinary request."""
        arguments = arguments_of(sampling_params)
        return None if arguments is None else cls(arguments.role, arguments.common)

    @property
    def gid(self) -> str:
        return self.common.gid


@dataclass(frozen=True, slots=True)
class Seat:
    """A member's place in this step: its row of the logits, and how many tokens it has been given so far."""

    row: int
    member: Member
    produced: int


def check_params(sampling_params: Any) -> None:
    """Refuse a member that the mechanism could not serve, with ``ValueError``; an ordinary request passes.

    What is not named in :data:`FREE` must stand at its default: log-probabilities would leave the mechanism, a grammar
    or a penalty would change its law, a limit of its own would end one row alone. A parameter that a later vLLM brings
    is refused until somebody has thought about it.
    """
    try:
        arguments = arguments_of(sampling_params)
        if arguments is None:
            return
        arguments.mechanism()
    except InvalidParameter as error:
        raise ValueError(error.message) from error
    usual = type(sampling_params)()
    names = {name for name in sampling_params.__struct_fields__ if not name.startswith("_")} - FREE
    # An empty list says the same as None.
    changed = [n for n in names if (getattr(sampling_params, n) or None) != (getattr(usual, n) or None)]
    stops = arguments.marker in (sampling_params.stop_token_ids or [])
    if changed or not stops or sampling_params.max_tokens != arguments.tokens:
        raise ValueError("a group member may set max_tokens, temperature and the stop token, and nothing else")


def draw_token(mechanism: TokenMechanism, public: torch.Tensor, private: torch.Tensor) -> int:
    """One drawn token id from logits: ``public`` has shape (vocabulary), ``private`` (patients, vocabulary).

    Raises ``ValueError`` when the public row is not usable or there are more patients than slots.
    """
    base = public.double().log_softmax(-1).cpu().numpy()
    allowed = mechanism.candidates(base)
    ids = torch.from_numpy(allowed).to(private.device)
    # Only the candidates' columns leave torch. One pass of log_softmax takes half the time of logsumexp here.
    values = private.log_softmax(-1, dtype=torch.float32)[:, ids].cpu().numpy()
    total = mechanism.parts(base[allowed], values).sum(axis=0, dtype=np.int64)
    return int(allowed[mechanism.draw(mechanism.scores(base[allowed], total))])


def _span(rows: Iterable[int]) -> slice | list[int]:
    """An index of these rows: a slice where they lie side by side, which copies nothing, otherwise a list."""
    found = sorted(rows)
    together = found[-1] - found[0] == len(found) - 1
    return slice(found[0], found[-1] + 1) if together else found


class GroupDraws:
    """Which groups are sound, and the token that each gets. One object lives as long as the engine's worker."""

    def __init__(self) -> None:
        self._mechanisms: OrderedDict[str, TokenMechanism] = OrderedDict()
        self._broken: OrderedDict[str, None] = OrderedDict()

    def force(self, logits: torch.Tensor, seats: Iterable[Seat]) -> torch.Tensor:
        """Leave one token possible on every seat's row; ``logits``, shape (rows, vocabulary), is changed in place."""
        groups: dict[str, list[Seat]] = defaultdict(list)
        for seat in seats:
            groups[seat.member.gid].append(seat)
        for gid, group in groups.items():
            token = self._token(gid, group, logits)
            rows = _span(seat.row for seat in group)
            logits[rows] = -torch.inf
            logits[rows, token] = 0.0
        return logits

    def refuse(self, logits: torch.Tensor, seats: Iterable[Seat]) -> torch.Tensor:
        """Break every group with a seat here: for an adapter that cannot tell what the rows are."""
        for seat in seats:
            self._break(seat.member.gid)
            logits[seat.row] = -torch.inf
            logits[seat.row, seat.member.common.marker] = 0.0
        return logits

    def _token(self, gid: str, group: Sequence[Seat], logits: torch.Tensor) -> int:
        common = group[0].member.common
        if not self._sound(gid, group):
            return common.marker
        public = next(seat.row for seat in group if seat.member.role == "public")
        private = _span(seat.row for seat in group if seat.row != public)
        try:
            return self._draw(gid, common, logits[public], logits[private])
        except (ValueError, InvalidParameter, RuntimeError, OverflowError) as error:
            # The error's text could quote values; its kind cannot.
            logger.warning("group %s broke: %s", gid[:8], type(error).__name__)
            self._break(gid)
            return common.marker

    def _sound(self, gid: str, group: Sequence[Seat]) -> bool:
        """Whole, in lockstep, within its length and never broken before."""
        first = group[0].member.common
        lengths = {seat.produced for seat in group}
        publics = sum(seat.member.role == "public" for seat in group)
        whole = len(group) == first.n and publics == 1 and all(seat.member.common == first for seat in group)
        started = max(lengths) > 0
        if started and (not whole or len(lengths) > 1 or max(lengths) >= first.tokens):
            self._break(gid)
        return whole and len(lengths) == 1 and gid not in self._broken

    def _break(self, gid: str) -> None:
        self._broken[gid] = None
        while len(self._broken) > REMEMBERED:
            self._broken.popitem(last=False)

    def _draw(self, gid: str, common: GroupArguments, public: torch.Tensor, private: torch.Tensor) -> int:
        if gid not in self._mechanisms:
            self._mechanisms[gid] = common.mechanism()
            while len(self._mechanisms) > MECHANISMS:
                self._mechanisms.popitem(last=False)
        return draw_token(self._mechanisms[gid], public, private)
