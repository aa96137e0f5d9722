"""The words of questions and of public lists, stemmed by PostgreSQL. Functions of public text: no record is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection

MAX_QUESTION = 4000
MAX_TERMS = 24
#: Words of questions that say nothing about a record. Public, fixed, and stemmed by PostgreSQL like the rest.
SILENT_WORDS = (
    "patient patients hospital people person record records chart case cases common commonly often usual usually "
    "frequent frequently most main typical typically happen happens happened see seen saw report reported reports "
    "experience experienced know known tell describe summarize summarise summary list answer give given gave get got "
    "take taken taking took use used using start started treat treated treatment help helped helps make made work "
    "worked find found show showed question please short briefly sentence sentences one two three many much number "
    "percent year years week weeks day days month months doctor nurse clinician staff go away went gone come came"
)
#: Words that many records hold whatever they are about: they rank, but do not by themselves make a record relevant.
#: A fixed public list takes the place of corpus statistics, which would let one patient's record move another's score.
COMMON_WORDS = (
    "side effect effects adverse reaction reactions event symptom symptoms sign develop developed resolve resolved "
    "improve improved improvement worsen outcome outcomes result results response respond cause caused drug drugs "
    "medicine medicines medication medications therapy dose doses dosage condition diagnosis disease disorder problem "
    "complication complications follow followed visit care clinical acute chronic history level change changed stop "
    "stopped reduce reduced increase increased high low risk need needed test tests management manage managed"
)
_TERMS = (
    "SELECT lexeme, lexeme = ANY (tsvector_to_array(to_tsvector('english', %(common)s))) "
    "FROM unnest(to_tsvector('english', %(question)s)) "
    "WHERE lexeme <> ALL (tsvector_to_array(to_tsvector('english', %(silent)s))) "
    "ORDER BY positions[1], lexeme LIMIT %(limit)s"
)
_LEXEMES = (
    "SELECT n, lexeme, position FROM unnest(%s::text[]) WITH ORDINALITY AS q (phrase, n),"
    " unnest(to_tsvector('english', phrase)) AS t (lexeme, positions, weights), unnest(positions) AS p (position)"
    " ORDER BY n, position"
)


@dataclass(frozen=True, slots=True)
class Terms:
    """A question's stemmed words in its order: the telling ones, and all of them, quoted as tsquery operands.

    When a question has only common words, these are the telling ones.
    """

    telling: list[str]
    all: list[str]

    def parameters(self) -> dict[str, Any]:
        """What the statements of this module ask for."""
        return {
            "telling": self.telling,
            "all": self.all,
            "any_telling": " | ".join(self.telling),
            "any": " | ".join(self.all),
            "least": (len(self.telling) + 1) // 2,
        }


def terms_of(question: str) -> Terms:
    """The words of a question that a record can match, at most ``MAX_TERMS``."""
    text = question[:MAX_QUESTION].replace("\x00", " ").encode("utf-8", "replace").decode()
    values: dict[str, Any] = {"question": text, "common": COMMON_WORDS, "silent": SILENT_WORDS, "limit": MAX_TERMS}
    with connection.cursor() as cursor:
        cursor.execute(_TERMS, values)
        rows: list[tuple[str, bool]] = cursor.fetchall()
    everything = [quoted(term) for term, _ in rows]
    return Terms([quoted(term) for term, common in rows if not common] or everything, everything)


def quoted(term: str) -> str:
    """A lexeme as a quoted tsquery operand, so that no character of a question acts as an operator."""
    return "'" + term.replace("\\", "\\\\").replace("'", "''") + "'"


def matched_words(question: str) -> list[str]:
    """The question's own words that records are matched by, in its order; a function of public text."""
    telling = set(terms_of(question).telling)
    # lower() as PostgreSQL does it: casefold() would make other words of a Greek final sigma or a German sharp s.
    words = list(dict.fromkeys(re.findall(r"[^\W_]+", question.lower())))
    return [word for word, found in zip(words, lexemes(words), strict=True) if found and found <= telling]


def _rows(phrases: Sequence[str]) -> list[list[tuple[str, int]]]:
    """Each phrase's stemmed words, quoted, with their places in it; empty for one that has no telling word."""
    found: list[list[tuple[str, int]]] = [[] for _ in phrases]
    with connection.cursor() as cursor:
        texts = [phrase.replace("\0", " ").encode("utf-8", "replace").decode() for phrase in phrases]
        cursor.execute(_LEXEMES, [texts])
        for number, lexeme, position in cursor.fetchall():
            found[number - 1].append((quoted(lexeme), position))
    return found


def lexemes(phrases: Sequence[str]) -> list[set[str]]:
    """Each phrase's stemmed words; a function of public text."""
    return [{lexeme for lexeme, _ in row} for row in _rows(phrases)]


def phrase_queries(phrases: Sequence[str]) -> list[str]:
    """Each as a tsquery of its words in their order. Between two words one more may stand ("dose was reduced"); words
    that only stand in the same line ("dry cough, by mouth") are no phrase. One without words matches nothing.
    """
    return [_query(row) for row in _rows(phrases)]


def _query(row: list[tuple[str, int]]) -> str:
    if len(row) == 2:
        (first, here), (second, there) = row
        gap = there - here
        return f"({first} <{gap}> {second}) | ({first} <{gap + 1}> {second})"
    parts = [row[0][0]] if row else [""]
    for (_, before), (lexeme, position) in zip(row, row[1:], strict=False):
        parts.append(f" <{position - before}> {lexeme}")
    return "".join(parts)
