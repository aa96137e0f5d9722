"""vLLM V1 scheduler that runs a group of requests as one: admitted whole, prefilled to a barrier, decoded in lockstep.

Life of a group: ARRIVING (members are held back) -> WAITING (whole, until there is room for all) -> PREFILL (every
member but for its last prompt token, over as many steps as it takes, ordinary requests beside) -> DECODING (all members
take exactly one token in the same step, each step). The barrier before the last prompt token is what lets prompts of
any total length start in lockstep.

The public row is first in line, and the engine marks a block as cached when it plans the step that computes it. So the
private rows find the shared beginning in the very step that computes it, whether somebody asked the question before or
not, and a group that fits into one step's tokens is through its prompts in one step.

It fails closed. A member aborted, preempted, missing from a step, or ending alone ends the group: what the running step
sampled is dropped before it can leave, and every member finishes with reason ``abort``. A group that stays half-arrived
or finds no room ends the same way after a time. The reserved privacy cost stays charged, which is the node's business.
"""

from __future__ import annotations

import enum
import os
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from vllm.logger import init_logger
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.request import RequestStatus

from federation.engine.draws import Member
from federation.engine.group import GroupArguments
from federation.engine.limits import ARRIVAL_SECONDS, IDLE_SECONDS, ROOM_SECONDS

REMEMBERED = 4096  # names of ended groups that may not come again

logger = init_logger("vllm.federation.gang")


class Phase(enum.Enum):
    """See the module's text."""

    ARRIVING = enum.auto()
    WAITING = enum.auto()
    PREFILL = enum.auto()
    DECODING = enum.auto()


@dataclass(slots=True)
class Group:
    """Members of one group and how far they are; ``failure`` is set once and never cleared."""

    arguments: GroupArguments
    since: float
    members: list[Any] = field(default_factory=list)
    publics: list[Any] = field(default_factory=list)
    phase: Phase = Phase.ARRIVING
    failure: str | None = None

    def whole(self) -> bool:
        """Every member is here, exactly one of them public; all prompts are equally long and begin as they say.

        Two tokens at least must follow the shared ones: one before the barrier, one after it.
        """
        first, shared = self.members[0], self.arguments.shared
        return (
            len(self.members) == self.arguments.n
            and len(self.publics) == 1
            and shared <= first.num_prompt_tokens - 2
            and all(
                member.num_prompt_tokens == first.num_prompt_tokens
                and member.prompt_token_ids[:shared] == first.prompt_token_ids[:shared]
                for member in self.members
            )
        )

    def at_barrier(self) -> bool:
        """Every member has all of its prompt computed but for the last token, and has been given a place."""
        return all(
            member.status == RequestStatus.RUNNING and member.num_computed_tokens == member.num_prompt_tokens - 1
            for member in self.members
        )


