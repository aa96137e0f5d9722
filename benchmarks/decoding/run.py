"""``make bench-decoding``: a group's tokens per second beside a plain batch of the same rows, in one engine.

For each number of private rows the arms take turns, with the same ordinary traffic beside both all the time:

1. a group with a question that nobody asked before (cold): time to the first token, whole time;
2. the same rows' prompts, question new again, as ordinary requests sent together: the same two figures;
3. the group again (its public beginning is in the prefix cache): time to the first token, and decoding speed;
4. the plain rows again (all of their prompts are in the cache): decoding speed, while every row decodes.

Printed are medians over the repetitions, and for decoding the ratio of all tokens per second of all turns together:
one turn is a few seconds, and which steps the ordinary requests' prompts fall into differs from turn to turn by more
than what is measured (the lowest and the highest ratio of two neighbouring turns stand beside it, and the ratio of the
typical, median, steps). On a machine that is not quiet none says much. Nothing here is a test: it ends with 0 once
measured, and the last line ends with the smallest ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import aiohttp
from rich.console import Console
from rich.table import Table

from benchmarks.decoding.arms import Arms, Timing
from benchmarks.decoding.server import engine
from federation.node.model import prepare_model
from federation.node.prompts import PromptBuilder

SIZES = (4, 8, 16)
MODEL = Path(__file__).resolve().parents[2] / ".test" / "cache" / "model"
CHATS = 2  # ordinary requests at any time
BAR = 0.90


@dataclass(slots=True)
class Size:
    """Timings of one number of private rows, a list each of equal length."""

    contexts: int
    cold_group: list[Timing] = field(default_factory=list)
    cold_plain: list[Timing] = field(default_factory=list)
    warm_group: list[Timing] = field(default_factory=list)
    warm_plain: list[Timing] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Group's decoding speed over the plain batch's, by repetition."""
        return [g.pace / p.pace for g, p in zip(self.warm_group, self.warm_plain, strict=True)]

    @property
    def ratio(self) -> float:
        """The seconds of all the plain batch's steps over those of the group's: both turns have as many."""
        plain, group = (sum(sum(turn.steps) for turn in turns) for turns in (self.warm_plain, self.warm_group))
        return plain / group

    @property
    def typical(self) -> float:
        """The plain batch's median step over the group's."""
        plain, group = (median(s for t in turns for s in t.steps) for turns in (self.warm_plain, self.warm_group))
        return plain / group


async def measure(arms: Arms, size: Size) -> None:
    """One repetition of the four turns (see the module's text)."""
    asked = arms.rows(size.contexts, secrets.token_hex(4))
    size.cold_group.append(await arms.group(asked))
    size.cold_plain.append(await arms.plain(arms.rows(size.contexts, secrets.token_hex(4))))
    await arms.warm(asked)
    turns = [(size.warm_group, arms.group(asked)), (size.warm_plain, arms.plain(asked, only_decoding=True))]
    for timings, turn in turns if len(size.warm_group) % 2 == 0 else reversed(turns):
        timings.append(await turn)


async def compare(url: str, model: Path, repetitions: int, tokens: int) -> list[Size]:
    """All sizes, taking turns, after one repetition that warms up and is thrown away."""
    sizes = [Size(contexts) for contexts in SIZES]
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        arms = Arms(url, session, PromptBuilder(model), tokens)
        chats = [asyncio.create_task(arms.chatter(number)) for number in range(CHATS)]
        try:
            await measure(arms, Size(SIZES[0]))
            for number in range(repetitions):
                for size in sizes:
                    await measure(arms, size)
                print(f"repetition {number + 1} of {repetitions}", file=sys.stderr, flush=True)
        finally:
            for chat in chats:
                chat.cancel()
                with suppress(asyncio.CancelledError):
                    await chat
    return sizes


def _pace(turns: list[Timing]) -> float:
    """Tokens per second of one row over all turns together."""
    steps = [second for turn in turns for second in turn.steps]
    return len(steps) / sum(steps)


def show(sizes: list[Size], tokens: int, console: Console) -> float:
    """Prints the tables; the smallest ratio."""
    speed = Table("rows", "group tokens/s", "plain tokens/s", "ratio", "lowest", "highest", "by typical step")
    speed.title = f"Decoding, all rows together, {tokens} tokens each, {CHATS} ordinary requests beside"
    waits = Table("rows", "first, cold", "first, warm", "whole, cold", "plain: first", "plain: whole", title="Seconds")
    for size in sizes:
        rows, name = size.contexts + 1, f"{size.contexts} + 1"
        paces = (rows * _pace(turns) for turns in (size.warm_group, size.warm_plain))
        ratios = (size.ratio, min(size.ratios), max(size.ratios), size.typical)
        speed.add_row(name, *(f"{pace:.1f}" for pace in paces), *(f"{ratio:.2f}" for ratio in ratios))
        seconds = (
            median(t.first for t in size.cold_group),
            median(t.first for t in size.warm_group),
            median(t.whole for t in size.cold_group),
            median(t.first for t in size.cold_plain),
            median(t.whole for t in size.cold_plain),
        )
        waits.add_row(name, *(f"{second:.2f}" for second in seconds))
    console.print(speed)
    console.print(waits)
    return min(size.ratio for size in sizes)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--repetitions", type=int, default=5)
    options.add_argument("--tokens", type=int, default=96, help="of every answer")
    chosen = options.parse_args()
    model = prepare_model(os.environ.get("FDROUTER_MODEL_DIR") or MODEL)
    with tempfile.TemporaryDirectory(prefix="fdrouter-bench-") as folder, engine(model, Path(folder, "log")) as url:
        sizes = asyncio.run(compare(url, model, chosen.repetitions, chosen.tokens))
    smallest = show(sizes, chosen.tokens, Console(width=None if sys.stdout.isatty() else 140))
    print(f"bar {BAR:.2f}; smallest ratio of group to plain: {smallest:.2f}")


if __name__ == "__main__":
    main()
