from __future__ import annotations

from pathlib import Path

import pytest
from pytest_django import Settings

from privacy.models import Scope
from tests.federation.keys import ring
from tests.node.released import stage


@pytest.fixture(autouse=True)
def node(settings: Settings) -> None:
    settings.NODE_ID = settings.HOSPITAL_ID = stage.NODE
    settings.IDENTITY_DIR = ring().folder(stage.NODE)


@pytest.fixture
def block(node: None, tmp_path: Path) -> Scope:
    return stage.hospital(tmp_path)
