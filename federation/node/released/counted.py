"""What a published figure counts and what its range is of, in words. Functions of public plans and labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from federation.node.released.shelf import Figure, Limit, Shelf

#: Said of a card's figures where a patient can be in more of its cells than are counted.
_THINGS = {
    "departments": "departments",
    "conditions": "conditions",
    "treatments": "treatments",
    "effects": "pairs of a treatment and an effect",
}
_NAMED = "a line of the record names {it}; whether it was taken, stopped or refused is not told apart"
RANGES = "The ranges in brackets are of the numbers counted, in 95 of 100 cases each: so much is the noise."


def one(card: str, figure: Figure, shelf: Shelf) -> str:
    """A single figure: the number counted, its range, who is not in it, and what was counted."""
    told = (
        f"About {max(0, figure.count)} patients were counted: {named(figure)}. The noise leaves {figure.low} to"
        f" {figure.high} for the number counted, in 95 of 100 cases."
    )
    return _joined([told, *limits([card], shelf)], [f"Counted: {what(card, [figure.labels], shelf)}."])


def under(labels: Mapping[str, Sequence[tuple[str, ...]]], shelf: Shelf) -> str:
    """What stands below a list of figures, whose ``labels`` are by card: what their ranges are of, who is not in them,
    and what was counted.
    """
    counted = [f"Counted: {what(card, labels[card], shelf)}." for card in sorted(labels)]
    return _joined([RANGES, *limits(labels, shelf)], counted)


def _joined(sentences: Sequence[str], counted: Sequence[str]) -> str:
    return "\n".join([" ".join(sentences), "", *counted])


def line(figure: Figure) -> str:
    return f"- {named(figure)}: about {max(0, figure.count)} patients counted ({figure.low} to {figure.high})"


def named(figure: Figure) -> str:
    return " with ".join(figure.labels)


def limits(cards: Collection[str], shelf: Shelf) -> list[str]:
    """For each card that counts a patient in some of their cells only: a sentence about whom its figures miss."""
    return [_limit(_THINGS[card], limit) for card in sorted(cards) for limit in shelf.limits(card)]


def _limit(things: str, limit: Limit) -> str:
    most = limit.max_cells
    if limit.by_hash:
        return (
            f"Patients with more than {most} {things} were counted in {most} of them only, so the true number may be"
            " higher."
        )
    return (
        f"Patients with more than {most} {things} were counted in the first {most} of them only, in the order of the"
        " published list, so the true number may be higher, and much higher for names late in that order."
    )


def what(card: str, labels: Sequence[tuple[str, ...]], shelf: Shelf) -> str:
    """Whom the figures of these cells count."""
    single = labels[0][0] if len(labels) == 1 else ""
    match card:
        case "sex":
            return f"patients on record as {single}" if single else "patients by the sex on record"
        case "age":
            years = " and ".join(sorted({str(year) for year in shelf.years()}))
            return f"patients by their age in {years}"
        case "departments":
            return f"patients with {single or 'the department'} among the departments that care for them"
        case "conditions":
            return f"patients with {single or 'the condition'} among their coded conditions"
        case "treatments":
            return f"patients with {single or 'the treatment'} among their treatments: {_NAMED.format(it='it')}"
        case "effects":
            treatment, effect = labels[0] if len(labels) == 1 else ("the treatment", "the effect")
            return (
                f"patients with {effect} noted in one line with {treatment}: whether one caused the other, or the"
                " treatment was taken, stopped or refused, is not told apart"
            )
    raise ValueError(f"There is no card {card}.")
