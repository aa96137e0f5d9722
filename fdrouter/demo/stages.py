"""Runs steps that wait for each other, as many at once as is useful, and shows how far they are.

On a terminal the steps that run are shown live with their latest line; elsewhere one plain line is written when a
step begins and one when it ends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

REFRESH_PER_SECOND = 8
DETAIL_WIDTH = 70


@dataclass(frozen=True, slots=True)
class Step:
    """``action`` runs once every step named in ``after`` is done; it gets a function that shows a line of detail.

    It returns a short note for the display ("already there") or an empty text, and raises to fail.
    """

    name: str
    title: str
    action: Callable[[Callable[[str], None]], str]
    after: tuple[str, ...] = ()


class StepFailed(Exception):
    """A step raised. ``step`` says which, ``__cause__`` why."""

    def __init__(self, step: Step) -> None:
        self.step = step
        super().__init__(step.title)


@dataclass
class Display:
    """What the person at the terminal sees. Safe to use from several threads."""

    console: Console
    _active: dict[str, tuple[float, str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _live: Live | None = None

    @contextmanager
    def shown(self) -> Iterator[None]:
        if not self.console.is_terminal:
            yield
            return
        with Live(console=self.console, refresh_per_second=REFRESH_PER_SECOND, transient=True) as live:
            live.update(self)
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def begin(self, title: str) -> None:
        with self._lock:
            self._active[title] = (time.monotonic(), "")
        if self._live is None:
            self.say(f"  ... {title}")

    def detail(self, title: str, line: str) -> None:
        with self._lock:
            if title in self._active:
                self._active[title] = (self._active[title][0], line[:DETAIL_WIDTH])

    def end(self, title: str, note: str = "", *, mark: str = "[green]ok[/]  ") -> None:
        with self._lock:
            begun, _ = self._active.pop(title, (time.monotonic(), ""))
        remark = f" [dim]({note})[/]" if note else ""
        self.console.print(f"  {mark} {title} [dim]{time.monotonic() - begun:.1f} s[/]{remark}", highlight=False)

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def __rich__(self) -> Table:
        table = Table.grid(padding=(0, 1))
        now = time.monotonic()
        with self._lock:
            active = list(self._active.items())
        for title, (begun, line) in active:
            table.add_row(" ", _SPINNER, title, f"[dim]{now - begun:.0f} s[/]", f"[dim]{_plain(line)}[/]")
        return table


_SPINNER = Spinner("dots")


def _plain(line: str) -> str:
    return line.replace("[", r"\[")


def run(steps: Sequence[Step], display: Display, stop: threading.Event, *, workers: int = 6) -> None:
    """Runs all steps. After a failure, or once ``stop`` is set, nothing new begins; what runs is awaited.

    Raises:
        StepFailed: for the first step that failed, from its reason.
        ValueError: a step waits for one that does not exist, or for itself in a circle.
    """
    _check(steps)
    waiting = list(steps)
    done: set[str] = set()
    running: dict[Future[None], Step] = {}
    failure: tuple[Step, BaseException] | None = None
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="step") as pool:
        while waiting or running:
            if failure is None and not stop.is_set():
                for step in [step for step in waiting if done.issuperset(step.after)]:
                    waiting.remove(step)
                    running[pool.submit(_perform, step, display, stop)] = step
            if not running:
                break
            finished, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in finished:
                step = running.pop(future)
                error = future.exception()
                if error is None:
                    done.add(step.name)
                elif failure is None:
                    failure = (step, error)
                    stop.set()
    if failure is not None:
        raise StepFailed(failure[0]) from failure[1]


def _perform(step: Step, display: Display, stop: threading.Event) -> None:
    display.begin(step.title)
    try:
        note = step.action(lambda line: display.detail(step.title, line))
    except BaseException:
        # What ends because the whole is stopping did not fail.
        display.end(step.title, mark="[dim]stop[/]" if stop.is_set() else "[red]FAIL[/]")
        stop.set()
        raise
    display.end(step.title, note)


def _check(steps: Sequence[Step]) -> None:
    known: set[str] = set()
    left = list(steps)
    while left:
        ready = [step for step in left if known.issuperset(step.after)]
        if not ready:
            raise ValueError(f"steps wait for each other or for unknown ones: {[step.name for step in left]}")
        known.update(step.name for step in ready)
        left = [step for step in left if step not in ready]
