"""One hospital's part: takes in its records and says exactly what they hold about each question.

    python -m benchmarks.utility.hospital RECORDS QUESTIONS.json TALLIES.json

Run with a node's environment, once for each hospital. What it writes are true numbers of synthetic patients, so that
many noisy releases can be drawn from them; a node never lets them out. Of statistics cards it writes the answers, made
by the node's own code from cards that were planned, approved, paid for and published anew for each epsilon.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import django

django.setup()

from django.conf import settings  # noqa: E402  (settings first)
from django.db import transaction  # noqa: E402

from fdrouter.errors import DomainError, InvalidParameter  # noqa: E402
from federation.node import blocks, cohorts, search, terms, votes  # noqa: E402
from federation.node.ingest import ingest  # noqa: E402
from privacy.dp.cohort_plans import DEFAULT_TERMS, Plan, plan_choice, plan_count, plan_keywords  # noqa: E402

Json = dict[str, Any]

BLOCKS = [1]
PLENTY = 30.0  # epsilon of the block: several releases are made from one, which are never used together


def refused(question: Json, options: Sequence[str], plan: Plan) -> str:
    """Why the node would not take the question; empty if it would."""
    try:
        cohorts.check(question["text"], options, plan)
    except InvalidParameter as error:
        return error.message
    return ""


def closed(question: Json) -> Json:
    options = question["options"]
    if why := refused(question, options, plan_choice(options=len(options))):
        return {"refused": why}
    return {"votes": votes.votes(question["text"], options, BLOCKS)}


def worded(question: Json) -> Json:
    if why := refused(question, (), plan_keywords()):
        return {"refused": why}
    return {"held": votes.held_by(question["text"], terms.words_of(DEFAULT_TERMS), BLOCKS)}


def counted(question: Json) -> Json:
    if why := refused(question, (), plan_count()):
        return {"refused": why}
    return {"count": votes.count(question["text"], BLOCKS)}


def text(question: Json) -> Json:
    hits = search.top_patients(question["text"], BLOCKS, limit=question["patients"])
    return {"excerpts": [hit.excerpt for hit in hits]}


# --- statistics cards -----------------------------------------------------------------------------------------------
def released(asked: Json, epsilons: Sequence[float], repeats: int) -> Json:
    """By epsilon, for each of ``repeats`` publications what the shelf answers to each closed question and count."""
    from federation.node.released import answers, cards, publish

    blocks.create(settings.NODE_ID, settings.HOSPITAL_ID, epsilon=PLENTY, delta=1e-5)
    found: Json = {}
    for epsilon in epsilons:
        told = found[f"{epsilon:g}"] = []
        for _ in range(repeats):
            with transaction.atomic():  # undone at its end, so that each publication meets the same block
                release = publish.propose_cards(1, "planner", epsilon=epsilon)
                publish.approve(release, "approver")
                for step in (publish.begin, cards.make):
                    release.refresh_from_db()
                    step(release)
                told.append(
                    {
                        "closed": {q["id"]: _shelf(answers, q["text"], q["options"]) for q in asked["listed"]},
                        "counted": {q["id"]: _shelf(answers, q["text"], ()) for q in asked["counted"]},
                    }
                )
                transaction.set_rollback(True)
    return found


def _shelf(answers: Any, question: str, options: Sequence[str]) -> str:
    """The answer's first line; empty where what is published does not answer."""
    try:
        found = answers.find(question, options)
    except DomainError:
        return ""
    return "" if found.messages else str(found.text).strip().splitlines()[0]


def main() -> None:
    records, questions, output = (Path(argument) for argument in sys.argv[1:4])
    asked = json.loads(questions.read_text(encoding="utf-8"))
    report = ingest(records)
    tallies: Json = {"patients": report.patients}
    for name, answer in (
        ("closed", closed),
        ("listed", closed),
        ("worded", worded),
        ("counted", counted),
        ("text", text),
    ):
        tallies[name] = {question["id"]: answer(question) for question in asked[name]}
    try:
        tallies["released"] = released(asked, asked["epsilons"], asked["repeats"])
    except (ImportError, DomainError) as error:
        tallies["released"], tallies["released_missing"] = {}, f"{type(error).__name__}: {error}"
    output.write_text(json.dumps(tallies), encoding="utf-8")


if __name__ == "__main__":
    main()
