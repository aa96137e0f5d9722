"""``python -m fdrouter.demo manage``: refused where there is nothing to run it at."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from fdrouter.demo import operate
from fdrouter.demo.__main__ import main
from fdrouter.demo.layout import Layout


def test_an_unknown_part_and_a_demo_that_was_never_started_are_told(tmp_path: Path) -> None:
    told = io.StringIO()
    assert operate.run(Layout(tmp_path), Console(file=told), "atlantis", ["check"]) == 2
    assert operate.run(Layout(tmp_path), Console(file=told), "coordinator", ["check"]) == 2
    assert "coordinator, northfield" in told.getvalue() and "make demo" in told.getvalue()


@pytest.mark.parametrize("arguments", [["manage"], ["check", "now"]])
def test_only_manage_takes_a_command(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
