"""``manage.py release``: each step says what it did, what it costs, and what comes next."""

from __future__ import annotations

import io
import re

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from federation.node.released.models import Release
from privacy.models import Scope

pytestmark = pytest.mark.django_db(transaction=True)


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("release", *arguments, stdout=out)
    return out.getvalue()


def test_cards_are_published_step_by_step(block: Scope, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list") == "Nothing is planned or published.\n"
    planned = run("plan", "cards", "--epsilon", "8", "--topic", "velorapine", "--topic", "tamurexin", "--by", "Pia")
    name = planned[:8]
    assert "cards  planned  block:northfield:1  epsilon 8, delta 1e-05 for the whole; 6 cards" in planned
    assert f"release approve {name} --by NAME" in planned
    with pytest.raises(CommandError, match="somebody else"):
        run("approve", name, "--by", "pia")
    with pytest.raises(CommandError, match="Only an approved one"):
        run("make", name)
    assert f"release make {name}" in run("approve", name, "--by", "Otto")
    made = run("make", name)
    assert "cards  published" in made and "planned by Pia, approved by Otto" in made
    assert "Counting cards" in capsys.readouterr().err, "the way there is shown"
    with pytest.raises(CommandError, match="is published. Only an approved one"):
        run("make", name)
    shown = run("show", name)
    assert re.search(r"^effects: .*velorapine with dry cough \d+", shown, re.MULTILINE) and "signed statement" in shown
    assert run("list").startswith(name)
    assert "stays paid" in run("withdraw", name, "--by", "Otto", "--reason", "a better list")
    assert "withdrawn (a better list)" in run("list")


def test_topics_of_notes_may_follow_from_published_cards(block: Scope) -> None:
    with pytest.raises(CommandError, match="Publish cards first"):
        run("plan", "corpus", "--largest", "1", "--by", "Pia")
    name = run("plan", "cards", "--epsilon", "6", "--by", "Pia")[:8]
    run("approve", name, "--by", "Otto")
    run("make", name)
    planned = run("plan", "corpus", "--largest", "1", "--epsilon", "2", "--by", "Pia")
    assert "1 notes of 128 patients" in planned
    assert Release.objects.get(kind="corpus").plan["topics"] == ["velorapine"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("plan", "cards", "--block", "3", "--by", "Pia"), "There is no block 3"),
        (("plan", "cards", "--by", " "), "Say who you are"),
        (("plan", "cards", "--topic", "moonlight", "--by", "Pia"), "not on the list of topics"),
        (("plan", "corpus", "--epsilon", "0.5", "--by", "Pia"), "whole corpus the records could not influence"),
        (("plan", "corpus", "--epsilon", "10", "--parts", "0", "--by", "Pia"), "parts must be a whole number"),
        (("approve", "abc", "--by", "Otto"), "no release of this id"),
        (("show", ""), "no release of this id"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(block: Scope, arguments: tuple[str, ...], why: str) -> None:
    with pytest.raises(CommandError, match=why):
        run(*arguments)
    assert not Release.objects.exists()
