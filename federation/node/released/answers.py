"""Answers from what is published: figures are printed as they stand, texts are written by the public model from them.

Nothing here reads a patient or costs anything: an answer is a function of the question and of what the shelf holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings

from fdrouter.errors import NothingReleased
from federation.node import blocks, phrases
from federation.node.released import counted
from federation.node.released import shelf as shelves
from federation.node.released.models import Release, ReleasedNote
from federation.node.released.questions import Asked, understand
from federation.node.released.shelf import Figure, Shelf

MAX_NOTES = 8
MAX_FIGURES = 6
MAX_LINES = 12
APART = "These are separate numbers, of the patients with each of them and not of those with all of them together:"
INSTEAD = "Ask the records themselves (a count, a choice, keywords or a text), which has a privacy cost"
SYSTEM = (
    "Answer the question in one or two short sentences, from the notes and figures only. If they do not say, answer "
    "that what is published does not say."
)
_SINGLE = ("sex", "departments", "conditions", "treatments")  # cards whose cells have one label


@dataclass(slots=True)
class Found:
    """What an answer is made of. ``text`` stands in it word for word; with ``messages`` the public model writes first.

    ``released`` is for the receipt: which releases, what they have paid, and how much of them was used.
    """

    text: str
    messages: list[dict[str, str]] = field(default_factory=list)
    released: dict[str, Any] = field(default_factory=dict)


def find(question: str, options: Sequence[str] = ()) -> Found:
    """What is published about the question.

    Raises:
        NothingReleased: nothing, or nothing about just this; the message says what to do instead.
    """
    shelf = shelves.load()
    if not shelf.cards and not shelf.corpora:
        raise NothingReleased(
            f"This hospital has published nothing yet. {INSTEAD}, or ask the hospital to publish.", hospital=_hospital()
        )
    topics = shelves.topics(shelf.corpora)
    asked = understand(question, shelf, topics, choice=bool(options))
    if (asked.counts or options) and asked.turned:
        raise NothingReleased(
            f"Published numbers count who has something and cannot understand the word \u201c{asked.turned}\u201d."
            f" Ask for those who have it, without a negation. {INSTEAD}.",
            hospital=_hospital(),
            published=_contents(shelf),
        )
    if options:
        found = _choice(asked, shelf, options)
    elif asked.counts:
        found = _count(asked, shelf)
    else:
        found = _text(question, asked, shelf, topics)
    found.released["written_by_model"] = bool(found.messages)
    return found


def _hospital() -> str:
    return str(settings.HOSPITAL_ID)


# --- figures --------------------------------------------------------------------------------------------------------
def _count(asked: Asked, shelf: Shelf) -> Found:
    card, labels = _cells(asked, shelf)
    figures = shelf.figures(card, labels)
    if asked.left or not figures:
        raise _nothing(asked, shelf)
    if asked.share:
        return _share(asked, shelf, card, figures)
    if len(figures) == 1:
        text = counted.one(card, figures[0], shelf)
    else:
        apart = [APART, ""] if len(_all_named(asked)) > 1 else []
        ordered = sorted(figures, key=lambda figure: -figure.count) if card == "effects" else figures
        rest = [f"- {len(ordered) - MAX_LINES} others: fewer"] if len(ordered) > MAX_LINES else []
        lines = [*apart, *map(counted.line, ordered[:MAX_LINES]), *rest, ""]
        text = "\n".join([*lines, counted.under({card: [figure.labels for figure in ordered]}, shelf)])
    return _found(text, [], {card}, shelf)


def _share(asked: Asked, shelf: Shelf, card: str, figures: list[Figure]) -> Found:
    """The two numbers of a share: of an effect, with the treatment, those of the treatment; else of all patients."""
    if card == "effects":
        of, whole = "treatments", shelf.figures("treatments", [(topic,) for topic in asked.topics])
    else:
        of, total = "sex", shelf.total()
        whole = [total] if total is not None else []
    if len(figures) != 1 or len(whole) != 1:
        raise _nothing(asked, shelf)
    labels = {card: [figures[0].labels]}
    everybody = "All patients counted are the four numbers by sex, added up."
    labels |= {of: [whole[0].labels]} if card == "effects" else {}
    told = [
        "A share itself is not published, only its two numbers:",
        *map(counted.line, (figures[0], whole[0])),
        "",
        counted.under(labels, shelf),
        *([] if card == "effects" else [everybody]),
    ]
    return _found("\n".join(told), [], {card, of}, shelf)


def _cells(asked: Asked, shelf: Shelf) -> tuple[str, list[tuple[str, ...]]]:
    """The card, and its cells, that a question for a number means."""
    named = {card: labels for card, labels in asked.cells.items() if labels}
    if asked.words and set(named) == {"treatments"}:
        return "effects", [(label[0], word) for word in asked.words for label in named["treatments"]]
    if asked.words and not named:
        treatments = [label[0] for label in shelf.labels("treatments")]
        return "effects", [(topic, word) for word in asked.words for topic in treatments]
    if asked.by_age and not named and not asked.words:
        return "age", shelf.labels("age")
    if len(named) != 1 or asked.words:
        if len(named) + bool(asked.words) > 1:
            raise NothingReleased(
                f"Published numbers hold these apart, not together: {_list(_all_named(asked))}. {INSTEAD}.",
                hospital=_hospital(),
            )
        return "", []
    return next(iter(named.items()))


def _all_named(asked: Asked) -> list[str]:
    return [label[0] for labels in asked.cells.values() for label in labels] + asked.words


def _choice(asked: Asked, shelf: Shelf, options: Sequence[str]) -> Found:
    """Figures of the options, the largest first: effects of the treatment in question, or cells of one card."""
    card, labels = _option_cells(asked, shelf, list(options))
    if set(_all_named(asked)) - {part for label in labels for part in label}:
        card, labels = "", []  # what else the question names would be dropped
    figures = {figure.labels: figure for figure in shelf.figures(card, labels)}
    if asked.left or len(figures) < len(options):
        raise _nothing(asked, shelf)
    ordered = sorted(figures.values(), key=lambda figure: -figure.count)
    first, second = ordered[0], ordered[1]
    sure = "" if first.count - second.count > first.band + second.band else ", but not by more than the noise"
    lines = [f"Published most often: {counted.named(first)}{sure}.", "", *map(counted.line, ordered), ""]
    below = counted.under({card: [figure.labels for figure in ordered]}, shelf)
    return _found("\n".join([*lines, below]), [], {card}, shelf)


def _option_cells(asked: Asked, shelf: Shelf, options: list[str]) -> tuple[str, list[tuple[str, ...]]]:
    meant = phrases.lexemes(options)
    for card in ("effects", *_SINGLE):
        labels = shelf.labels(card)
        names = list(dict.fromkeys(label[-1] for label in labels))
        by_words = {frozenset(words): name for words, name in zip(phrases.lexemes(names), names, strict=True)}
        chosen = [by_words.get(frozenset(words)) for words in meant]
        known = [name for name in chosen if name is not None]
        if len(known) < len(options):
            continue
        if card != "effects":
            return card, [(name,) for name in known]
        if len(asked.topics) == 1:
            return card, [(asked.topics[0], name) for name in known]
    return "", []


def _nothing(asked: Asked, shelf: Shelf) -> NothingReleased:
    """Names the words that no figure covers, as the asker wrote them."""
    left = [f"\u201c{word}\u201d" for word in asked.left]
    what = f"No published number covers the word{'s' * (len(left) > 1)} {_list(left)} of your question." if left else ""
    return NothingReleased(
        f"{what or 'No published number answers this.'} {INSTEAD}.", hospital=_hospital(), published=_contents(shelf)
    )


def _contents(shelf: Shelf) -> list[str]:
    return sorted(shelf.tables) + (["notes"] if shelf.corpora else [])


# --- texts ----------------------------------------------------------------------------------------------------------
def _text(question: str, asked: Asked, shelf: Shelf, topics: list[str]) -> Found:
    notes = [note for note in _notes(question, asked, shelf) if _has_patients(note.topic, shelf)][:MAX_NOTES]
    figures, cards = _telling_figures(asked, shelf)
    if not notes and not figures:
        about = f" There are notes about {_list(topics[:12])}." if topics else ""
        raise NothingReleased(
            f"Nothing that is published speaks of this.{about} {INSTEAD}.",
            hospital=_hospital(),
            published=_contents(shelf),
        )
    lines = [f"Note: {note.text}" for note in notes]
    lines += [f"Figure: {counted.named(f)}: about {max(0, f.count)} patients counted" for f in figures]
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": "\n".join([*lines, "", f"Question: {question}"])},
    ]
    shown = [f"- {note.text}" for note in notes] + [counted.line(figure) for figure in figures]
    below = ["", counted.under(cards, shelf)] if figures else []
    found = _found("\n".join(["Published:", *shown, *below]), notes, set(cards), shelf)
    found.text, found.messages = f"\n\n{found.text}", messages
    return found


def _notes(question: str, asked: Asked, shelf: Shelf) -> list[ReleasedNote]:
    """Notes about the topics in question; without one, those that hold a named phrase, or half of its telling words."""
    if not shelf.corpora:
        return []
    if asked.topics:
        return shelves.notes(shelf.corpora, asked.topics)
    named = _all_named(asked)
    if named and (query := " | ".join(f"({q})" for q in phrases.phrase_queries(named) if q)):
        return shelves.notes_holding(shelf.corpora, query, MAX_NOTES)
    telling = phrases.terms_of(question).telling
    if len(telling) < 2:
        query = " & ".join(telling)
    else:  # every pair of words that stand together in a note: of two both, of three two
        query = " | ".join(f"({a} & {b})" for n, a in enumerate(telling) for b in telling[n + 1 :])
    return shelves.notes_holding(shelf.corpora, query, MAX_NOTES) if query else []


def _has_patients(topic: str, shelf: Shelf) -> bool:
    """Whether the published number of the topic's patients is more than noise; yes where no number is published.

    A group of nobody writes a note too, which is then the public model's alone.
    """
    return all(figure.count > figure.band for figure in shelf.figures("treatments", [(topic,)]))


def _telling_figures(asked: Asked, shelf: Shelf) -> tuple[list[Figure], dict[str, list[tuple[str, ...]]]]:
    """What the cards say of the things named: of many cells only those that noise alone would hardly make so large."""
    found: list[Figure] = []
    cards: dict[str, list[tuple[str, ...]]] = {}
    for card, labels in asked.cells.items():
        if told := [figure for figure in shelf.figures(card, labels) if figure.count > figure.band]:
            found += told
            cards[card] = [figure.labels for figure in told]
    topics, words = set(asked.topics), set(asked.words)
    if topics or words:
        wanted = [
            label
            for label in shelf.labels("effects")
            if (not topics or label[0] in topics) and (not words or label[1] in words or bool(topics))
        ]
        row = shelf.figures("effects", wanted)
        large = [figure for figure in row if figure.count > shelves.band_of(figure.sigma, len(row))]
        if large:
            largest = sorted(large, key=lambda figure: -figure.count)[:MAX_FIGURES]
            found += largest
            cards["effects"] = [figure.labels for figure in largest]
    return found, cards


# --- what it is made of ---------------------------------------------------------------------------------------------
def _found(text: str, notes: Sequence[ReleasedNote], cards: set[str], shelf: Shelf) -> Found:
    used = {note.release_id: note.release for note in notes}
    used |= {release.pk: release for release in shelf.releases_with(cards)}
    released = {
        "notes": len(notes),
        "cards": sorted(cards),
        "releases": [_paid(release) for release in sorted(used.values(), key=lambda release: str(release.pk))],
    }
    told = sentence(notes, cards, list(used.values())) + _covered(cards, list(used.values()))
    return Found(f"{text}\n\n{told}", released=released)


def _covered(cards: set[str], releases: Sequence[Release]) -> str:
    """Numbers are those of the patients of blocks with cards; others are said to be left out."""
    counted, there = {release.block for release in releases if release.kind == "cards"}, len(blocks.every())
    if not cards or len(counted) >= there:
        return ""
    return f" The numbers are those of the patients of {len(counted)} of the hospital's {there} blocks."


def _paid(release: Release) -> dict[str, Any]:
    return {
        "id": str(release.pk),
        "kind": release.kind,
        "block": release.plan["block"],
        "epsilon": release.epsilon,
        "delta": release.delta,
        "published_at": _moment(release),
        "statement": (release.statement or {}).get("digest"),
    }


def _moment(release: Release) -> str:
    return release.published_at.isoformat(timespec="seconds") if release.published_at else ""


def sentence(notes: Sequence[ReleasedNote], cards: set[str], releases: Sequence[Release]) -> str:
    """What the answer is made from, and what that has cost, once."""
    parts = []
    for kind, count, one, many in (
        ("corpus", len(notes), "synthetic note", "synthetic notes"),
        ("cards", len(cards), "statistics card", "statistics cards"),
    ):
        made = [release for release in releases if release.kind == kind]
        if not count or not made:
            continue
        epsilons = _list(sorted({f"{release.epsilon:g}" for release in made}))
        days = _list(sorted({_moment(release)[:10] for release in made}))
        parts.append(f"{count} {one if count == 1 else many} published on {days} at epsilon {epsilons} per patient")
    return f"From {' and '.join(parts)}. That was paid once; asking costs nothing more."


def _list(words: Sequence[str]) -> str:
    found = list(words)
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]}" if found else ""
