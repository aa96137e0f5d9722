"""What each patient of a block adds to a release: cells of cards, a group of a corpus. The private side of a release.

Each patient's part is a function of their own record, of public lists and, for groups, ranks and the cells that count
of too many, of a keyed hash of their own id: no corpus statistics, nothing shared between patients but the places in a
group's slots, which go by rank (:mod:`privacy.dp.release_plans` has the proofs that build on this).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from uuid import UUID

from django.db import connection

from fdrouter import crypto
from federation.node import phrases, search
from federation.node.models import CareAssignment, Patient, Sex
from federation.node.released import vocabulary
from federation.node.released.models import Release, ReleaseMember
from federation.node.released.vocabulary import CardCells, Lists

#: The patients of a block who have a line about the topic, with those lines, a vector each.
_SAID = """
WITH c AS MATERIALIZED (
    SELECT p.id, p.reference, ARRAY(SELECT v FROM unnest(p.lines) AS l (line),
        LATERAL (SELECT to_tsvector('english', l.line)) AS t (v) WHERE v @@ %(topic)s::tsquery) AS said
    FROM node_patient p WHERE p.block = %(block)s AND p.vector @@ %(topic)s::tsquery)
"""
_SPEAKS = f"{_SAID} SELECT reference FROM c WHERE cardinality(said) > 0"  # noqa: S608 - constants of this module only
_HELD = f"""{_SAID}
SELECT c.reference, array_agg(q.n) FILTER (WHERE q.n IS NOT NULL) FROM c
LEFT JOIN unnest(%(phrases)s::text[]) WITH ORDINALITY AS q (phrase, n)
    ON EXISTS (SELECT 1 FROM unnest(c.said) AS s (v) WHERE s.v @@ q.phrase::tsquery)
WHERE cardinality(c.said) > 0 GROUP BY c.reference
"""  # noqa: S608 - constants of this module only
_ICD_CATEGORY = 3  # characters of an ICD-10 code that name its category


def lot(release: UUID, card: CardCells) -> Callable[[str, int], bytes]:
    """The lot of a patient's cell, by their reference and its place: of a patient in too many cells the smallest count.

    It hashes release, patient and label, so it depends on no other patient and on no order of names: no name is left
    out more often than another, and another release leaves out others. What a patient adds is still a function of their
    own record and id, at most ``max_cells`` cells whatever the lots are; the promise does not need them to be secret.
    """
    return lambda patient, place: _hash(release, patient, "cell", card.name, *card.labels[place])


def cells(card: CardCells, lists: Lists, block: int, year: int) -> dict[str, list[int]]:
    """For each patient of the block, by reference, the places of all cells of the card that they are in.

    Patients in none may be missing.

    Raises:
        KeyError: the card is not one of :func:`vocabulary.cards_of`.
    """
    return {
        "sex": lambda: _one_each(card, block, lambda born, sex: sex if sex in Sex.values else Sex.UNKNOWN.value),
        "age": lambda: _one_each(card, block, lambda born, sex: vocabulary.age_label(born, year)),
        "departments": lambda: _departments(card, block),
        "conditions": lambda: _conditions(lists, block),
        "treatments": lambda: _treatments(lists, block),
        "effects": lambda: _effects(lists, block),
    }[card.name]()


def _places(card: CardCells) -> dict[str, int]:
    return {label[0]: place for place, label in enumerate(card.labels)}


def _one_each(card: CardCells, block: int, label: Callable[[int | None, str], str]) -> dict[str, list[int]]:
    place = _places(card)
    rows = Patient.objects.filter(block=block).values_list("reference", "birth_year", "sex")
    return {patient: [place[label(born, sex)]] for patient, born, sex in rows.iterator()}


def _departments(card: CardCells, block: int) -> dict[str, list[int]]:
    place, found = _places(card), defaultdict(list)
    rows = CareAssignment.objects.filter(patient__block=block).values_list("patient__reference", "department")
    for patient, department in rows.iterator():
        found[patient].append(place[department])
    return found


def _conditions(lists: Lists, block: int) -> dict[str, list[int]]:
    place = {code: n for n, (code, _) in enumerate(vocabulary.conditions(lists))}
    rows = Patient.objects.filter(block=block).values_list("reference", "codes")
    short = ((patient, [code[:_ICD_CATEGORY] for code in codes]) for patient, codes in rows)
    return {patient: [place[code] for code in codes if code in place] for patient, codes in short}


def _treatments(lists: Lists, block: int) -> dict[str, list[int]]:
    spoken = topics_of(lists.topics, block)
    place = {topic: n for n, topic in enumerate(lists.topics)}
    return {patient: [place[topic] for topic in topics] for patient, topics in spoken.items()}


def _effects(lists: Lists, block: int) -> dict[str, list[int]]:
    """Cell (topic, word) for each word that one line of the record holds together with the topic."""
    words = vocabulary.words(lists)
    found: dict[str, list[int]] = defaultdict(list)
    queries, meant = phrases.phrase_queries(words), phrases.lexemes(words)
    for nth, topic in enumerate(lists.topics):
        own = phrases.lexemes([topic])[0]
        values = {"topic": phrases.phrase_queries([topic])[0], "phrases": queries, "block": block}
        for reference, held in _rows(_HELD, values):
            told = [n - 1 for n in held or () if not meant[n - 1] <= own]  # a topic says nothing about itself
            found[reference] += [word * len(lists.topics) + nth for word in told]
    return found


def topics_of(topics: Sequence[str], block: int) -> dict[str, list[str]]:
    """Which of the topics each patient's record speaks of, by reference; patients of none are left out."""
    found: dict[str, list[str]] = defaultdict(list)
    for topic in topics:
        values = {"topic": phrases.phrase_queries([topic])[0], "block": block}
        for (reference,) in _rows(_SPEAKS, values):
            found[reference].append(topic)
    return found


def _rows(sql: str, values: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        yield from cursor.fetchall()


# --- groups of a corpus ---------------------------------------------------------------------------------------------
def _hash(release: UUID, *parts: str) -> bytes:
    """A keyed hash: who does not have the node's key cannot tell it, and another release's is another one."""
    return crypto.fingerprint("release-group", b"\0".join([release.bytes, *(part.encode() for part in parts)]))


def assign(release: Release, topics: Sequence[str], parts: int) -> None:
    """Puts every patient of the block whose record speaks of a topic into one group, for good.

    Of several topics of a record the one counts whose keyed hash with the patient's reference is smallest.
    """
    members = []
    for reference, spoken in topics_of(topics, release.block).items():
        topic = min(spoken, key=lambda name: _hash(release.pk, reference, "topic", name))
        part = int.from_bytes(_hash(release.pk, reference, "part")[:8]) % parts
        rank = _hash(release.pk, reference, "rank")
        members.append(ReleaseMember(release=release, patient=reference, topic=topic, part=part, rank=rank))
    ReleaseMember.objects.bulk_create(members, batch_size=1000)


def excerpts(release: Release, topic: str, part: int, question: str, slots: int) -> list[str]:
    """The records of a group's first ``slots`` members by rank, each cut to what speaks of the question.

    A member whose record is gone, or was moved to another block, leaves the slot empty.
    """
    chosen = ReleaseMember.objects.filter(release=release, topic=topic, part=part).order_by("rank")[:slots]
    references = list(chosen.values_list("patient", flat=True))
    here = set(
        Patient.objects.filter(reference__in=references, block=release.block).values_list("reference", flat=True)
    )
    found = (search.excerpt(reference, question) for reference in references if reference in here)
    return [text for text in found if text is not None]
