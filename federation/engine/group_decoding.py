"""The two classes that vLLM is started with (see :mod:`federation.engine.serve`).

vLLM has two model runners with different interfaces for logits processors, and decides itself which one it uses
(:attr:`vllm.config.VllmConfig.use_v2_model_runner`). Each runner's loader demands a subclass of its own interface and
calls it with its own arguments, so :class:`GroupLogits` is a subclass of both, and what is made is the adapter for the
runner that called.
"""

from __future__ import annotations

from typing import Any

from vllm.v1.sample.logits_processor import LogitsProcessor as V1Interface
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as V2Interface

from federation.engine.draws import check_params
from federation.engine.gang_scheduler import GangScheduler
from federation.engine.group_logits_v1 import GroupLogitsV1
from federation.engine.group_logits_v2 import GroupLogitsV2

__all__ = ["GangScheduler", "GroupLogits"]


class GroupLogits(V1Interface, V2Interface):  # type: ignore[misc]
    """Door of the plug-in: never an instance itself, see the module's text."""

    def __new__(cls, vllm_config: Any, *rest: Any) -> Any:
        """V1 calls with (config, device, pinned), V2 with (config, request states)."""
        return GroupLogitsV1(vllm_config, *rest) if len(rest) == 2 else GroupLogitsV2(vllm_config, *rest)

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Called at the engine's door under either runner; a ``ValueError`` becomes HTTP 400."""
        check_params(sampling_params)
