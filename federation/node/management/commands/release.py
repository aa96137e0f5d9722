"""``manage.py release``: what the hospital publishes once and answers from without end."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from fdrouter.errors import DomainError
from federation.node.progress import Bar
from federation.node.released import making, publish
from federation.node.released.models import NoteState, Release, ReleaseKind
from privacy.dp.release_plans import CardsPlan, CorpusPlan


class Command(BaseCommand):
    help = (
        "plan: fix what is published from which block and what it costs. approve: the consent of a second person. make:"
        " pay, make and publish; again after an interruption. list, show: what there is. withdraw: use it no more."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        planning = actions.add_parser("plan", help="plan statistics cards or synthetic notes of a block")
        planning.add_argument("kind", choices=ReleaseKind.values)
        planning.add_argument("--block", type=int, default=1, help="number of the block (default 1)")
        planning.add_argument("--epsilon", type=float, help="cost of the whole release (cards 2, corpus 3)")
        planning.add_argument("--delta", type=float, help="default 1e-5")
        planning.add_argument("--topic", action="append", help="a treatment of the list; repeat it (default: all)")
        planning.add_argument("--parts", type=int, default=1, help="notes a topic, by different patients (default 1)")
        planning.add_argument("--contexts", type=int, help="patients in a note at most")
        planning.add_argument("--max-tokens", type=int, help="longest note")
        planning.add_argument(
            "--largest", type=int, help="the so many topics that have most patients by the block's published cards"
        )
        planning.add_argument("--by", required=True, help="your name")
        for action, text in (
            ("approve", "agree to a plan, as somebody else than its planner"),
            ("withdraw", "take a plan or a publication out of use; what it has paid stays paid"),
        ):
            deciding = actions.add_parser(action, help=text)
            deciding.add_argument("release", help="its id, or the beginning of it")
            deciding.add_argument("--by", required=True, help="your name")
            if action == "withdraw":
                deciding.add_argument("--reason", default="")
        actions.add_parser("make", help="pay, make and publish").add_argument("release", help="its id, or a beginning")
        actions.add_parser("list", help="all releases, the newest last")
        actions.add_parser("show", help="plan, state and contents").add_argument("release", help="its id")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        try:
            getattr(self, f"_{action}")(options)
        except DomainError as error:
            raise CommandError(error.message) from None

    def _plan(self, options: dict[str, Any]) -> None:
        costs = {"epsilon": options["epsilon"], "delta": options["delta"]}
        topics = options["topic"]
        if options["largest"]:
            topics = publish.largest_topics(options["block"], options["largest"])
        if options["kind"] == ReleaseKind.CARDS:
            release = publish.propose_cards(options["block"], options["by"], topics=topics, **costs)
        else:
            sizes = {name: options[name] for name in ("parts", "contexts", "max_tokens")}
            release = publish.propose_corpus(options["block"], options["by"], topics=topics, **sizes, **costs)
        self.stdout.write(_summary(release))
        self.stdout.write(f"Somebody else approves it: manage.py release approve {str(release.pk)[:8]} --by NAME")

    def _approve(self, options: dict[str, Any]) -> None:
        release = publish.get(options["release"])
        publish.approve(release, options["by"])
        self.stdout.write(f"Approved. To pay and publish: manage.py release make {str(release.pk)[:8]}")

    def _make(self, options: dict[str, Any]) -> None:
        from federation.node.views import engine_client

        release = publish.get(options["release"])
        with Bar(sys.stderr) as bar:
            release = making.make(release, engine_client, bar)
        self.stdout.write(_summary(release))

    def _withdraw(self, options: dict[str, Any]) -> None:
        release = publish.get(options["release"])
        making.withdraw(release, options["by"], options["reason"])
        self.stdout.write("Withdrawn. What it has paid stays paid.")

    def _list(self, options: dict[str, Any]) -> None:
        rows = Release.objects.order_by("planned_at")
        for release in rows:
            self.stdout.write(_summary(release))
        if not rows:
            self.stdout.write("Nothing is planned or published.")

    def _show(self, options: dict[str, Any]) -> None:
        release = publish.get(options["release"])
        self.stdout.write(_summary(release))
        self.stdout.write(json.dumps({"plan": release.plan, "digest": release.digest}, indent=1))
        for card in release.cards.order_by("pk"):
            told = sorted(zip(card.counts, card.labels, strict=True), key=lambda cell: -cell[0])[:12]
            self.stdout.write(f"{card.name}: " + ", ".join(f"{' with '.join(label)} {n}" for n, label in told))
        for note in release.notes.order_by("topic", "part"):
            text = note.text if note.state == NoteState.DONE else f"({note.state} {note.reason})"
            self.stdout.write(f"{note.topic} {note.part + 1}: {text}")
        if release.statement:
            self.stdout.write(f"signed statement {release.statement['digest']}")


def _summary(release: Release) -> str:
    plan = publish.plan_of(release)
    who = f"planned by {release.planned_by}" + (f", approved by {release.approved_by}" if release.approved_by else "")
    if isinstance(plan, CardsPlan):
        what = f"{len(plan.cards)} cards, each number within {plan.band} in 95 of 100 cases"
    elif isinstance(plan, CorpusPlan):
        what = f"{plan.notes} notes of {plan.text.contexts} patients and {plan.text.max_tokens} tokens at most"
    reason = f" ({release.reason})" if release.reason else ""
    return (
        f"{str(release.pk)[:8]}  {release.kind}  {release.state}{reason}  {release.plan['block']}  epsilon"
        f" {release.epsilon:g}, delta {release.delta:g} for the whole; {what}; {who}"
    )
