"""The command ``fdrouter``."""

from __future__ import annotations

import io
import json

import pytest

from fdrouter import __version__, cli
from tests.federation.api.backend import ANSWER
from tests.federation.api.stack import Person, Stack


@pytest.fixture
def token(ada: Person, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FDROUTER_TOKEN", ada.token)
    return ada.token


def run(stack: Stack, *arguments: str) -> int:
    return cli.main(["ask", "--endpoint", stack.url, "--model", "steady", *arguments])


def test_an_answer_is_printed_with_its_cost_beside(
    stack: Stack, token: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(stack, "How does aspirin work?") == 0
    printed = capsys.readouterr()
    assert printed.out == ANSWER + "\n"
    assert printed.err == "[general; answered by engine-steady; no privacy budget spent]\n"


def test_json_and_the_standard_input(
    stack: Stack, token: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("How does aspirin work?"))
    assert run(stack, "-", "--json", "--max-epsilon", "1") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["text"], found["remaining"]["user"]) == (ANSWER, 10.0)
    assert stack.backend.bodies[-1]["messages"][0]["content"] == "How does aspirin work?"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--kind", "cohort.text", "--max-epsilon", "0.5"], cli.OVER_BUDGET, "epsilon"),
        (["--kind", "chart"], cli.FAILED, "Name a patient"),
        (["--kind", "shout"], cli.FAILED, "Unknown kind"),
        (["--model", "dying"], cli.FAILED, "It stays charged"),
        (["--model", "refusing"], cli.FAILED, "No hospital node"),
    ],
)
def test_a_refusal_is_a_sentence_and_a_status(
    stack: Stack, token: str, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    assert run(stack, "?", *arguments) == code
    printed = capsys.readouterr()
    assert printed.err.startswith("fdrouter: ")
    assert words in printed.err
    assert "Traceback" not in printed.err


def test_without_a_token_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FDROUTER_TOKEN", raising=False)
    monkeypatch.delenv("FDROUTER_TOKEN_FILE", raising=False)
    assert cli.main(["ask", "?"]) == cli.FAILED
    assert "FDROUTER_TOKEN" in capsys.readouterr().err


def test_version_and_the_commands_of_a_node(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out == f"fdrouter {__version__}\n"
    for arguments in (["node"], ["node", "--help"]):
        try:
            assert cli.main(arguments) == 0
        except SystemExit as ended:
            assert ended.code == 0
        assert "manage.py ingest_records" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["shout"], ["ask"], ["ask", "?", "--epsilon", "much"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == cli.USAGE
    assert "usage: fdrouter" in capsys.readouterr().err


def test_the_commands_that_are_named_exist() -> None:
    from django.core.management import get_commands

    named = [line.split()[2] for line in cli.NODE_COMMANDS.splitlines() if "manage.py" in line]
    assert len(named) == 5
    assert set(named) <= set(get_commands())
