"""``manage.py`` with the environment of one of a running demo's parts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from rich.console import Console

from fdrouter.demo.layout import COORDINATOR, PROJECT, Layout
from fdrouter.demo.stack import Stack


def run(layout: Layout, console: Console, part: str, arguments: Sequence[str]) -> int:
    """Runs the command in front and returns its exit code; 2 where there is no such part or no running demo."""
    nodes = {node.id: node for node in layout.nodes}
    if part not in (COORDINATOR, *nodes):
        console.print(f"There is no part {part!r}. Parts: {', '.join((COORDINATOR, *nodes))}.")
        return 2
    if not layout.access.exists():
        console.print("The demo has not been started yet: make demo.")
        return 2
    stack = Stack(layout)
    environment = stack.node_environment(nodes[part]) if part in nodes else stack.coordinator_environment()
    command = [sys.executable, str(PROJECT / "manage.py"), *arguments]
    return subprocess.run(command, env=os.environ | environment, check=False).returncode  # noqa: S603
