"""The other hospitals' public keys that this node trusts: pinned by its operator, never taken from the coordinator.

One file a peer, ``peers/<name>.json`` in the node's identity folder, holding the peer's ``public.json``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from django.conf import settings

from fdrouter.errors import Conflict, InvalidParameter
from federation.identity import PublicIdentity, load_public

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")


def _file(folder: Path, name: str) -> Path:
    if not _NAME.fullmatch(str(name)):
        raise InvalidParameter("This is not the name of a node.", field="name")
    return folder / "peers" / f"{name}.json"


def known(name: str) -> PublicIdentity | None:
    """The pinned identity of a peer; None when the operator has pinned none, or the file cannot be read as one."""
    try:
        found = load_public(json.loads(_file(settings.IDENTITY_DIR, name).read_text(encoding="utf-8")))
    except (InvalidParameter, OSError, ValueError, KeyError, TypeError):
        return None
    return found if found.name == name else None


def pin(document: dict[str, Any], *, folder: Path | None = None, replace: bool = False) -> PublicIdentity:
    """Trusts a peer from now on. Pinning the same keys again changes nothing.

    Raises:
        InvalidParameter: not a public identity. Conflict: the peer is known with other keys, and ``replace`` is False.
    """
    try:
        public = load_public(document)
    except (KeyError, TypeError, ValueError):
        raise InvalidParameter("This is not the public identity of a node.", field="file") from None
    file = _file(folder or settings.IDENTITY_DIR, public.name)
    text = json.dumps(document, indent=2)
    if file.exists() and not replace and file.read_text(encoding="utf-8") != text:
        raise Conflict(f"{public.name} is known with other keys.", name=public.name)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)
    return public
