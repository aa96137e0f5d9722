"""``python -m fdrouter.demo up | check | reset | screenshots``: what the Makefile's targets of these names run.

``python -m fdrouter.demo manage PART COMMAND ...`` runs ``manage.py`` as one of a running demo's parts does: the
coordinator, or a hospital's node by its id.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from fdrouter.demo.layout import PROJECT, Layout


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m fdrouter.demo", description=__doc__)
    parser.add_argument("command", choices=("up", "check", "reset", "screenshots", "manage"))
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="for manage: the part and its command")
    parser.add_argument("--state", type=Path, default=PROJECT / ".demo", help="folder of the demo's files")
    options = parser.parse_args(arguments)
    if bool(options.rest) != (options.command == "manage"):
        parser.error("manage needs a part and a command; the others take none")
    layout, console = Layout(options.state.resolve()), Console()
    if options.command == "up":
        from fdrouter.demo import up

        return up.up(layout, console)
    if options.command == "reset":
        from fdrouter.demo import up

        return up.reset(layout, console)
    if options.command == "screenshots":
        from fdrouter.demo import screenshots

        return screenshots.take(layout, console)
    if options.command == "manage":
        from fdrouter.demo import operate

        return operate.run(layout, console, options.rest[0], options.rest[1:])
    from fdrouter.demo import check

    return check.check(layout, console)


if __name__ == "__main__":
    sys.exit(main())
