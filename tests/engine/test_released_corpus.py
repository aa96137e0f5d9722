"""A corpus decoded by the real engine: planned, paid, written, published and found again."""

from __future__ import annotations

import io
from pathlib import Path

import aiohttp
import pytest
from pytest_django import Settings

from federation.node.engine import EngineClient
from federation.node.model import SERVED_NAME
from federation.node.progress import Bar
from federation.node.prompts import PromptBuilder
from federation.node.released import answers, corpus, making, publish
from federation.node.released.models import NoteState
from federation.node.released.states import ReleaseState
from privacy.dp.release_plans import CorpusPlan
from tests.federation.keys import ring
from tests.node.released import stage

pytestmark = [pytest.mark.engine, pytest.mark.django_db(transaction=True)]


def test_a_note_is_decoded_from_its_group_and_names_what_most_of_it_have_in_common(
    engine_url: str, prompts: PromptBuilder, settings: Settings, tmp_path: Path
) -> None:
    settings.NODE_ID = settings.HOSPITAL_ID = stage.NODE
    settings.IDENTITY_DIR = ring().folder(stage.NODE)
    block = stage.hospital(tmp_path)
    release = publish.propose_corpus(1, stage.PLANNER, epsilon=9.0, topics=("velorapine",), contexts=64, max_tokens=12)
    publish.approve(release, stage.APPROVER)

    def engine_of(session: aiohttp.ClientSession) -> EngineClient:
        return EngineClient(engine_url, SERVED_NAME, session, prompts=prompts)

    made = making.make(release, engine_of, Bar(io.StringIO()))
    plan = publish.plan_of(made)
    note = made.notes.get()
    assert isinstance(plan, CorpusPlan) and made.state == ReleaseState.PUBLISHED
    assert note.state == NoteState.DONE and 1 <= note.tokens <= plan.text.max_tokens
    assert note.text.startswith(corpus.beginning_of("velorapine")) and "cough" in note.text
    assert "glimmerspot" not in note.text and "balloon" not in note.text
    block.refresh_from_db()
    assert block.used == plan.nano_at(3.4), "tokens that were not drawn are not given back"
    assert answers.find("Which side effect did patients on velorapine develop?").released["notes"] == 1
