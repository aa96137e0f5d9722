"""The two classes that vLLM is started with (see :mod:`federation.engine.serve`)."""

from federation.engine.gang_scheduler import GangScheduler
from federation.engine.group_logits import GroupLogits

__all__ = ["GangScheduler", "GroupLogits"]
