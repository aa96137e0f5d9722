"""An identity to sign with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from federation import identity
from federation.identity import Identity


@pytest.fixture
def own(settings: Any, tmp_path: Path) -> Identity:
    """The process's identity is ``coordinator``."""
    identity.create_ca(tmp_path / "ca")
    identity.issue(tmp_path / "ca", tmp_path / "own", "coordinator", server=False)
    settings.IDENTITY_DIR = tmp_path / "own"
    return identity.load(tmp_path / "own")
