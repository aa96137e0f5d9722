"""Network identities for the tests: made once a run, because post-quantum keys take a moment."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from federation import identity
from federation.identity import Identity

NODES = ("northfield", "lakeside", "hillcrest")


@dataclass(frozen=True)
class Ring:
    """Folders of one network with its CA, and of a second network that has nothing to do with it."""

    root: Path

    def folder(self, name: str) -> Path:
        return self.root / name

    def identity(self, name: str) -> Identity:
        return identity.load(self.folder(name))


@lru_cache(maxsize=1)
def ring() -> Ring:
    import atexit

    root = Path(tempfile.mkdtemp(prefix="fdrouter-keys-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    for ca, members in (("ca", ("coordinator", *NODES)), ("other-ca", ("stranger", "strange-node"))):
        identity.create_ca(root / ca)
        for name in members:
            server = name not in ("coordinator", "stranger")
            identity.issue(root / ca, root / name, name, server=server)
            if server:
                shutil.copy(root / members[0] / "public.json", root / name / "coordinator.json")
    for node in NODES:
        for peer in NODES:
            if peer != node:
                (root / node / "peers").mkdir(exist_ok=True)
                shutil.copy(root / peer / "public.json", root / node / "peers" / f"{peer}.json")
    return Ring(root)
