"""The hospital's part: publishes cards and notes at each epsilon by the node's own code, and measures what they hold.

    python -m benchmarks.released.hospital RECORDS OUTPUT.json

Run with a node's environment and a running engine. What it writes holds figures of synthetic patients without noise.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import django

django.setup()

from django.conf import settings  # noqa: E402  (settings first)

from fdrouter.errors import PushTooSmall  # noqa: E402
from federation.node import blocks, search  # noqa: E402
from federation.node.demo_records import facts  # noqa: E402
from federation.node.engine import EngineUnreachable  # noqa: E402
from federation.node.ingest import ingest  # noqa: E402
from federation.node.models import Note  # noqa: E402
from federation.node.progress import Bar  # noqa: E402
from federation.node.released import contributions, corpus, making, publish, quality, shelf  # noqa: E402
from federation.node.released.models import NoteState, Release  # noqa: E402
from federation.node.released.quality import Fact  # noqa: E402
from federation.node.views import engine_client  # noqa: E402

Json = dict[str, Any]

EPSILONS = (1.0, 3.0, 8.0)
TOPICS = ("velorapine", "tamurexin", "haldenex wrap")
PLENTY = 40.0  # epsilon of the block: it pays for every publication here, which are never used together
TRIES, PAUSE = 5, 20.0  # seconds
SAMPLE = 40  # notes and excerpts whose perplexity is taken


def planted() -> list[Fact]:
    """The facts about the topics, each with the words of a good answer."""
    treatment = {fact.id: fact.treatment for fact in facts.planted_facts()}
    known = [(treatment[question.fact], question.terms) for question in facts.questions()]
    return [Fact(topic, terms) for topic, terms in known if topic in TOPICS]


def made(release: Release) -> Release:
    """Approves and makes it, as an operator would: again where a busy engine did not answer in time."""
    publish.approve(release, "approver")
    for _ in range(TRIES - 1):
        try:
            return making.make(release, engine_client, Bar(sys.stderr))
        except EngineUnreachable:
            time.sleep(PAUSE)
    return making.make(release, engine_client, Bar(sys.stderr))


def cards(epsilon: float) -> Json:
    """Of how many facts the cards name the effect: the largest effect of the topic, in so far as it is not noise."""
    release = made(publish.propose_cards(1, "planner", epsilon=epsilon))
    on_shelf, told = shelf.load(), {}
    for fact in planted():
        row = [cell for cell in on_shelf.labels("effects") if cell[0] == fact.topic]
        figures = shelf.Shelf.figures(on_shelf, "effects", row)
        large = [f for f in figures if f.count > shelf.band_of(f.sigma, len(row))]
        words = " ".join(f.labels[1] for f in sorted(large, key=lambda f: -f.count)[:3])
        told[fact.topic] = {"told": fact.told(words)[0], "words": words}
    return {"band": publish.plan_of(release).parameters["band"], "facts": told}


def notes(epsilon: float, canaries: Sequence[str]) -> Json:
    """The corpus at this epsilon, or that the push rule refuses it."""
    begun = time.monotonic()
    try:
        release = publish.propose_corpus(1, "planner", epsilon=epsilon, topics=TOPICS)
    except PushTooSmall as error:
        return {"refused": error.message}
    release = made(release)
    texts = {note.topic: note.text for note in release.notes.filter(state=NoteState.DONE)}
    spoken = contributions.topics_of(TOPICS, 1)
    found: Json = {}
    for fact in planted():
        text = texts.get(fact.topic, "").removeprefix(corpus.beginning_of(fact.topic))
        members = [reference for reference, topics in spoken.items() if fact.topic in topics]
        excerpts = [search.excerpt(reference, corpus.question_of(fact.topic)) or "" for reference in members]
        told = {"text": text, "told": fact.told(text), "coverage": quality.coverage(text, excerpts)}
        found[fact.topic] = told | {"real_coverage": quality.coverage(excerpts[0], excerpts) if excerpts else 0.0}
    plan = publish.plan_of(release)
    return {
        "facts": found,
        "plan": plan.parameters,
        "texts": list(texts.values()),
        "canaries": quality.canaries_in(texts.values(), canaries),
        "distinct": quality.distinct(texts.values()),
        "seconds": time.monotonic() - begun,
    }


async def perplexities(groups: dict[str, list[str]]) -> dict[str, float]:
    """Perplexity of each group of texts under the model itself, over all their tokens but each first one."""
    async with aiohttp.ClientSession() as session:
        return {
            name: quality.perplexity([x for t in texts for x in await _log_probabilities(session, t)])
            for name, texts in groups.items()
        }


async def _log_probabilities(session: aiohttp.ClientSession, text: str) -> list[float]:
    body = {"model": settings.ENGINE_MODEL, "prompt": text, "max_tokens": 1, "prompt_logprobs": 0, "temperature": 0}
    async with session.post(f"{settings.ENGINE_URL}/v1/completions", json=body) as response:
        response.raise_for_status()
        told = (await response.json())["choices"][0]["prompt_logprobs"]
    return [next(iter(entry.values()))["logprob"] for entry in told if entry]


def main() -> None:
    records, output = Path(sys.argv[1]), Path(sys.argv[2])
    report = ingest(records)
    blocks.create(settings.NODE_ID, settings.HOSPITAL_ID, epsilon=PLENTY, delta=1e-5)
    manifest = json.loads((records / "manifest.json").read_text(encoding="utf-8"))
    canaries = [word for canary in manifest["canaries"] for word in canary["words"]]
    found: Json = {"patients": report.patients, "topics": len(TOPICS), "canary_words": len(canaries), "epsilons": {}}
    about = Note.objects.filter(text__iregex="|".join(TOPICS)).order_by("pk")
    real = list(about.values_list("text", flat=True)[:SAMPLE])
    texts = {"real": real}
    for epsilon in EPSILONS:
        told = {"cards": cards(epsilon), "notes": notes(epsilon, canaries)}
        found["epsilons"][f"{epsilon:g}"] = told
        texts[f"{epsilon:g}"] = told["notes"].get("texts", [])
    found["perplexity"] = asyncio.run(perplexities(texts))
    found["distinct"] = quality.distinct(real)
    output.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
