"""Closed questions, keyword questions and counts from what was planted, each with a truth that leaves no doubt. Pure.

A question is asked only where the manifest of every hospital says the same: the truth holds for more than half of the
cohort, and no other answer on offer says the same or a part of it, or stands in the question itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from federation.node.demo_records.facts import PlantedFact, draw, ordered

Manifest = Mapping[str, Any]

SEED = 9
OPTIONS = (3, 5)
LEAST_COUNT = 5
PAIRS = 12
_EMPTY = frozenset("a an the of to by in on for at with was were is are it after".split())

#: Wordings by kind of fact and aspect; some hold further words, as questions do.
WORDINGS: dict[tuple[str, str], tuple[str, ...]] = {
    ("side_effect", "effect"): (
        "Which side effect did patients on {treatment} develop?",
        "What adverse reaction is most often reported with {treatment}?",
        "What did {treatment} cause?",
    ),
    ("side_effect", "remedy"): (
        "What resolved the side effect of {treatment}?",
        "What helped patients with the side effect of {treatment}?",
    ),
    ("side_effect", "course"): ("What became of the side effect of {treatment}?",),
    ("outcome", "effect"): (
        "What was the outcome of the {treatment}?",
        "What result did patients see with the {treatment}?",
    ),
    ("outcome", "remedy"): ("How soon did the {treatment} help?", "When was the outcome of the {treatment} seen?"),
    ("any", "dose"): ("What dose of {treatment} do patients take?", "How is {treatment} taken?"),
    ("any", "indication"): ("What is {treatment} given for?", "Why was {treatment} started?"),
}
_COURSE = ("resolved", "stayed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """A question with answers to choose from; ``options[truth]`` is the right one."""

    id: str
    fact: str
    aspect: str
    text: str
    options: tuple[str, ...]
    truth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Worded:
    """A question whose right answer is any of the ``accepted`` words of a public list."""

    id: str
    fact: str
    aspect: str
    text: str
    accepted: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A question for a number; ``truth`` by hospital."""

    id: str
    fact: str
    aspect: str
    text: str
    truth: Mapping[str, int]


def words_of(text: str) -> frozenset[str]:
    """The words of a text that tell something, in lower case."""
    return frozenset(re.findall(r"[^\W_]+", text.casefold())) - _EMPTY


def closed(manifests: Mapping[str, Manifest], facts: Sequence[PlantedFact]) -> list[Closed]:
    """Closed questions that every hospital's manifest answers alike, in the facts' order."""
    return [question for fact in facts for question in _closed_of(fact, manifests, facts)]


def listed(manifests: Mapping[str, Manifest], facts: Sequence[PlantedFact], terms: Sequence[str]) -> list[Closed]:
    """Closed questions about effects whose answers are all on the public list ``terms``, as those of the cards are."""
    known = [fact for fact in facts if fact.effect in set(terms)]
    return [question for question in closed(manifests, known) if question.aspect == "effect"]


def _closed_of(fact: PlantedFact, manifests: Mapping[str, Manifest], facts: Sequence[PlantedFact]) -> Iterator[Closed]:
    for (kind, aspect), wordings in WORDINGS.items():
        if kind not in ("any", fact.kind) or not _holds(aspect, fact.id, manifests):
            continue
        right = _COURSE[0] if aspect == "course" else str(getattr(fact, aspect))
        pool = _COURSE[1:] if aspect == "course" else _pool(fact, aspect, facts)
        for nth, wording in enumerate(wordings):
            text, name = wording.format(treatment=fact.treatment), f"{fact.id}/{aspect}/{nth}"
            wrong = _apart(right, ordered(SEED, name, pool), text)
            least = 1 if aspect == "course" else OPTIONS[0] - 1
            if len(wrong) < least or words_of(right) <= words_of(text):
                continue
            size = OPTIONS[0] + draw(SEED, name, "options") % (OPTIONS[1] - OPTIONS[0] + 1)
            options = ordered(SEED, f"{name}/place", [right, *wrong[: size - 1]])
            yield Closed(
                id=name, fact=fact.id, aspect=aspect, text=text, options=tuple(options), truth=options.index(right)
            )


def _holds(aspect: str, fact: str, manifests: Mapping[str, Manifest]) -> bool:
    """Whether the planted answer is that of more than half of the cohort at every hospital."""
    for manifest in manifests.values():
        told = manifest["facts"].get(fact)
        if told is None:
            return False
        for_it = {"effect": told["with_effect"], "remedy": told["resolved"]}.get(aspect, told["patients"])
        if aspect == "course":
            for_it = told["resolved"] if told["with_effect"] * 2 > told["patients"] else 0
        if not for_it * 2 > told["patients"]:
            return False
    return bool(manifests)


