"""``make bench-released``: what a hospital's publications hold, at epsilon 1, 3 and 8.

One synthetic hospital of the demo publishes statistics cards and notes about three planted treatments, by the node's
own commands and the real engine. Beside what was planted: topics paid for or refused by the push rule, facts found in
notes and cards, words of the odd single records (must be none), perplexity under the model and the share of the most
common words of real records that a note holds, each beside real notes. The last line says whether an odd record showed.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.released.stage import RECORDS, Failed, Stage

Json = dict[str, Any]


def row(name: str, told: Json, report: Json) -> list[str]:
    """One line of the table: an epsilon."""
    cards, notes = told["cards"], told["notes"]
    in_cards = sum(fact["told"] for fact in cards["facts"].values())
    shown = [f"{in_cards}/{report['topics']} (each within {cards['band']})"]
    if "refused" in notes:
        return [name, "refused by the push rule", "-", "-", *shown, "-", "-", "-", "-"]
    facts = list(notes["facts"].values())
    effects, remedies = (sum(fact["told"][nth] for fact in facts) for nth in (0, 1))
    plan = notes["plan"]
    size = f"{plan['contexts']} patients, {plan['max_tokens']} tokens, push {plan['push']:.1f}"
    return [
        name,
        f"{len(notes['texts'])} paid: {size}",
        f"{effects}/{len(facts)}",
        f"{remedies}/{len(facts)}",
        *shown,
        f"{len(notes['canaries'])}/{report['canary_words']}",
        f"{report['perplexity'][name]:.1f}",
        f"{mean([fact['coverage'] for fact in facts]):.0%}",
        f"{notes['distinct']:.2f}",
    ]


def mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def real(report: Json) -> list[str]:
    """The line of real notes."""
    covered = [
        fact["real_coverage"]
        for told in report["epsilons"].values()
        for fact in told["notes"].get("facts", {}).values()
    ]
    perplexity, distinct = report["perplexity"]["real"], report["distinct"]
    return ["real notes", "", "", "", "", "", f"{perplexity:.1f}", f"{mean(covered):.0%}", f"{distinct:.2f}"]


def show(report: Json) -> int:
    head = ["epsilon", "notes", "effects", "remedies", "effects in cards", "odd words", "perplexity", "coverage"]
    head.append("distinct")
    lines = [head, *(row(name, told, report) for name, told in report["epsilons"].items()), real(report)]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    print(f"One hospital, {report['patients']} patients, {report['topics']} topics; delta 1e-5 for each release.\n")
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print()
    for name, told in report["epsilons"].items():
        for text in told["notes"].get("texts", [told["notes"].get("refused", "")]):
            print(f"  epsilon {name}: {text}")
    shown = sum(len(told["notes"].get("canaries", [])) for told in report["epsilons"].values())
    print(f"\nwords of odd single records in what was published: {shown}")
    return int(shown > 0)


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="bench-released-"))
    stage, output = Stage(folder), folder / "report.json"
    try:
        print("Starting database and engine", flush=True)
        stage.start()
        print("Publishing; this takes some minutes", flush=True)
        stage.python("-m", "benchmarks.released.hospital", str(RECORDS), str(output))
        return show(json.loads(output.read_text(encoding="utf-8")))
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        stage.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main())
