"""What this hospital has published, read without looking at any patient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection

from federation.node.released import publish, vocabulary
from federation.node.released.models import NoteState, Release, ReleasedCard, ReleasedNote, ReleaseKind
from federation.node.released.states import ReleaseState
from privacy.dp.release_plans import CONFIDENCE, CardsPlan

_STANDS = (
    "SELECT n FROM unnest(%(phrases)s::text[]) WITH ORDINALITY AS q (phrase, n)"
    " WHERE phrase <> '' AND to_tsvector('english', %(text)s) @@ phrase::tsquery ORDER BY n"
)

_HOLDING = (
    "SELECT id FROM node_releasednote WHERE release_id = ANY(%(releases)s) AND state = 'done'"
    " AND vector @@ %(query)s::tsquery ORDER BY ts_rank(vector, %(query)s::tsquery) DESC, topic, part, id"
    " LIMIT %(limit)s"
)


@dataclass(frozen=True, slots=True)
class Figure:
    """A number of patients over all blocks with cards, with noise, and the noise's sigma and band (95 %)."""

    labels: tuple[str, ...]
    count: int
    sigma: float
    band: int

    @property
    def low(self) -> int:
        return max(0, self.count - self.band)

    @property
    def high(self) -> int:
        return max(0, self.count + self.band)


@dataclass(frozen=True, slots=True, order=True)
class Limit:
    """How many of a card's cells a patient is counted in at most, and whether a hash chooses them.

    Releases of before that was so have the first ones in the card's order.
    """

    max_cells: int
    by_hash: bool


@dataclass(frozen=True, slots=True)
class Shelf:
    """The newest published cards and notes of each block."""

    cards: tuple[Release, ...]
    corpora: tuple[Release, ...]
    tables: dict[str, list[tuple[Release, ReleasedCard]]]

    def labels(self, card: str) -> list[tuple[str, ...]]:
        """Labels of a card's cells in any block, in their order, each once."""
        found = [tuple(label) for _, table in self.tables.get(card, ()) for label in table.labels]
        return list(dict.fromkeys(found))

    def figures(self, card: str, labels: Iterable[tuple[str, ...]] | None = None) -> list[Figure]:
        """The figures of these cells, or of all. A cell that a block's card does not have adds nothing."""
        wanted = list(self.labels(card) if labels is None else labels)
        total: dict[tuple[str, ...], tuple[int, float, list[int]]] = {}
        for release, table in self.tables.get(card, ()):
            plan = publish.plan_of(release)
            if not isinstance(plan, CardsPlan):
                continue
            place = {tuple(label): n for n, label in enumerate(table.labels)}
            for label in wanted:
                if (nth := place.get(label)) is not None:
                    count, variance, bands = total.get(label, (0, 0.0, []))
                    total[label] = (count + table.counts[nth], variance + plan.sigma**2, [*bands, plan.band])
        return [
            Figure(label, count, math.sqrt(variance), bands[0] if len(bands) == 1 else band_of(math.sqrt(variance)))
            for label, (count, variance, bands) in total.items()
        ]

    def total(self) -> Figure | None:
        """All patients counted: the card by sex has each of them in one cell. None without that card."""
        cells = self.figures("sex")
        if not cells:
            return None
        sigma = math.sqrt(sum(figure.sigma**2 for figure in cells))
        return Figure(("all patients",), sum(figure.count for figure in cells), sigma, band_of(sigma))

    def limits(self, card: str) -> list[Limit]:
        """The limits of a card, of each block's release; none where a patient is counted in all cells they are in."""
        found: set[Limit] = set()
        for release, _ in self.tables.get(card, ()):
            plan = publish.plan_of(release)
            if isinstance(plan, CardsPlan) and card not in vocabulary.ONE_EACH:
                of = next(one for one in plan.cards if one.name == card)
                by_hash = release.plan.get("cells_chosen") == vocabulary.CHOSEN
                found |= {Limit(of.max_cells, by_hash)} if of.max_cells < of.cells else set()
        return sorted(found)

    def years(self) -> set[int]:
        """The years that the ages on the shelf are of."""
        return {release.plan["year"] for release in self.cards}

    def releases_with(self, cards: Iterable[str]) -> list[Release]:
        """The releases that any of these cards come from."""
        found = {release.pk: release for card in cards for release, _ in self.tables.get(card, ())}
        return list(found.values())