def _pool(fact: PlantedFact, aspect: str, facts: Sequence[PlantedFact]) -> list[str]:
    """The same aspect of other facts; those of the same kind first where there are enough of them."""
    others = [other for other in facts if other.id != fact.id]
    if aspect in ("effect", "remedy"):
        others = [other for other in others if other.kind == fact.kind]
    return list(dict.fromkeys(str(getattr(other, aspect)) for other in others))


def _apart(right: str, pool: Iterable[str], text: str) -> list[str]:
    """Answers that say neither the same as another, nor a part of it, nor what the question says."""
    asked, chosen = words_of(text), [words_of(right)]
    found = []
    for answer in pool:
        words = words_of(answer)
        if words and not words <= asked and not any(words <= other or other <= words for other in chosen):
            chosen.append(words)
            found.append(answer)
    return found


# --- words of a public list -----------------------------------------------------------------------------------------
def worded(manifests: Mapping[str, Manifest], facts: Sequence[PlantedFact], terms: Sequence[str]) -> list[Worded]:
    """Keyword questions about effects and remedies that ``terms`` has a word for."""
    found = []
    for fact in facts:
        for (kind, aspect), wordings in WORDINGS.items():
            if kind != fact.kind or aspect not in ("effect", "remedy") or not _holds(aspect, fact.id, manifests):
                continue
            for nth, wording in enumerate(wordings):
                text = wording.format(treatment=fact.treatment)
                name = f"{fact.id}/{aspect}/{nth}"
                if accepted := _accepted(str(getattr(fact, aspect)), aspect, terms, text):
                    found.append(Worded(id=name, fact=fact.id, aspect=aspect, text=text, accepted=accepted))
    return found


def _accepted(answer: str, aspect: str, terms: Sequence[str], text: str) -> frozenset[str]:
    """Terms that say the answer: of an effect all of it or its last word ("cough"), of a remedy words out of it.

    The last word of a longer effect says something else ("pain" of "walking without pain").
    """
    words, asked = words_of(answer), words_of(text)
    if aspect == "remedy":
        return frozenset(term for term in terms if words_of(term) <= words and not words_of(term) <= asked)
    named = {answer.casefold()} | ({answer.split()[-1].casefold()} if len(answer.split()) == 2 else set())
    return frozenset(named & set(terms))


# --- numbers --------------------------------------------------------------------------------------------------------
def counted(manifests: Mapping[str, Manifest], facts: Sequence[PlantedFact]) -> list[Counted]:
    """How many take a drug, had its side effect, or take two drugs: counts of three sizes, exact by the manifests."""
    found = []
    for fact in facts:
        told = {name: manifest["facts"][fact.id] for name, manifest in manifests.items()}
        everyone = {name: int(one["patients"]) for name, one in told.items()}
        text = f"How many patients take {fact.treatment}?"
        found.append(Counted(id=f"{fact.id}/all", fact=fact.id, aspect="all", text=text, truth=everyone))
        if fact.kind == "side_effect":  # a node counts no negation, and outcomes hold "without" and "fewer"
            affected = {name: int(one["with_effect"]) for name, one in told.items()}
            text = f"How many patients on {fact.treatment} had {fact.effect}?"
            found.append(Counted(id=f"{fact.id}/had", fact=fact.id, aspect="had", text=text, truth=affected))
    return found + _both(manifests, facts)


def _both(manifests: Mapping[str, Manifest], facts: Sequence[PlantedFact]) -> list[Counted]:
    """Pairs of drugs with at least ``LEAST_COUNT`` patients at every hospital, in a fixed random order."""
    treatments = {fact.id: fact.treatment for fact in facts}
    pairs = {f"{one}+{other}": (one, other) for one, other in combinations(treatments, 2)}
    found: list[Counted] = []
    for name in ordered(SEED, "pairs", pairs):
        one, other = pairs[name]
        truth = {
            hospital: len({*manifest["facts"][one]["members"]} & {*manifest["facts"][other]["members"]})
            for hospital, manifest in manifests.items()
        }
        if len(found) < PAIRS and min(truth.values()) >= LEAST_COUNT:
            text = f"How many patients take both {treatments[one]} and {treatments[other]}?"
            found.append(Counted(id=name, fact=name, aspect="both", text=text, truth=truth))
    return found
