"""A logits processor for tests only, named on the engine's command line in place of the product's.

It writes down a digest of every row's logits as the model gave them, one JSON object a row and step, to the file that
``FDROUTER_OBSERVED`` names. And its groups do not draw: each gets the public row's first choice. So a group whose
records differ is given the same tokens, and any difference between two runs' rows is the model's.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import Any

import torch
from vllm.v1.sample.logits_processor import process_dict_updates

from federation.engine.draws import GroupDraws
from federation.engine.group import GroupArguments
from federation.engine.group_logits_v1 import GroupLogitsV1
from tests.engine.digests import FILE, digest_of


@dataclass(frozen=True, slots=True)
class Watched:
    """A row: a digest of its prompt, and the engine's own list of what it has produced."""

    prompt: str
    produced: list[int]


class FirstChoice(GroupDraws):
    """No draw, no noise, no records: the most likely candidate of the public row."""

    def _draw(self, gid: str, common: GroupArguments, public: torch.Tensor, private: torch.Tensor) -> int:
        base = public.double().log_softmax(-1).numpy()
        allowed = common.mechanism().candidates(base)
        return int(allowed[base[allowed].argmax()])


class ObservedLogits(GroupLogitsV1):
    """See the module's text."""

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        super().__init__(vllm_config, device, is_pin_memory)
        self._draws = FirstChoice()
        self._watched: dict[int, Watched] = {}

    def update_state(self, batch_update: Any) -> None:
        super().update_state(batch_update)
        process_dict_updates(
            self._watched,
            batch_update,
            lambda _params, prompt, produced: Watched(digest_of(prompt or []), produced),
        )

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        with open(os.environ[FILE], "a", encoding="utf-8") as file:
            for row, watched in sorted(self._watched.items()):
                found = hashlib.sha256(logits[row].contiguous().numpy().tobytes()).hexdigest()[:16]
                line = {
                    "prompt": watched.prompt,
                    "produced": len(watched.produced),
                    "row": row,
                    "rows": logits.shape[0],
                    "logits": found,
                    "top": float(logits[row].max()),
                }
                file.write(json.dumps(line) + "\n")
        return super().apply(logits)
