"""The tables and the verdict of a run. Formatting only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.utility import sizes, year
from benchmarks.utility.engine import Spoken
from benchmarks.utility.intervals import Estimate, wilson
from benchmarks.utility.ways import Count

EPSILONS = (0.1, 0.5, 1.0, 3.0, 10.0)
AIMS = {1.0: 2.1, 0.5: 3.8, 0.1: 5.2}  # epsilon: points
#: The ways that the aim is about: a closed answer of one hospital, and of all together.
AIMED = ("choice", "choice, 3 hospitals")
REFUSED = "refused: push too small"
CAPTION = (
    "n: questions to a hospital (in brackets: independent ones; wordings of one question read the same votes). Right:"
    " the planted answer first; of keywords, one of the drawn words; of a count, within 10 % of the truth. A count of"
    " one hospital is pure epsilon-DP; one of three is (epsilon, delta)-DP with the noise of all three: less exact, and"
    " much cheaper for a block."
)


@dataclass(slots=True)
class Row:
    """One way's accuracy. ``chance`` and ``public`` are shares of right answers without records."""

    way: str
    questions: int
    without: Estimate
    at: dict[float, Estimate | str]
    lost: dict[float, Estimate] = field(default_factory=dict)
    chance: float | None = None
    public: Estimate | None = None
    note: str = ""


def percent(found: Estimate | float | str | None) -> str:
    """``98.2 [95.0, 99.4]``; a missing figure is a dash."""
    if found is None or isinstance(found, str):
        return found or "-"
    if isinstance(found, float):
        return f"{100 * found:.0f}"
    return f"{100 * found.value:.1f}\n[{100 * found.low:.0f}, {100 * found.high:.0f}]"


def points(found: Estimate | None) -> str:
    return "-" if found is None else f"{found.value:.1f} [{found.low:.1f}, {found.high:.1f}]"


def accuracy_table(rows: Sequence[Row]) -> Table:
    names = [f"epsilon {epsilon:g}" for epsilon in EPSILONS]
    table = Table("way", "n", "chance", "public only", "no noise", *names, title="Right answers, % [95 % interval]")
    for row in rows:
        cells = [percent(row.at.get(epsilon)) for epsilon in EPSILONS]
        count = f"{row.questions}" + (f" ({row.without.n})" if row.without.n != row.questions else "")
        table.add_row(row.way, count, percent(row.chance), percent(row.public), percent(row.without), *cells)
    return table


def lost_table(rows: Sequence[Row]) -> Table:
    names = [f"epsilon {epsilon:g}" for epsilon in EPSILONS]
    table = Table(
        "way", *names, title="Points lost to privacy: right answers without noise minus those with it [95 % interval]"
    )
    for row in rows:
        if row.lost:
            table.add_row(row.way, *(points(row.lost.get(epsilon)) for epsilon in EPSILONS))
    table.add_row("aim, closed answers", *(f"{AIMS[e]:g}" if e in AIMS else "-" for e in EPSILONS), style="bold")
    return table


def count_table(ways: Sequence[Count]) -> Table:
    names = [f"epsilon {epsilon:g}" for epsilon in EPSILONS]
    table = Table(
        "way", "counts", "truth", "no noise", *names, title="Counts: median error in patients (% of the truth)"
    )
    labels = {"all": "take a drug", "had": "take it and had its effect", "both": "take two drugs"}
    for way in ways:
        for aspect, label in labels.items():
            truths = [case.truth for case in way.cases if case.question.aspect == aspect]
            if not truths:
                continue
            middle = float(np.median(truths))
            errors = [float(np.median(way.errors(epsilon, aspect))) for epsilon in (None, *EPSILONS)]
            cells = [f"{error:.0f} ({100 * error / middle:.0f})" for error in errors]
            table.add_row(way.name, label, f"{min(truths)}-{max(truths)}", *cells)
    return table


