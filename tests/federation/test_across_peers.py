"""Which other hospitals a node trusts: its operator's word, and nobody else's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from pytest_django import Settings

from fdrouter.errors import InvalidParameter
from federation.node import peers
from tests.federation.keys import ring


def test_an_operator_pins_a_peer_once_and_changes_it_knowingly(tmp_path: Path, settings: Settings) -> None:
    settings.IDENTITY_DIR = tmp_path
    file, other = ring().folder("lakeside") / "public.json", tmp_path / "other.json"
    assert peers.known("lakeside") is None
    call_command("trust_peer", str(file), verbosity=0)
    call_command("trust_peer", str(file), verbosity=0)
    known = peers.known("lakeside")
    assert known is not None and known.key_id == ring().identity("lakeside").public.key_id
    document = json.loads((ring().folder("strange-node") / "public.json").read_text())
    other.write_text(json.dumps({**document, "name": "lakeside"}))
    with pytest.raises(CommandError, match="other keys"):
        call_command("trust_peer", str(other))
    call_command("trust_peer", str(other), replace=True)
    changed = peers.known("lakeside")
    assert changed is not None and changed.key_id == document["key_id"]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"name": "lakeside"}', '{"name": "../../etc/x"}'])
def test_a_file_that_is_no_identity_is_not_pinned(tmp_path: Path, settings: Settings, text: str) -> None:
    settings.IDENTITY_DIR = tmp_path
    file = tmp_path / "file.json"
    file.write_text(text)
    with pytest.raises(CommandError):
        call_command("trust_peer", str(file))
    document = json.loads((ring().folder("lakeside") / "public.json").read_text())
    with pytest.raises(InvalidParameter):
        peers.pin({**document, "name": "../lakeside"})
    assert not (tmp_path / "peers").exists()


def test_a_pinned_file_under_another_name_is_nobody(tmp_path: Path, settings: Settings) -> None:
    settings.IDENTITY_DIR = tmp_path
    (tmp_path / "peers").mkdir()
    shutil.copy(ring().folder("lakeside") / "public.json", tmp_path / "peers" / "hillcrest.json")
    assert peers.known("hillcrest") is None and peers.known("../hillcrest") is None
