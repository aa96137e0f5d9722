"""What members of one secure sum agree on, as one digest that every mask is bound to.

Two members whose digests differ share no mask, so their shares never add up to anything: a coordinator gains nothing by
telling them different things.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from fdrouter.errors import InvalidParameter

PROTOCOL = "fdrouter/secagg/v1"
MEMBERS = (3, 32)
MAX_LENGTH = 1 << 20


@dataclass(frozen=True)
class Session:
    """One sum of vectors of ``length`` whole numbers, once.

    ``members`` are (name, id of the public keys), in the order of their names. ``subject`` is a SHA-256 in hex of what
    is summed (question and plan), which each member computes itself.

    Raises:
        InvalidParameter: too few members or too many, twice the same, out of order, a length out of range.
    """

    id: str
    members: tuple[tuple[str, str], ...]
    subject: str
    length: int

    def __post_init__(self) -> None:
        low, high = MEMBERS
        if not low <= len(self.members) <= high:
            raise InvalidParameter(f"A secure sum needs {low} to {high} members.", field="members")
        if list(self.names) != sorted(set(self.names)):
            raise InvalidParameter("Each member must be named once, in the order of the names.", field="members")
        if len({key for _, key in self.members}) < len(self.members):
            raise InvalidParameter("Two members have the same keys.", field="members")
        if len(self.subject) != 64 or not 1 <= self.length <= MAX_LENGTH:
            raise InvalidParameter("This is not the subject of a secure sum.", field="subject")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.members)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything agreed, in hex."""
        agreed = [PROTOCOL, self.id, self.members, self.subject, self.length]
        return hashlib.sha256(json.dumps(agreed, separators=(",", ":")).encode()).hexdigest()

    def givers(self, me: str) -> tuple[str, ...]:
        """The members who choose the seed that they share with ``me``: those before."""
        return self.names[: self._place(me)]

    def takers(self, me: str) -> tuple[str, ...]:
        """The members for whom ``me`` chooses a seed: those after."""
        return self.names[self._place(me) + 1 :]

    def _place(self, name: str) -> int:
        if name not in self.names:
            raise InvalidParameter("This member has no part in the sum.", field="members")
        return self.names.index(name)


def make(id: str, members: Sequence[Sequence[str]], subject: str, length: int) -> Session:
    """A session from what came over the wire.

    Raises:
        InvalidParameter: it does not add up.
    """
    pairs = []
    for member in members:
        if isinstance(member, str) or len(member) != 2 or not all(isinstance(part, str) for part in member):
            raise InvalidParameter("A member is a name and the id of its keys.", field="members")
        pairs.append((member[0], member[1]))
    return Session(id, tuple(pairs), subject, length)
