"""``make bench-utility``: how right the answers of each way are, beside no noise and beside no records.

Three synthetic hospitals are taken into a PostgreSQL each. Exact votes, counts and words come once from the node's own
SQL; noise comes from the product's own plans, hundreds of draws a question, so that intervals speak of the questions
and hardly of chance. Texts are decoded by the real engine (few: one takes most of a minute on two cores). Prints
tables, a verdict, and the points lost by closed answers last. Nothing here is a test: it ends with 0 once measured.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.utility import engine, questions, report, sizes, ways
from benchmarks.utility.engine import Spoken
from benchmarks.utility.intervals import Estimate, accuracy, points_lost
from benchmarks.utility.network import HOSPITALS, PROJECT, Network
from benchmarks.utility.report import EPSILONS, Row
from fdrouter.demo.processes import PartFailed
from fdrouter.errors import DomainError, PushTooSmall
from federation.node.demo_records import facts
from privacy.dp.cohort_plans import DEFAULT_TERMS
from privacy.dp.text_plan import plan_text

DRAWS = 100
KEYWORD_DRAWS = 25
SIZE_DRAWS = 40
COUNT_DRAWS = 200
CONTEXTS = 128  # patients fetched for a text, at most
TEXT_EPSILONS = (3.0, 10.0)
REPEATS = 2
BEYOND_NOISE = 10.0  # points


@dataclass(slots=True)
class Material:
    """The questions of a run, and what the hospitals' records hold about them."""

    closed: list[questions.Closed]
    listed: list[questions.Closed]
    worded: list[questions.Worded]
    counted: list[questions.Counted]
    texts: list[facts.Question]
    terms: list[str]
    tallies: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "closed": [asdict(q) for q in self.closed],
            "listed": [asdict(q) for q in self.listed],
            "worded": [{"id": q.id, "text": q.text} for q in self.worded],
            "counted": [asdict(q) for q in self.counted],
            "text": [{"id": q.id, "text": q.text, "patients": CONTEXTS} for q in self.texts],
            "epsilons": EPSILONS,
            "repeats": REPEATS,
        }


def material(manifests: Mapping[str, Any]) -> Material:
    """Every question that the manifests answer without doubt."""
    planted = facts.planted_facts()
    lines = (PROJECT / "configs" / "terms" / f"{DEFAULT_TERMS}.txt").read_text(encoding="utf-8").splitlines()
    terms = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    return Material(
        closed=questions.closed(manifests, planted),
        listed=questions.listed(manifests, planted, terms),
        worded=questions.worded(manifests, planted, terms),
        counted=questions.counted(manifests, planted),
        texts=facts.questions(),
        terms=terms,
    )


def measure(way: ways.Way, name: str = "") -> Row:
    """One way at every epsilon; an epsilon that it refuses is said to be."""
    cases, before = way.cases, way.without_noise()
    units, clusters = [case.unit for case in cases], [case.fact for case in cases]
    row = Row(name or way.name, len(cases), accuracy(before, units), {})
    for epsilon in EPSILONS:
        try:
            shares = way.at(epsilon)
        except PushTooSmall:
            row.at[epsilon] = report.REFUSED
            continue
        row.at[epsilon] = accuracy(shares, units)
        row.lost[epsilon] = points_lost(before, shares, clusters)
    return row


def closed_rows(found: Material) -> tuple[list[Row], list[ways.Ballot]]:
    ballots = ways.ballots(found.closed, found.tallies)
    pooled = ways.together(ballots)
    one = ways.Choice(ballots, DRAWS)
    across = ways.ChoiceAcross(pooled, DRAWS, len(HOSPITALS))
    rows = [measure(way) for way in (one, ways.ChoiceOfNamed(one), across)]
    blind = sum(1 / len(question.options) for question in found.closed) / len(found.closed)
    for row in rows:
        row.chance = blind
    return rows, pooled