def band_of(sigma: float, cells: int = 1) -> int:
    """A bound that the noise of ``cells`` cells at once stays within, in 95 of 100 cases.

    Sums of discrete Gaussians are subgaussian of their root sum of squares (Canonne, Kamath and Steinke, arXiv
    2004.00010, corollary 17), so this holds for sums over blocks too; for one cell it is wider than the plan's.
    """
    return math.ceil(sigma * math.sqrt(2 * math.log(2 * cells / (1 - CONFIDENCE))))


def load() -> Shelf:
    """What is published now."""
    published = Release.objects.filter(state=ReleaseState.PUBLISHED).order_by("block", "published_at")
    newest = {(release.kind, release.block): release for release in published}
    cards = tuple(release for (kind, _), release in newest.items() if kind == ReleaseKind.CARDS)
    corpora = tuple(release for (kind, _), release in newest.items() if kind == ReleaseKind.CORPUS)
    tables: dict[str, list[tuple[Release, ReleasedCard]]] = {}
    by_id = {release.pk: release for release in cards}
    for table in ReleasedCard.objects.filter(release__in=cards).order_by("release__block"):
        tables.setdefault(table.name, []).append((by_id[table.release_id], table))
    return Shelf(cards, corpora, tables)


def standing_in(text: str, queries: Sequence[str]) -> list[int]:
    """Places (from 0) of the phrase queries that the public ``text`` holds."""
    with connection.cursor() as cursor:
        cursor.execute(_STANDS, {"phrases": list(queries), "text": text})
        return [row[0] - 1 for row in cursor.fetchall()]


def notes(corpora: Sequence[Release], topics: Sequence[str]) -> list[ReleasedNote]:
    """The notes about these topics."""
    rows = ReleasedNote.objects.filter(release__in=corpora, state=NoteState.DONE, topic__in=topics)
    return list(rows.select_related("release").order_by("topic", "part", "release__block"))


def notes_holding(corpora: Sequence[Release], query: str, limit: int) -> list[ReleasedNote]:
    """The notes that match a text-search query, those that match best first."""
    values: dict[str, Any] = {"query": query, "releases": [release.pk for release in corpora], "limit": limit}
    with connection.cursor() as cursor:
        cursor.execute(_HOLDING, values)
        ids = [row[0] for row in cursor.fetchall()]
    found = ReleasedNote.objects.select_related("release").in_bulk(ids)
    return [found[pk] for pk in ids]


def topics(corpora: Sequence[Release]) -> list[str]:
    """The topics that there are notes about."""
    rows = ReleasedNote.objects.filter(release__in=corpora, state=NoteState.DONE)
    return list(rows.order_by("topic").values_list("topic", flat=True).distinct())


def listing() -> list[dict[str, Any]]:
    """The published releases for the health document, newest first: public figures only."""
    rows = Release.objects.filter(state=ReleaseState.PUBLISHED).order_by("-published_at")
    return [_told(release) for release in rows]


def _countable(release: Release) -> list[str]:
    """The words that have a figure of their own: an effect has one beside a treatment only."""
    tables = release.cards.filter(name__in=("conditions", "treatments")).order_by("name")
    return list(dict.fromkeys(label[0] for table in tables for label in table.labels))


def _told(release: Release) -> dict[str, Any]:
    told = {
        "id": str(release.pk),
        "kind": release.kind,
        "block": release.plan["block"],
        "epsilon": release.epsilon,
        "delta": release.delta,
        "published_at": release.published_at.isoformat(timespec="seconds") if release.published_at else None,
        "statement": (release.statement or {}).get("digest"),
        "topics": release.plan["topics"],
    }
    if release.kind == ReleaseKind.CARDS:
        plan = publish.plan_of(release)
        cards = [{"name": name, "cells": cells} for name, cells, _ in plan.parameters["cards"]]
        return told | {"cards": cards, "band": plan.parameters["band"], "notes": 0, "words": _countable(release)}
    done = list(release.notes.filter(state=NoteState.DONE).order_by("topic").values_list("topic", flat=True))
    return told | {"topics": list(dict.fromkeys(done)), "cards": [], "notes": len(done)}
