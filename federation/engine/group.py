"""Arguments of a group of requests that the engine decodes as one private mechanism.

They travel with every member of the group as one JSON string, ``vllm_xargs = {"dp": "..."}``. Imported by the client at
the node and by the plug-in inside vLLM, so it needs neither torch nor vLLM.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from privacy.dp.decoding import TokenMechanism, reserved_ids
from privacy.dp.events import Adjacency
from privacy.dp.text_plan import TextPlan

Role = Literal["public", "private"]
MAX_MEMBERS = 257
KEY = "dp"


@dataclass(frozen=True, slots=True)
class GroupArguments:
    """What every member of a group states; all but ``role`` must be the same in all of them.

    ``gid`` is a fresh random name, ``n`` the number of members (one public row and the private ones), ``shared`` how
    many leading prompt tokens are public and the same in every row, ``marker`` the reserved token that ends a failed
    group.
    """

    gid: str
    role: Role
    n: int
    tokens: int
    contexts: int
    clip: float
    tau: float
    top_k: int
    adjacency: Adjacency
    rho_per_token: float
    marker: int
    shared: int
    reserved: tuple[int, ...]

    @classmethod
    def of_plan(
        cls, plan: TextPlan, *, gid: str, role: Role, n: int, marker: int, shared: int, reserved: tuple[int, ...]
    ) -> GroupArguments:
        """Arguments for a member of a group that carries out ``plan``."""
        return cls(
            gid=gid,
            role=role,
            n=n,
            tokens=plan.max_tokens,
            contexts=plan.contexts,
            clip=plan.clip,
            tau=plan.tau,
            top_k=plan.top_k,
            adjacency=plan.adjacency,
            rho_per_token=plan.rho_per_token,
            marker=marker,
            shared=shared,
            reserved=reserved,
        )

    def encode(self) -> str:
        """The JSON string for ``vllm_xargs``."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def decode(cls, text: Any) -> GroupArguments:
        """Read :meth:`encode`'s string back. Raises ``ValueError`` for anything it could not have written."""
        try:
            fields = json.loads(text)
            fields["reserved"] = tuple(fields["reserved"])
            found = cls(**fields)
        except (TypeError, KeyError, ValueError, RecursionError) as error:
            raise ValueError("the dp argument is malformed") from error
        found._check()
        return found

    def _check(self) -> None:
        whole = (self.n, self.tokens, self.contexts, self.top_k, self.marker, self.shared)
        real = (self.clip, self.tau, self.rho_per_token)
        if any(type(x) is not int for x in whole) or any(type(x) not in (int, float) for x in real):
            raise ValueError("the dp argument holds a value of a wrong type")
        if not re.fullmatch(r"[0-9a-f]{32}", str(self.gid)):
            raise ValueError("gid must be 32 hexadecimal digits")
        if self.role not in get_args(Role) or self.adjacency not in get_args(Adjacency):
            raise ValueError("unknown role or adjacency")
        if not (2 <= self.n <= min(self.contexts + 1, MAX_MEMBERS) and self.tokens >= 1 and self.shared >= 0):
            raise ValueError("n, contexts, tokens or shared is out of range")
        if not all(math.isfinite(x) and x > 0 for x in real) or self.top_k < 1:
            raise ValueError("clip, tau, rho_per_token or top_k is out of range")
        if any(type(token) is not int or token < 0 for token in self.reserved) or self.marker not in self.reserved:
            raise ValueError("reserved must be token ids, and the marker one of them")

    @property
    def common(self) -> GroupArguments:
        """The same without the role: equal for all members of one group."""
        return replace(self, role="public")

    def mechanism(self) -> TokenMechanism:
        """The mechanism for one token; raises ``InvalidParameter`` when it costs more than stated."""
        return TokenMechanism(
            clip=self.clip,
            tau=self.tau,
            contexts=self.contexts,
            top_k=self.top_k,
            reach=2 if self.adjacency == "swap" else 1,
            rho_per_token=self.rho_per_token,
            reserved=reserved_ids(self.reserved),
        )


def arguments_of(params: Any) -> GroupArguments | None:
    """Group arguments of a request's sampling parameters; None for an ordinary request, ``ValueError`` if malformed."""
    extra = getattr(params, "extra_args", None) or {}
    return GroupArguments.decode(extra[KEY]) if KEY in extra else None
