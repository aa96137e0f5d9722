"""Understanding a question by public words alone: which topics, effects and groups of people of the shelf it names."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from federation.choosing import NEGATIONS, NUMBERS, SHARES
from federation.node import phrases
from federation.node.released.shelf import Shelf, standing_in

#: How people name what a card's cell is called by its code.
_ALSO = {
    ("sex", "female"): ("female", "women", "woman", "girls"),
    ("sex", "male"): ("male", "men", "man", "boys"),
    ("departments", "emergency"): ("emergency department", "emergency room"),
    ("departments", "general"): ("general medicine", "general department"),
    ("departments", "research"): ("research department", "clinical research"),
}
#: The words that may stand in a question for a figure and leave what it counts as it is. Any other word, as "stopped",
#: "before" or "both", would be dropped, so that the figure answered another question than was asked.
_PLAIN = frozenset(
    "a an the this of in on at with by per for from and or who whom that which what whats how many is are was were be"
    " been has have had having do does did there here our we us i you your me tell give show count counted number"
    " numbers total overall all any each every patient patients people person persons individual individuals case cases"
    " record records recorded chart charts published group groups seen see known know registered".split()
)
#: Those that do so only beside something of their sort: "women who take medicines" are not the women.
_OF_SORT = {
    "treatments": frozenset(
        "treatment treatments drug drugs medicine medicines medication medications take takes taking took taken use"
        " uses using used get gets getting got given receive receives receiving received treated prescribed".split()
    ),
    "effects": frozenset(
        "effect effects side adverse unwanted reaction reactions event events symptom symptoms outcome outcomes develop"
        " develops developed experience experienced report reported note noted".split()
    ),
    "conditions": frozenset(
        "condition conditions diagnosis diagnosed suffer suffers suffered develop developed".split()
    ),
    "departments": frozenset("department departments".split()),
}
_OF_CHOICE = frozenset(
    "most often more common commonly frequent frequently usual usually typical typically cause causes caused result "
    "results largest".split()
)
#: Taken out before words are looked at, because of their words only these may go: "could take", "in hospital".
_POLITE = re.compile(
    r"\b(please|(can|could) you)\b|\b(at|of) the hospital\b|\b(this|our|your) hospital\b", re.IGNORECASE
)
_OF_AGE = frozenset("age ages aged old years year band bands".split())
_OF_SHARE = frozenset("share proportion percentage percent per cent fraction part large big great high".split())
_TOLD = 6  # words that a refusal repeats at most
_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_LISTS = ("conditions", "treatments")
_AGE = re.compile(r"\b(age|ages|aged|years? old|how old|age bands?)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a question names. ``cells``: labels of single-label cards by card; ``words``: effects and outcomes.

    ``turned`` is the word that turns it round. ``left`` are its own words that no figure covers and that may change
    what is counted, in their order.
    """

    counts: bool
    share: bool
    turned: str
    by_age: bool
    cells: dict[str, list[tuple[str, ...]]]
    words: list[str]
    left: list[str]

    @property
    def topics(self) -> list[str]:
        return [label[0] for label in self.cells.get("treatments", ())]


def understand(question: str, shelf: Shelf, topics: list[str], *, choice: bool = False) -> Asked:
    """Matches the question's phrases with the labels of the cards on the shelf and with ``topics``, those of notes.

    ``choice``: it comes with answers to choose from, so that it may ask for the most frequent one.
    """
    names: list[tuple[str, str, str]] = []  # card, label, phrase
    for card in ("sex", "departments", *_LISTS):
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
    by_age, share, turned = bool(_AGE.search(question)), bool(SHARES.search(question)), NEGATIONS.search(question)
    plain = _plain(cells, found, choice=choice, share=share, by_age=by_age)
    return Asked(
        counts=share or bool(NUMBERS.search(question)),
        share=share,
        turned=turned.group() if turned else "",
        by_age=by_age,
        cells=cells,
        words=found,
        left=_uncovered(question, covered, plain),
    )


def _words(cells: dict[str, list[tuple[str, ...]]], words: list[str]) -> list[str]:
    """The effects in question. What is a condition too ("migraine") is one only beside a treatment."""
    treated = "treatments" in cells
    conditions = {label[0] for label in cells.get("conditions", ())}
    if treated and conditions and conditions <= set(words):
        del cells["conditions"]
    treatments = {label[0] for label in cells.get("treatments", ())}
    return [word for word in words if (treated or word not in conditions) and word not in treatments]


def _plain(cells: Collection[str], words: Sequence[str], *, choice: bool, share: bool, by_age: bool) -> set[str]:
    """The words that change nothing beside what was found in the question."""
    plain = set(_PLAIN) | (_OF_CHOICE if choice else set()) | (_OF_SHARE if share else set())
    plain |= _OF_AGE if by_age and not cells and not words else set()
    sorts = {*cells, *(("treatments", "effects") if words else ())}
    for sort, named in _OF_SORT.items():
        plain |= named if choice or sort in sorts else set()
    return plain


def _uncovered(question: str, covered: Collection[str], plain: Collection[str]) -> list[str]:
    """The question's words, as they are written, that are neither plain nor in a phrase that was found."""
    words = [word for word in _WORD.findall(_POLITE.sub(" ", question)) if _plainly(word) not in plain]
    stems = phrases.lexemes(words) if words else []
    left = [word for word, found in zip(words, stems, strict=True) if not found or not found <= set(covered)]
    return list(dict.fromkeys(word[:40] for word in left))[:_TOLD]


def _plainly(word: str) -> str:
    """Without case and possessive: "What\u2019s" and "hospital's" are "what" and "hospital"."""
    return re.sub(r"['\u2019]s?$", "", word.lower())
