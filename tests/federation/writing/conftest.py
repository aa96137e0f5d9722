"""A hospital with patients, a block and an engine whose numbers are known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_django import Settings

from federation.node import blocks, service, token_sums
from federation.node.demo_records import build
from federation.node.ingest import ingest
from federation.node.model import prepare_model
from federation.node.prompts import PromptBuilder
from privacy.models import Scope
from tests.federation.keys import ring
from tests.federation.writing.text import ME, Text
from tests.flows.harness import CACHE
from tests.node.likely import Likely
from tests.privacy.ledger.books import audit


@pytest.fixture(autouse=True)
def node(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    settings.NODE_ID = settings.HOSPITAL_ID = ME
    settings.IDENTITY_DIR, settings.WRITE_TOGETHER = ring().folder(ME), True
    monkeypatch.setattr(service, "SLOT_SECONDS", 0.01)
    yield
    token_sums._sessions.clear()


@pytest.fixture(scope="module")
def prompts() -> PromptBuilder:
    return PromptBuilder(prepare_model(CACHE / "model"))


@pytest.fixture
def engine() -> Iterator[Likely]:
    found = Likely()
    yield found
    found.close()


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    build.build_small(folder, ME)
    return folder


@pytest.fixture
def patients(records: Path, settings: Settings) -> None:
    ingest(records)


@pytest.fixture
def block(db: None, settings: Settings) -> Iterator[Scope]:
    yield blocks.create(ME, ME, epsilon=10.0, delta=1e-5)
    audit()


@pytest.fixture
def text(engine: Likely, prompts: PromptBuilder) -> Text:
    return Text(engine, prompts)


@pytest.fixture
def another(engine: Likely, prompts: PromptBuilder) -> Callable[..., Text]:
    return lambda **values: Text(engine, prompts, **values)
