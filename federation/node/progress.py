"""Progress of a long command: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

_PLAIN_SECONDS = 5.0


class Bar:
    """One step after another, shown on ``stream``. Use as a context manager.

    ``total`` of 0 is a step of unknown length. Amounts are in the step's own unit (bytes, patients).
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream)
        self._rich: Progress | None = None
        self._task: TaskID | None = None
        self._label, self._total, self._done = "", 0, 0
        self._begun = self._told = 0.0

    def __enter__(self) -> Bar:
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
            self._rich = Progress(*columns, console=self._console)
            self._rich.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rich:
            self._rich.stop()

    def begin(self, label: str, total: int) -> None:
        """Starts the next step."""
        self._label, self._total, self._done, self._begun = label, total, 0, time.monotonic()
        if self._rich:
            self._task = self._rich.add_task(label, total=total or None)
        else:
            self._tell(label)

    def advance(self, amount: int) -> None:
        """So much more of the step is done."""
        self._done += amount
        if self._rich and self._task is not None:
            self._rich.advance(self._task, amount)
        elif time.monotonic() - self._told >= _PLAIN_SECONDS:
            elapsed = time.monotonic() - self._begun
            share = f" {self._done / self._total:.0%}" if self._total else f", {elapsed:.0f} s"
            self._tell(f"{self._label}{share}")

    def _tell(self, line: str) -> None:
        self._told = time.monotonic()
        self._console.file.write(line + "\n")
        self._console.file.flush()
