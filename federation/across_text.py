"""How the sum of several hospitals is said: with its error, and which hospitals it is of."""

from __future__ import annotations

from collections.abc import Sequence

from privacy.dp.across_plans import AcrossPlan

NONE = "none or several of these"


def told(
    plan: AcrossPlan, numbers: Sequence[int], options: Sequence[str], names: Sequence[str], words: list[str]
) -> str:
    """The answer in words. Numbers below zero are shown as zero, which costs nothing.

    ``words`` are those of the question that records were found by; empty where the hospitals do not agree on them.
    """
    where = f"{len(names)} hospitals together: {', '.join(names)}"
    by = f" Records were found by these words: {', '.join(words)}." if words else ""
    end = f"Asked were {where}.{by} A patient on record at several of them is counted at each."
    if not plan.options:
        return f"{_count(plan, numbers[0])}\n\n{end} Negations and other words for the same are not seen."
    return f"{_choice(plan, numbers, options)}\n\n{end} A record that holds several of the answers counts as none."


def _count(plan: AcrossPlan, number: int) -> str:
    found = max(0, number)
    low, high = max(0, found - plan.band), found + plan.band
    return f"About {found} records match. The noise leaves {low} to {high}, in 95 of 100 cases."


def _choice(plan: AcrossPlan, numbers: Sequence[int], options: Sequence[str]) -> str:
    named = sorted(zip(numbers, [*options, NONE], strict=True), key=lambda pair: (-pair[0], pair[1]))
    (first, winner), (second, _) = named[0], named[1]
    sure = "" if first - second > 2 * plan.band else ", but not by more than the noise may have made"
    lines = [f"- {name}: about {max(0, found)} records" for found, name in named]
    error = f"The noise moves each number by at most {plan.band}, in 95 of 100 cases each."
    return "\n".join([f"Said most often: {winner}{sure}.", "", *lines, "", error])