def _clearness(ballots: Sequence[ways.Ballot]) -> str:
    """How easy the closed questions are: what is less clear loses more, see the lead that the aim needs."""
    shares = sorted(100 * ballot.votes[ballot.question.truth] / sum(ballot.votes) for ballot in ballots)
    middle = shares[len(shares) // 2]
    return (
        f"Closed questions: the right answer has {shares[0]:.0f} to {shares[-1]:.0f} % of a cohort's votes (median"
        f" {middle:.0f} %). What records say less clearly loses more: see the lead that the aim needs."
    )


def count_rows(found: Material) -> tuple[list[Row], list[ways.Count]]:
    numbers = ways.numbers(found.counted, found.tallies)
    counts = [
        ways.Count(numbers, COUNT_DRAWS),
        ways.CountAcross(ways.all_numbers(numbers), COUNT_DRAWS, len(HOSPITALS)),
    ]
    return [measure(way) for way in counts], counts


def keyword_rows(found: Material) -> list[Row]:
    way = ways.Keywords(ways.words(found.worded, found.tallies), found.terms, KEYWORD_DRAWS)
    row = measure(way)
    row.chance = way.chance()
    return [row]


def _before(way: ways.Choice | ways.Count) -> dict[tuple[str, str], float]:
    """The share of right answers without noise by hospital and question."""
    names = [(case.hospital, case.question.id) for case in way.cases]
    return dict(zip(names, way.without_noise(), strict=True))


def released_rows(found: Material) -> tuple[list[Row], list[str]]:
    """Statistics cards; notes say how much of what was asked they answer, or why nothing was measured."""
    missing = {told["released_missing"] for told in found.tallies.values() if told.get("released_missing")}
    if missing:
        return [], [f"released: not measured here ({'; '.join(sorted(missing))})"]
    ballots = ways.ballots(found.listed, found.tallies, key="listed")
    numbers = ways.numbers(found.counted, found.tallies)
    votes, counts = ways.Choice(ballots, 1), ways.Count(numbers, 1)
    listed = ways.shelved("closed", found.listed, _before(votes), found.tallies)
    figures = ways.shelved("counted", found.counted, _before(counts), found.tallies)
    rows, notes = [], []
    for way in (ways.Released("released cards, choice", listed), ways.Released("released cards, count", figures)):
        notes.append(f"{way.name}: answers {len(way.cases)} of {way.asked} questions.")
        if way.cases:
            rows.append(measure(way))
    if any(row.lost[EPSILONS[-1]].low > BEYOND_NOISE for row in rows):
        notes.append(
            f"At epsilon {EPSILONS[-1]:g} noise is small: what cards lose there comes from holding each patient to few"
            " cells, which a hash of their own chooses."
        )
    notes.append("released notes (synthetic corpus): not measured here; make bench-released looks for planted facts.")
    return rows, notes


# --- with the engine ------------------------------------------------------------------------------------------------
async def ask_model(
    found: Material, url: str, folder: Path, texts: int
) -> tuple[dict[str, Estimate], dict[str, Sequence[Spoken] | str]]:
    """What the public model knows by itself, by way; and the texts."""
    async with engine.Model(url, folder) as model:
        units = [f"{question.fact}/{question.aspect}" for question in found.closed]
        named = [f"{question.fact}/{question.aspect}" for question in found.worded]
        public = {
            "choice": accuracy(await model.choose(found.closed), units),
            "keywords": accuracy(await model.name(found.worded), named),
            "count": accuracy(await model.number(found.counted, HOSPITALS[0]), [q.id for q in found.counted]),
        }
        return public, await _texts(found, model, texts)


async def _texts(found: Material, model: engine.Model, number: int) -> dict[str, Sequence[Spoken] | str]:
    """``number`` questions an epsilon, hospitals in turn; one private text at a time, as it takes all cores."""
    asked = [(q, HOSPITALS[nth % len(HOSPITALS)]) for nth, q in enumerate(found.texts)]
    seen = {q.id: engine.by_hospital(found.tallies, q.id) for q in found.texts}
    told: dict[str, Sequence[Spoken] | str] = {
        "public only": await asyncio.gather(*(model.public_text(q) for q, _ in asked)),
        f"no privacy, {engine.SHOWN} records": await asyncio.gather(
            *(model.open_text(q, name, seen[q.id][name]) for q, name in asked)
        ),
    }
    for epsilon in EPSILONS:
        if epsilon not in TEXT_EPSILONS:
            refusal = _refusal(epsilon)
            told[f"epsilon {epsilon:g}"] = report.REFUSED if refusal else "not measured here"
            continue
        spoken = [await model.private_text(q, name, seen[q.id][name], epsilon) for q, name in asked[:number]]
        told[f"epsilon {epsilon:g}"] = [one for one in spoken if one is not None] or "not measured here (--text)"
    return told


def _refusal(epsilon: float) -> bool:
    try:
        plan_text(epsilon=epsilon)
    except PushTooSmall:
        return True
    return False


def stage(say: Callable[[str], None], text: str) -> None:
    say(f"[{time.strftime('%H:%M:%S')}] {text}")


def bench(network: Network, options: argparse.Namespace) -> None:
    console = report.console()

    def say(text: str) -> None:
        console.print(text, style="dim", highlight=False, markup=False)

    stage(say, "records of three hospitals (made once: two minutes on two cores)")
    network.start_database()
    found = material(network.make_records())
    stage(
        say,
        f"intake and exact answers: {len(found.closed)} closed questions, {len(found.worded)} for keywords,"
        f" {len(found.counted)} counts, statistics cards",
    )
    found.tallies = network.tallies(found.to_json())
    stage(say, "noise")
    closed, pooled = closed_rows(found)
    counts, count_ways = count_rows(found)
    released, notes = released_rows(found)
    notes.insert(0, _clearness(pooled))
    rows = [*closed, *counts, *keyword_rows(found), *released]
    by_size = {epsilon: sizes.lost_by_size(pooled, epsilon, SIZE_DRAWS) for epsilon in report.AIMS}
    spoken: Mapping[str, Sequence[Spoken] | str] = {}
    if options.text or options.public:
        stage(say, f"the engine: public only, and {options.text} texts an epsilon")
        try:
            public, spoken = asyncio.run(ask_model(found, network.engine_url, network.start_engine(), options.text))
        except (PartFailed, DomainError, aiohttp.ClientError) as error:
            notes.append(f"text and public only: NOT MEASURED, the engine failed: {error}")
        else:
            for row in rows:
                row.public = public.get(row.way.split(",")[0])
    stage(say, "done")
    show(console, rows, count_ways, by_size, spoken, notes)


def show(
    console: Any,
    rows: Sequence[Row],
    counts: Sequence[ways.Count],
    by_size: Mapping[float, Mapping[int, Estimate]],
    spoken: Mapping[str, Sequence[Spoken] | str],
    notes: Sequence[str],
) -> None:
    """All tables, what they do not say, the verdict, and the figure."""
    console.print(report.accuracy_table(rows))
    console.print(report.CAPTION, style="dim", highlight=False, markup=False)
    for table in (report.lost_table(rows), report.count_table(counts), report.size_table(by_size), report.lead_table()):
        console.print(table)
    if spoken:
        console.print(report.text_table(spoken))
    console.print(report.year_table())
    for line in [*notes, "", *report.verdict(rows, by_size)]:
        print(line)
    print(report.last_line(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=int, default=4, help="private texts an epsilon (0: none)")
    parser.add_argument("--no-engine", dest="public", action="store_false", help="with --text 0: start no engine")
    parser.add_argument("--keep", action="store_true", help="keep the run's files and say where they are")
    options = parser.parse_args()
    state = Path(tempfile.mkdtemp(prefix="fdrouter-bench-"))
    state.chmod(0o755)
    network = Network(state)
    try:
        bench(network, options)
    finally:
        network.stop()
        if options.keep:
            print(f"files: {state}", file=sys.stderr)
        else:
            shutil.rmtree(state, ignore_errors=True)


if __name__ == "__main__":
    main()