def size_table(lost: Mapping[float, Mapping[int, Estimate]]) -> Table:
    shown = [size for size in sizes.SHOWN if all(size in by_size for by_size in lost.values())]
    title = "choice at one hospital: points lost by patients in the cohort [95 % interval]"
    table = Table("epsilon", "aim", *(f"{size}" for size in shown), "aim holds from", title=title)
    for epsilon, by_size in lost.items():
        start = sizes.holds_from(by_size, AIMS[epsilon])
        held = f"{start} patients" if start else f"no size up to {max(by_size)}"
        table.add_row(f"{epsilon:g}", f"{AIMS[epsilon]:g}", *(points(by_size[size]) for size in shown), held)
    return table


def lead_table() -> Table:
    table = Table(
        "epsilon", "aim", "one rival", "four level rivals", title="choice: the lead in votes that the aim needs"
    )
    for epsilon, aim in AIMS.items():
        table.add_row(f"{epsilon:g}", f"{aim:g}", *(f"{sizes.lead_needed(epsilon, aim, n)}" for n in (1, 4)))
    return table


def year_table() -> Table:
    title = f"Questions that a block of epsilon {year.BLOCK_EPSILON:g} (delta {year.BLOCK_DELTA:g}) pays in a year"
    table = Table("way", *(f"epsilon {epsilon:g}" for epsilon in EPSILONS), title=title)
    for way in year.WAYS:
        table.add_row(way, *(_paid(one) for one in year.row(way, EPSILONS)))
    plain = [f"{int(year.BLOCK_EPSILON / epsilon + 1e-9):,}" for epsilon in EPSILONS]
    table.add_row("if epsilons were added up", *plain, style="dim")
    table.add_row("released, once it is paid", *["unlimited"] * len(EPSILONS), style="bold")
    return table


def _paid(found: year.Affordable | None) -> str:
    if found is None:
        return REFUSED
    return f"{found.questions:,} ({found.a_day:.2g} a day)" if found.questions else "not one"


def text_table(spoken: Mapping[str, Sequence[Spoken] | str]) -> Table:
    table = Table("text", "n", "effect named, %", "and what resolved it", "an answer", title="Free text")
    for name, found in spoken.items():
        if isinstance(found, str):
            table.add_row(name, "0", found, "-", "-")
            continue
        n = len(found)
        shares = [percent(wilson(sum(getattr(one, part) for one in found), n)) for part in ("right", "whole")]
        table.add_row(name, f"{n}", *shares, found[0].text[:100])
    return table


def verdict(rows: Sequence[Row], lost: Mapping[float, Mapping[int, Estimate]]) -> list[str]:
    """Where the aim holds and where it does not: held if the upper end of the interval is within it."""
    lines = []
    for row in rows:
        if row.way in AIMED:
            for epsilon, aim in AIMS.items():
                found = row.lost[epsilon]
                word = "holds" if found.high <= aim else "does not hold"
                lines.append(f"{row.way}, epsilon {epsilon:g}: {points(found)} points lost, aim {aim:g}: {word}.")
    for epsilon, by_size in lost.items():
        start = sizes.holds_from(by_size, AIMS[epsilon])
        where = f"holds for cohorts of {start} patients and more" if start else "holds at no size that was tried"
        lines.append(f"choice by cohort, epsilon {epsilon:g}: the aim {where}.")
    return lines


def last_line(rows: Sequence[Row]) -> str:
    """The figure of the run."""
    figures = {row.way: " / ".join(f"{row.lost[epsilon].value:.1f}" for epsilon in AIMS) for row in rows if row.lost}
    one, all_of_them = (figures.get(way, "-") for way in AIMED)
    names, aims = (" / ".join(f"{x:g}" for x in xs) for xs in (AIMS, AIMS.values()))
    return f"points lost by choice at epsilon {names}: {one} at one hospital, {all_of_them} at three (aim {aims})"


def console() -> Console:
    """Wide enough for the tables wherever the output goes."""
    found = Console()
    return found if found.is_terminal and found.width >= 120 else Console(width=160)
