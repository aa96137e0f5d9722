"""What many patients' records say, as whole numbers of patients; never to be shown without noise.

Each patient's part in every number here is a function of their own record and of public text alone: no corpus
statistics, no limit shared between patients. Replacing one patient's record moves a count by at most one, a histogram
of votes by at most one in each of two cells, and each word's count by at most one, which is what the plans of
``privacy.dp.cohort_plans`` pay for.
"""

from __future__ import annotations

from collections.abc import Sequence

from django.db import connection

from federation.node.phrases import lexemes as lexemes
from federation.node.phrases import matched_words as matched_words
from federation.node.phrases import phrase_queries, terms_of

_COVER = "(SELECT count(*) FROM unnest(%(telling)s::text[]) AS t (term) WHERE p.vector @@ t.term::tsquery)"
#: The patients that a question is about, each with the lines of the record that speak of it, a vector each.
_COHORT = f"""
SELECT p.id, ARRAY(SELECT v FROM unnest(p.lines) AS l (line), LATERAL (SELECT to_tsvector('english', l.line)) AS t (v)
    WHERE v @@ %(any_telling)s::tsquery) AS said
FROM node_patient p
WHERE p.block = ANY(%(blocks)s) AND p.vector @@ %(any_telling)s::tsquery AND {_COVER} >= %(least)s
"""  # noqa: S608 - constants of this module only
_COUNT = "SELECT count(*) FROM node_patient p WHERE p.block = ANY(%(blocks)s) AND p.vector @@ %(all_telling)s::tsquery"
#: For each patient of the cohort, which of the phrases one of the relevant lines holds.
_HELD = f"""
WITH c AS MATERIALIZED ({_COHORT})
SELECT array_agg(q.n) FILTER (WHERE q.n IS NOT NULL)
FROM c
LEFT JOIN unnest(%(phrases)s::text[]) WITH ORDINALITY AS q (phrase, n)
    ON EXISTS (SELECT 1 FROM unnest(c.said) AS s (v) WHERE s.v @@ q.phrase::tsquery) GROUP BY c.id
"""  # noqa: S608 - constants of this module only


def count(question: str, blocks: Sequence[int]) -> int:
    """How many records of these blocks' patients hold every telling word of the question."""
    terms = terms_of(question)
    if not terms.telling:
        return 0
    with connection.cursor() as cursor:
        cursor.execute(_COUNT, {"all_telling": " & ".join(terms.telling), "blocks": list(blocks)})
        return int(cursor.fetchone()[0])


def votes(question: str, options: Sequence[str], blocks: Sequence[int]) -> list[int]:
    """One vote for each patient of these blocks whom the question is about.

    ``len(options)`` numbers, and last "none or several". A patient votes for the only option that stands in a line of
    their record that speaks of the question; for none of them when it is several or none.
    """
    found = [0] * (len(options) + 1)
    for held in _held(question, options, blocks):
        found[held[0] - 1 if len(held) == 1 else -1] += 1
    return found


def held_by(question: str, words: Sequence[str], blocks: Sequence[int]) -> list[int]:
    """For each of the words (or phrases), how many patients of these blocks whom the question is about have it there.

    A word that stands in the question itself gets 0: it would tell nothing.
    """
    found = [0] * len(words)
    for held in _held(question, words, blocks):
        for number in held:
            found[number - 1] += 1
    asked = set(terms_of(question).all)
    return [0 if words_in <= asked else n for n, words_in in zip(found, lexemes(words), strict=True)]


def _held(question: str, phrases: Sequence[str], blocks: Sequence[int]) -> list[list[int]]:
    """For each patient whom the question is about, the places (from 1) of the phrases in their relevant lines."""
    terms = terms_of(question)
    if not terms.telling:
        return []
    with connection.cursor() as cursor:
        cursor.execute(_HELD, terms.parameters() | {"phrases": phrase_queries(phrases), "blocks": list(blocks)})
        return [row[0] or [] for row in cursor.fetchall()]
