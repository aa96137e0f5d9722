"""How good a release is, beside a known truth: facts found, odd records never, perplexity, words covered. Pure.

For synthetic hospitals, where a manifest says what was planted. Nothing here may be shown of real patients: all but the
perplexity of published notes is computed from records without noise.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_SILENT = frozenset(
    "a an the of to by in on for at with was were is are it and or after had has have patient patients".split()
)


@dataclass(frozen=True, slots=True)
class Fact:
    """What was planted about a topic. A text tells it when it holds one word (or phrase) of each list of ``terms``."""

    topic: str
    terms: tuple[tuple[str, ...], ...]

    def told(self, text: str) -> list[bool]:
        """For each list whether the text holds one of it."""
        held = text.casefold()
        return [any(word.casefold() in held for word in words) for words in self.terms]


def canaries_in(texts: Iterable[str], words: Iterable[str]) -> list[str]:
    """The words of odd single records that stand in any of the texts; must be none."""
    held = " ".join(texts).casefold()
    return sorted({word for word in words if re.search(rf"\b{re.escape(word.casefold())}\b", held)})


def words_of(text: str) -> list[str]:
    """The words of a text that tell something, in lower case, numbers left out."""
    return [word for word in re.findall(r"[^\W\d_]+", text.casefold()) if word not in _SILENT]


def coverage(note: str, records: Sequence[str], most: int = 20) -> float:
    """Share of the ``most`` words that most records hold which the note holds too; 0 for no records."""
    held = Counter(word for record in records for word in set(words_of(record)))
    common = [word for word, _ in sorted(held.items(), key=lambda item: (-item[1], item[0]))[:most]]
    return sum(word in words_of(note) for word in common) / len(common) if common else 0.0


def distinct(texts: Iterable[str]) -> float:
    """Different words over all words (0 for no words): near 0 where a text repeats itself."""
    words = [word for text in texts for word in words_of(text)]
    return len(set(words)) / len(words) if words else 0.0


def perplexity(log_probabilities: Iterable[float]) -> float:
    """exp of the mean negative log-probability (nats) of tokens; infinite for none."""
    found = list(log_probabilities)
    return math.exp(-sum(found) / len(found)) if found else math.inf
