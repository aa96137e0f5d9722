"""A process that has an identity and a key for documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from federation import document_key, identity


@pytest.fixture
def folder(settings: Any, tmp_path: Path) -> Path:
    """The coordinator's identity folder, its certificates from the CA beside it."""
    identity.create_ca(tmp_path / "ca")
    identity.issue(tmp_path / "ca", tmp_path / "own", "coordinator", server=False)
    document_key.issue(tmp_path / "own", "the privacy office", ca=tmp_path / "ca")
    settings.IDENTITY_DIR = tmp_path / "own"
    return tmp_path / "own"
