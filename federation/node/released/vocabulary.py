"""The public words that releases are made of: topics, effects, conditions, and the cells of each card.

Everything here is a function of files that come with the program and of a release's plan. Nothing looks at a record.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fdrouter.errors import Conflict, InvalidParameter
from federation.node import terms
from federation.node.models import Department, Sex
from privacy.dp.release_plans import Card

TOPICS, WORDS, CONDITIONS = "topics-1", "clinical-1", "conditions-1"
MAX_TOPICS = 100
_BANDS = tuple(range(0, 100, 10))
UNKNOWN_AGE = "age not known"
#: How a plan names the way in which cells are chosen of a patient who is in more than count. Plans without it are
#: older: of those the first ones in the card's order count.
CHOSEN = "hash-1"
#: Cards that every patient is in one cell of.
ONE_EACH = ("sex", "age")


@dataclass(frozen=True, slots=True)
class CardCells:
    """A card: what it counts, the label of every cell, and in how many of them one patient is counted at most.

    Of a patient who is in more cells a hash of their own chooses (:mod:`contributions`). The numbers follow from a
    measurement (ADR 0023): more cells are more noise on every figure, fewer leave more patients out.
    """

    name: str
    title: str
    labels: tuple[tuple[str, ...], ...]
    max_cells: int

    @property
    def card(self) -> Card:
        return Card(self.name, len(self.labels), self.max_cells)


@dataclass(frozen=True, slots=True)
class Lists:
    """The word lists of a release by name, and which of the topics it is about."""

    topics: tuple[str, ...]
    topics_list: str = TOPICS
    words_list: str = WORDS
    conditions_list: str = CONDITIONS

    def to_json(self) -> dict[str, Any]:
        """For the release's plan: names, the digest of each list's words, and the topics."""
        names = (self.topics_list, self.words_list, self.conditions_list)
        return {"topics": list(self.topics), "lists": [[name, digest_of(name)] for name in names]}


def topics_of(name: str) -> dict[str, bool]:
    """The topics of a list in its order, each with whether its outcome is asked for (and not a side effect)."""
    found = (line.partition(" = ") for line in terms.words_of(name))
    return {topic: asked == "outcome" for topic, _, asked in found}


def digest_of(name: str) -> str:
    """SHA-256 of a list's words in their order."""
    return hashlib.sha256("\n".join(terms.words_of(name)).encode()).hexdigest()


def lists_for(topics: Sequence[str] | None = None) -> Lists:
    """The present lists with these topics, or with all of the topics' list.

    Raises:
        InvalidParameter: a topic that is not on the list.
    """
    known = list(topics_of(TOPICS))
    wanted = [" ".join(topic.casefold().split()) for topic in topics] if topics else known
    if unknown := [topic for topic in wanted if topic not in known]:
        raise InvalidParameter(f"{unknown[0][:80]!r} is not on the list of topics {TOPICS}.", field="topics")
    chosen = tuple(topic for topic in known if topic in wanted)
    if len(chosen) > MAX_TOPICS:
        raise InvalidParameter(f"A release may have at most {MAX_TOPICS} topics.", field="topics")
    return Lists(chosen)


def lists_of(stored: dict[str, Any]) -> Lists:
    """The lists that a release was planned with.

    Raises:
        Conflict: one of them has other words now than when the release was planned.
    """
    names = [name for name, _ in stored["lists"]]
    if any(digest_of(name) != digest for name, digest in stored["lists"]):
        raise Conflict("A word list has changed since this release was planned. Plan a new one.")
    return Lists(tuple(stored["topics"]), *names)


def conditions(lists: Lists) -> tuple[tuple[str, str], ...]:
    """ICD-10 category and name of each condition."""
    found = (line.partition(" ") for line in terms.words_of(lists.conditions_list))
    return tuple((code, name) for code, _, name in found)


def words(lists: Lists) -> tuple[str, ...]:
    """Effects and outcomes."""
    return terms.words_of(lists.words_list)


def age_label(born: int | None, year: int) -> str:
    """The ten-year band of somebody born in that year, in the public ``year`` of the release's plan."""
    if born is None or not 0 <= year - born <= 130:
        return UNKNOWN_AGE
    low = min((year - born) // 10 * 10, _BANDS[-1])
    return f"age {low} and over" if low == _BANDS[-1] else f"age {low} to {low + 9}"


def cards_of(lists: Lists) -> tuple[CardCells, ...]:
    """All cards, in the order of their cells in the release's vector."""
    ages = [f"age {low} to {low + 9}" for low in _BANDS[:-1]] + [f"age {_BANDS[-1]} and over", UNKNOWN_AGE]
    return (
        CardCells("sex", "patients by sex", tuple((str(sex),) for sex in Sex.values), 1),
        CardCells("age", "patients by age", tuple((age,) for age in ages), 1),
        CardCells("departments", "patients by department", tuple((str(d),) for d in Department.values), 6),
        CardCells("conditions", "patients by condition", tuple((name,) for _, name in conditions(lists)), 6),
        CardCells(
            "treatments", "patients by treatment", tuple((topic,) for topic in lists.topics), min(8, len(lists.topics))
        ),
        CardCells(
            "effects",
            "patients by treatment and what is noted with it",
            tuple((topic, word) for word in words(lists) for topic in lists.topics),
            16,
        ),
    )
