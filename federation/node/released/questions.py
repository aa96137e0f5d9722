"""Understanding a question by public words alone: which topics, effects and groups of people of the shelf it names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from federation.node import phrases
from federation.node.released.shelf import Shelf, standing_in

_COUNTS = re.compile(
    r"\bhow many\b|\b(what|which) (is the )?(number|share|proportion)\b|^\s*(count|number of)\b", re.IGNORECASE
)
#: Words that turn a question round: figures and notes are matched by words and would tell the opposite.
_NEGATIONS = re.compile(r"\b(no|not|never|none|neither|nor|without|except|n't|\w+n't)\b", re.IGNORECASE)
#: How people name what a card's cell is called by its code.
_ALSO = {
    ("sex", "female"): ("female", "women", "woman", "girls"),
    ("sex", "male"): ("male", "men", "man", "boys"),
    ("departments", "emergency"): ("emergency department", "emergency room"),
    ("departments", "general"): ("general medicine", "general department"),
    ("departments", "research"): ("research department", "clinical research"),
}
#: Words about the shape of an answer and not its subject.
_SHAPE = "count share proportion number published treatment treatments group groups "
_AGES = "age ages aged old band bands "
_PLAIN = ("conditions", "treatments")
_AGE = re.compile(r"\b(age|ages|aged|years? old|how old|age bands?)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a question names. ``cells``: labels of single-label cards by card; ``words``: effects and outcomes.

    ``left`` are its telling words (stemmed) that nothing on the shelf covers.
    """

    counts: bool
    turned: bool
    by_age: bool
    cells: dict[str, list[tuple[str, ...]]]
    words: list[str]
    left: list[str]

    @property
    def topics(self) -> list[str]:
        return [label[0] for label in self.cells.get("treatments", ())]


def understand(question: str, shelf: Shelf, topics: list[str]) -> Asked:
    """Matches the question's phrases with the labels of the cards on the shelf and with ``topics``, those of notes."""
    names: list[tuple[str, str, str]] = []  # card, label, phrase
    for card in ("sex", "departments", *_PLAIN):
        labels = [label[0] for label in shelf.labels(card)]
        labels = list(dict.fromkeys([*labels, *topics])) if card == "treatments" else labels
        names += [(card, label, phrase) for label in labels for phrase in _ALSO.get((card, label), (label,))]
    known = list(dict.fromkeys(label[1] for label in shelf.labels("effects")))
    names += [("words", word, word) for word in known]
    texts = [phrase for _, _, phrase in names]
    hits = standing_in(question, phrases.phrase_queries(texts))
    meant = dict(zip(hits, phrases.lexemes([texts[hit] for hit in hits]), strict=True))
    # Of "dry cough" and "cough" the longer one is meant.
    hits = [hit for hit in hits if not any(meant[hit] < meant[other] for other in hits)]
    cells: dict[str, list[tuple[str, ...]]] = {}
    for hit in hits:
        card, label, _ = names[hit]
        if card != "words" and (label,) not in cells.setdefault(card, []):
            cells[card].append((label,))
    found = _words(cells, [names[hit][1] for hit in hits if names[hit][0] == "words"])
    covered = set().union(*(meant[hit] for hit in hits)) if hits else set()
    telling = [term for term in phrases.terms_of(question).telling if term not in covered]
    by_age = bool(_AGE.search(question))
    return Asked(
        counts=bool(_COUNTS.search(question)),
        turned=bool(_NEGATIONS.search(question)),
        by_age=by_age,
        cells=cells,
        words=found,
        left=_without(telling, _SHAPE + _AGES * by_age),
    )


def _words(cells: dict[str, list[tuple[str, ...]]], words: list[str]) -> list[str]:
    """The effects in question. What is a condition too ("migraine") is one only beside a treatment."""
    treated = "treatments" in cells
    conditions = {label[0] for label in cells.get("conditions", ())}
    if treated and conditions and conditions <= set(words):
        del cells["conditions"]
    treatments = {label[0] for label in cells.get("treatments", ())}
    return [word for word in words if (treated or word not in conditions) and word not in treatments]


def _without(terms: list[str], text: str) -> list[str]:
    silent: set[Any] = phrases.lexemes([text])[0]
    return [term for term in terms if term not in silent]
