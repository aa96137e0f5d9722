"""Checks of what is drawn and of what a patient can move. Each gives a sentence about the violation, or None.

They take no seed. What is random in them errs with a probability that is stated: a right mechanism is accused once in
``1 / ALARM`` runs.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

from scipy import stats

ALARM = 1e-9
_ENOUGH = 10.0  # expected draws in a cell of the chi-square test; smaller cells are put together


def interval(hits: int, draws: int, miss: float) -> tuple[float, float]:
    """Clopper and Pearson's interval of a probability; it fails to hold it with probability ``miss`` at most."""
    low = float(stats.beta.ppf(miss / 2, hits, draws - hits + 1)) if hits else 0.0
    high = float(stats.beta.ppf(1 - miss / 2, hits + 1, draws - hits)) if hits < draws else 1.0
    return low, high


def misdrawn(drawn: Sequence[Hashable], law: Mapping[Any, float]) -> str | None:
    """Whether draws are not from ``law`` (outcomes and their probabilities, adding up to 1).

    Pearson's chi-square over all outcomes, which sees many small differences, and an exact interval for each outcome
    (false alarms shared out among them), which sees one large one.
    """
    found, total = Counter(drawn), len(drawn)
    if strange := set(found) - set(law):
        return f"{sum(found[outcome] for outcome in strange)} of {total} draws cannot be"
    cells = [(found[outcome], total * chance) for outcome, chance in law.items() if total * chance >= _ENOUGH]
    rest = total - sum(expected for _, expected in cells)
    if rest >= _ENOUGH:
        cells.append((total - sum(seen for seen, _ in cells), rest))
    statistic = sum((seen - expected) ** 2 / expected for seen, expected in cells)
    if (chance := float(stats.chi2.sf(statistic, max(1, len(cells) - 1)))) < ALARM / 2:
        return f"chi-square {statistic:.0f} over {len(cells)} outcomes (chance {chance:.0e})"
    for outcome, chance in law.items():
        low, high = interval(found[outcome], total, ALARM / 2 / len(law))
        if not low <= chance <= high:
            return f"outcome {outcome}: {found[outcome]} of {total} draws, its probability is {chance:.4g}"
    return None


def repeats(draws: Callable[[], Sequence[int]]) -> str | None:
    """Whether two runs, or two processes forked at the same moment, draw the same again.

    ``draws`` makes the mechanism anew and gives a sequence that a right one repeats with a negligible probability.
    """
    if draws() == draws():
        return "two mechanisms draw the same"
    if forked(draws) == forked(draws):
        return "two processes draw the same"
    return None


def forked(draws: Callable[[], Sequence[int]]) -> list[int]:
    """``draws`` in a child process that has a copy of this one's memory, its generators included."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, " ".join(map(str, draws())).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = [int(word) for word in pipe.read().split()]
    os.waitpid(child, 0)
    if not found:
        raise RuntimeError("the child process drew nothing")
    return found


def moved(one: Sequence[int], other: Sequence[int], *, cells: int, step: int = 1) -> str | None:
    """Whether two neighbours' whole numbers differ in more than ``cells`` places, or by more than ``step`` in one."""
    changes = [abs(a - b) for a, b in zip(one, other, strict=True)]
    if max(changes) > step:
        return f"one patient moves a number by {max(changes)}, paid for is {step}"
    if (touched := sum(change > 0 for change in changes)) > cells:
        return f"one patient moves {touched} numbers, paid for are {cells}"
    return None


def swapped(one: Iterable[Hashable], other: Iterable[Hashable], *, slots: int = 1) -> str | None:
    """Whether two neighbours' slots (a multiset each) differ in more than ``slots``."""
    ours, theirs = Counter(one), Counter(other)
    gone, come = (ours - theirs).total(), (theirs - ours).total()
    return f"one patient fills {max(gone, come)} slots, paid for is {slots}" if max(gone, come) > slots else None


def each_once(held: Iterable[Hashable]) -> str | None:
    """Whether somebody has more than one slot or vote."""
    most = Counter(held).most_common(1)
    return f"one patient has {most[0][1]} slots" if most and most[0][1] > 1 else None