class GangScheduler(Scheduler):  # type: ignore[misc]
    """The engine's scheduler with groups; requests without a ``dp`` argument are scheduled as ever."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        parallel = self.vllm_config.parallel_config
        if self.vllm_config.scheduler_config.async_scheduling or self.vllm_config.speculative_config:
            raise ValueError("group decoding needs --no-async-scheduling and no speculative decoding")
        if parallel.world_size > 1:
            # Every rank would draw its own token: ranks must first share one draw.
            raise ValueError("group decoding does not support tensor or pipeline parallelism yet")
        self._groups: dict[str, Group] = {}
        self._group_of: dict[str, Group] = {}  # request id -> group
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._farewells: list[tuple[int, str]] = []  # (client, request id) still to be told that it ended

    # --- arrival ------------------------------------------------------------------------------------------------------

    def add_request(self, request: Any) -> None:
        """Hold a member back until its group is whole; pass anything else on."""
        try:
            member = Member.of(request.sampling_params)
        except ValueError:
            return self._refuse(request, "malformed arguments")
        if member is None:
            super().add_request(request)
            return None
        if member.gid in self._ended:
            return self._refuse(request, "name used before")
        group = self._groups.setdefault(member.gid, Group(member.common, time.monotonic()))
        if group.arguments != member.common or group.phase is not Phase.ARRIVING or not request.prompt_token_ids:
            self._refuse(request, "does not fit its group")
            return self._end(group, "a member that does not fit")
        group.members.append(request)
        if member.role == "public":
            group.publics.append(request)
        self._group_of[request.request_id] = group
        self._hide_from_cache(request, member.common.shared)
        if len(group.members) == member.common.n:
            if not group.whole():
                return self._end(group, "members do not form a group")
            if not self._could_ever_fit(group):
                return self._end(group, "larger than the engine")
            group.phase, group.since = Phase.WAITING, time.monotonic()
        return None

    def _refuse(self, request: Any, reason: str) -> None:
        logger.warning("refused a group member: %s", reason)
        self._farewells.append((request.client_index, request.request_id))

    def _hide_from_cache(self, request: Any, shared: int) -> None:
        """Let only the public beginning of a prompt be found in the prefix cache, now and later.

        Otherwise the time an answer takes, and the shape of the batch, would tell whether a patient's text was in use
        before. The engine names a block once it is full, be it by generated tokens, so the naming itself is replaced.
        """
        named = request._block_hasher
        public = shared // self.hash_block_size

        def hidden(this: Any) -> list[Any]:
            done = len(this.block_hashes)
            return [h if done + i < public else type(h)(os.urandom(len(h))) for i, h in enumerate(named(this))]

        if named is not None:
            request._block_hasher = hidden
            request.block_hashes.clear()
            request.update_block_hashes()

    # --- room ---------------------------------------------------------------------------------------------------------

    def _blocks(self, group: Group) -> int:
        longest = group.members[0].num_prompt_tokens + group.arguments.tokens
        blocks_each: int = -(-longest // self.block_size) + 1
        return len(group.members) * blocks_each

    def _could_ever_fit(self, group: Group) -> bool:
        # Two blocks are the manager's own; a seat stays free so that ordinary requests are never shut out.
        room = self.kv_cache_manager.block_pool.num_gpu_blocks - 2
        longest = group.members[0].num_prompt_tokens + group.arguments.tokens
        seated = len(group.members) < self.max_num_running_reqs
        return bool(seated and self._blocks(group) <= room and longest <= self.max_model_len)

    def _admit(self) -> None:
        """Let whole groups in, oldest first, while all admitted groups fit together: none can then evict another."""
        admitted = [g for g in self._groups.values() if g.phase in (Phase.PREFILL, Phase.DECODING)]
        blocks = sum(map(self._blocks, admitted))
        seats = sum(len(g.members) for g in admitted)
        room = self.kv_cache_manager.block_pool.num_gpu_blocks - 2
        for group in [g for g in self._groups.values() if g.phase is Phase.WAITING]:
            blocks += self._blocks(group)
            seats += len(group.members)
            if blocks > room or seats >= self.max_num_running_reqs:
                return
            group.phase = Phase.PREFILL
            # The public row first: it computes the shared beginning that the others then find in the cache.
            for member in sorted(group.members, key=lambda member: member not in group.publics):
                super().add_request(member)

    # --- steps --------------------------------------------------------------------------------------------------------

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        """Plan one step; see the module's text for what a group may do in it."""
        self._expire()
        self._admit()
        for group in self._groups.values():
            if group.phase is Phase.PREFILL and group.at_barrier():
                group.phase = Phase.DECODING
        # Groups first: the engine evicts from the end, so that ordinary requests make room for groups.
        self.running.sort(key=lambda request: request.request_id not in self._group_of)
        output = super().schedule(*args, **kwargs)
        for group in self._groups.values():
            if group.phase is Phase.DECODING:
                given = [output.num_scheduled_tokens.get(member.request_id) for member in group.members]
                if any(tokens != 1 for tokens in given):
                    group.failure = group.failure or "out of lockstep"
        if self._groups and not output.total_num_scheduled_tokens:
            # The engine asks again at once; the process that brings the missing members needs the core.
            time.sleep(IDLE_SECONDS)
        return output

    def _reserve_prefill_lookahead(self, request: Any, num_computed_tokens: int, num_new_tokens: int) -> int:
        """Called by the engine for each request it is about to schedule: stop a group's prefill at the barrier."""
        tokens: int = super()._reserve_prefill_lookahead(request, num_computed_tokens, num_new_tokens)
        group = self._group_of.get(request.request_id)
        if group is None or group.phase is Phase.DECODING:
            return tokens
        left: int = request.num_prompt_tokens - 1 - num_computed_tokens
        return max(0, min(tokens, left))

    def _preempt_request(self, request: Any, *args: Any, **kwargs: Any) -> None:
        super()._preempt_request(request, *args, **kwargs)
        if (group := self._group_of.get(request.request_id)) is not None:
            group.failure = group.failure or "preempted"

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> dict[int, Any]:
        """Book what a step sampled; a failed group is ended before its tokens are looked at."""
        for group in [g for g in self._groups.values() if g.failure]:
            self._end(group, group.failure or "")
        outputs: dict[int, Any] = super().update_from_output(scheduler_output, model_runner_output)
        for group in [g for g in self._groups.values() if g.phase in (Phase.PREFILL, Phase.DECODING)]:
            left = sum(member.request_id in self.requests for member in group.members)
            if left == 0:
                self._forget(group)
            elif left < len(group.members):
                self._end(group, "a member ended alone")
        for client, request_id in self._farewells:
            ended = EngineCoreOutput(request_id=request_id, new_token_ids=[], finish_reason=FinishReason.ABORT)
            outputs.setdefault(client, EngineCoreOutputs()).outputs.append(ended)
        self._farewells.clear()
        return outputs

    # --- endings ------------------------------------------------------------------------------------------------------

    def _expire(self) -> None:
        now = time.monotonic()
        for group in list(self._groups.values()):
            if group.phase is Phase.ARRIVING and now - group.since > ARRIVAL_SECONDS:
                self._end(group, "half-arrived")
            elif group.phase is Phase.WAITING and now - group.since > ROOM_SECONDS:
                self._end(group, "no room")

    def _end(self, group: Group, reason: str, gone: frozenset[str] = frozenset()) -> None:
        """End every member now; those in ``gone`` know it already."""
        logger.warning("group %s ended without an answer: %s", group.arguments.gid[:8], reason)
        self._forget(group)
        left = [m for m in group.members if m.request_id not in gone and not m.is_finished()]
        super().finish_requests([m.request_id for m in left], RequestStatus.FINISHED_ABORTED)
        self._farewells += [(member.client_index, member.request_id) for member in left]

    def _forget(self, group: Group) -> None:
        self._groups.pop(group.arguments.gid, None)
        for member in group.members:
            self._group_of.pop(member.request_id, None)
        self._ended[group.arguments.gid] = None
        while len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)

    def finish_requests(self, request_ids: str | Iterable[str] | None, finished_status: Any) -> list[Any]:
        """A finish from outside (a client that went away): one member's end is the whole group's."""
        if request_ids is None:
            ids = [*self.requests, *self._group_of]
        else:
            ids = [request_ids] if isinstance(request_ids, str) else list(request_ids)
        hit = {id(group): group for i in ids if (group := self._group_of.get(i)) is not None}
        finished: list[Any] = super().finish_requests(ids, finished_status)
        for group in hit.values():
            self._end(group, "a member was aborted", gone=frozenset(ids))
        return finished

    def has_requests(self) -> bool:
        """Held groups and unsent endings keep the engine's loop turning."""
        return bool(self._groups or self._farewells or super().has_requests())
