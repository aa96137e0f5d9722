"""Making statistics cards: every patient's cells are counted, noise is added to all of them, and only that is kept."""

from __future__ import annotations

from collections.abc import Callable

from django.db import transaction

from fdrouter.errors import Conflict
from federation.node.released import contributions, publish, vocabulary
from federation.node.released.models import Release, ReleasedCard
from federation.node.released.states import ReleaseState
from privacy.dp.release_plans import CardsPlan, sum_cells


def make(release: Release, advance: Callable[[int], None] = lambda cards: None) -> None:
    """Counts, adds noise, stores and publishes, in one transaction: a making that is killed has shown nothing.

    ``advance`` is told of every card. The block has paid (:func:`publish.begin`).

    Raises:
        Conflict: it is not being made, or the lists are not those of the plan.
    """
    plan, lists = publish.made_of(release)
    if not isinstance(plan, CardsPlan):
        raise Conflict("This release has no cards.")
    cards = vocabulary.cards_of(lists)
    with transaction.atomic():
        state = Release.objects.select_for_update().values_list("state", flat=True).get(pk=release.pk)
        if state != ReleaseState.MAKING:
            raise Conflict(f"This release is {state}, so it is not made now.")
        vector: list[int] = []
        for card in cards:
            held = contributions.cells(card, lists, release.block, release.plan["year"])
            vector += sum_cells(held, card.card, contributions.lot(release.pk, card))
            advance(1)
        noisy = iter(plan.noise.release(vector))
        del vector, held
        ReleasedCard.objects.bulk_create(
            ReleasedCard(
                release=release,
                name=card.name,
                labels=[list(label) for label in card.labels],
                counts=[next(noisy) for _ in card.labels],
            )
            for card in cards
        )
        publish.publish(release)
