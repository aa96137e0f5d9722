"""System checks: what must be right before a process may serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register


@register(Tags.security)
def policy_file_is_readable(**_: Any) -> list[CheckMessage]:
    """The access policy must exist, or every request would fail later."""
    if Path(settings.POLICY_FILE).is_file():
        return []
    return [
        Error(
            "The access policy file does not exist.",
            hint="Set FDROUTER_POLICY_FILE to a Cedar policy file.",
            id="fdrouter.E001",
        )
    ]


@register(Tags.security)
def node_has_an_identity(**_: Any) -> list[CheckMessage]:
    """A node without its keys could neither open a message nor sign a receipt."""
    if settings.ROLE != "node" or (settings.NODE_ID and (settings.IDENTITY_DIR / "keys.json").is_file()):
        return []
    return [
        Error(
            "A node needs an identity.",
            hint="Set FDROUTER_NODE_ID and FDROUTER_IDENTITY_DIR (the folder with keys.json).",
            id="fdrouter.E002",
        )
    ]
