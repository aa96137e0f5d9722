"""The demonstration's publication: statistics cards of the first block, as two people would plan and approve them."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand

from federation.node.progress import Bar
from federation.node.released import making, publish
from federation.node.released.models import Release, ReleaseKind
from federation.node.released.states import ReleaseState
from federation.node.views import engine_client

EPSILON = 2.0


class Command(BaseCommand):
    help = "Publishes statistics cards of the demonstration's records, once. A real hospital's people use `release`."

    def handle(self, *args: Any, **options: Any) -> None:
        cards = Release.objects.filter(kind=ReleaseKind.CARDS)
        if cards.filter(state=ReleaseState.PUBLISHED).exists():
            self.stdout.write("The cards are published.")
            return
        release = cards.filter(state__in=[ReleaseState.PLANNED, ReleaseState.APPROVED, ReleaseState.MAKING]).first()
        release = release or publish.propose_cards(1, "Demo data steward", epsilon=EPSILON)
        if release.state == ReleaseState.PLANNED:
            publish.approve(release, "Demo privacy officer")
        with Bar(sys.stderr) as bar:
            making.make(Release.objects.get(pk=release.pk), engine_client, bar)
        self.stdout.write("The cards are published.")
