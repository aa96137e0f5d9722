"""The network comes up and answers everything that ``make demo-check`` asks."""

from __future__ import annotations

import io

from rich.console import Console

from fdrouter.demo import check
from tests.flows.harness import Network


def test_the_check_of_the_demo_finds_nothing(network: Network) -> None:
    written = io.StringIO()
    failed = check.run(check.Checks(network.layout, network.access).all(), Console(file=written, width=200))
    assert not failed, written.getvalue()


def test_the_check_names_a_part_that_is_down(network: Network) -> None:
    written = io.StringIO()
    with network.without("node-lakeside"):
        checks = [one for one in check.Checks(network.layout, network.access).all() if one.part.startswith("node ")]
        failed = check.run(checks, Console(file=written, width=200))
    assert {one.part for one in failed} == {"node lakeside"}
    assert "no answer" in written.getvalue()
