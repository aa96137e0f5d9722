"""``access.json``: who may sign in to a demo, and where its nodes are.

Shape: ``{"base_url", "users": [{"username", "password", "api_token", "role", "department", "hospital"}],
"nodes": [{"id", "name", "url"}]}``. The seed command writes it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec


class User(msgspec.Struct, frozen=True):
    username: str
    password: str
    api_token: str
    role: str
    department: str | None = None
    hospital: str | None = None


class NodeAddress(msgspec.Struct, frozen=True):
    id: str
    name: str
    url: str


class Access(msgspec.Struct, frozen=True):
    base_url: str
    users: list[User]
    nodes: list[NodeAddress]

    def user(self, *roles: str, department: str | None = None) -> User:
        """The first person with one of ``roles`` (and of ``department``).

        Raises:
            LookupError: nobody is.
        """
        for role in roles:
            for user in self.users:
                if user.role == role and department in (None, user.department):
                    return user
        raise LookupError(f"access.json names nobody with the role {' or '.join(roles)}")


def read(path: Path) -> Access:
    """Reads the file.

    Raises:
        OSError: it is not there.
        msgspec.MsgspecError: it has another shape.
    """
    return msgspec.json.decode(path.read_bytes(), type=Access)
