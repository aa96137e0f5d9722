"""What the figures say, in sentences. Each follows from the facts of the report and from nothing else."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import date
from typing import Any

from compliance.charts import figure
from privacy.quotas import MICRO

LOW_SHARE = 0.2
"""A block with less than this share left needs a decision."""


@dataclass(frozen=True, slots=True)
class Finding:
    """``attention`` marks what asks for a decision; ``subject`` is its heading."""

    subject: str
    sentences: tuple[str, ...]
    attention: bool = False


def count(number: int, one: str, many: str) -> str:
    """``no requests``, ``1 request``, ``1,204 requests``."""
    return f"no {many}" if number == 0 else f"{number:,} {one if number == 1 else many}"


def tiny(value: float) -> str:
    """A small number such as a delta: ``1e-5``."""
    return f"{value:.0e}".replace("e-0", "e-").replace("e+00", "")


def words(day: str) -> str:
    """An ISO date as people write it."""
    value = date.fromisoformat(day)
    return f"{value.day} {value:%B %Y}"


def listing(names: list[str]) -> str:
    """``A``, ``A and B``, ``A, B and C``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def findings(facts: dict[str, Any]) -> list[Finding]:
    """The page after the cover, what asks for a decision first."""
    found = [_requests(facts), _private(facts), *_blocks(facts), _quotas(facts), _access(facts), *_controls(facts)]
    found += [_evidence(facts), *_proofs(facts)]
    return sorted(found, key=lambda finding: not finding.attention)


def glance(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The few figures that a reader wants first, as (name, words)."""
    total = facts["requests"]["total"]
    receipts = sum(row["receipts"] for row in facts["hospitals"])
    charged = sum(row["receipts_epsilon"] for row in facts["hospitals"]) / MICRO
    rows = [
        ("Requests", f"{total['total']:,}, of which {total['done']:,} answered"),
        ("Answers from many records", f"{receipts:,} receipts, epsilon {figure(charged)} in plain sum"),
    ]
    active = [block for block in facts["blocks"] if not block.get("retired")]
    if active:
        least = min(active, key=lambda block: block["left_share"])
        name = least.get("title") or least["hospital_name"]
        rows.append(("Least left of a dataset block", f"{round(100 * least['left_share'])}%, {name}"))
    if facts.get("controls"):
        met = sum(row["status"] == "met" for row in facts["controls"])
        rows.append(("Controls met", f"{met} of {len(facts['controls'])}"))
    log = facts.get("log", {})
    if log.get("checkpoint"):
        proved = log["proved"]
        rows.append(("Proofs in this file", f"{proved['entries']:,} of {proved['of']:,} ledger entries of the period"))
        cosigned, known = len(log["witnesses"]["cosigned"]), log["witnesses"]["known"]
        rows.append(("Witnesses of the log", f"{cosigned} of {known} cosigned its checkpoint"))
    return rows


def _requests(facts: dict[str, Any]) -> Finding:
    total = facts["requests"]["total"]
    if not total["total"]:
        return Finding("Requests", ("Nobody asked anything in this period.",))
    share = round(100 * total["done"] / total["total"])
    ends = [
        f"{total['failed'] or 'none'} failed",
        f"{total['cancelled']} stopped" if total["cancelled"] else "",
        f"{total['open']} were still under way when the figures were taken" if total["open"] else "",
    ]
    rest = listing([end for end in ends if end])
    first = f"People made {count(total['total'], 'request', 'requests')}; {total['done']:,} were answered ({share}%)."
    sentences = [first, f"Of the others, {rest}." if total["done"] < total["total"] else "None failed."]
    reasons = [row for row in facts["requests"]["reasons"] if row["state"] == "failed" and row["reason"]]
    if reasons:
        top = reasons[0]
        name, times = top["reason"].replace("_", " "), top["count"]
        sentences.append(f"The most frequent reason for a failure was \u201c{name}\u201d ({times:,}).")
    return Finding("Requests", tuple(sentences))


def _private(facts: dict[str, Any]) -> Finding:
    receipts = sum(row["receipts"] for row in facts["hospitals"])
    if not receipts:
        return Finding(
            "Answers from many records",
            ("No hospital's node signed a receipt for an answer from many patients' records in this period.",),
        )
    charged = sum(row["receipts_epsilon"] for row in facts["hospitals"]) / MICRO
    places = [row["name"] for row in facts["hospitals"] if row["receipts"]]
    return Finding(
        "Answers from many records",
        (
            f"{_capital(count(receipts, 'receipt was', 'receipts were'))} signed for answers from many patients'"
            f" records under differential privacy, by the node of {listing(places)}.",
            f"They state epsilon {figure(charged)} in total, as a plain sum of the claims. Where several hospitals"
            " answered together, each of them signed.",
        ),
    )


def _blocks(facts: dict[str, Any]) -> list[Finding]:
    if not facts["blocks"]:
        return [Finding("Dataset blocks", ("No node reported its dataset block.",), attention=True)]
    return [_block(block) for block in facts["blocks"]]


def _block(block: dict[str, Any]) -> Finding:
    name = block.get("title") or block["hospital_name"]
    if block.get("retired"):
        why = f"The dataset block of {name} is retired: its patients' records are in no further answer."
        return Finding(f"Block of {name}", (why,))
    left = (
        f"{round(100 * block['left_share'])}% of the dataset block of {name} is left, in the units that its filter"
        " counts in; it never refills."
    )
    spent = (
        f"Its releases so far compose to epsilon {figure(block['composed'])} (delta {tiny(block['delta'])}), and the"
        f" largest single request that still fits has epsilon {figure(block['largest'])}."
    )
    if block["runs_out_on"]:
        pace = f"At the pace of the last seven days it is used up about {words(block['runs_out_on'])}."
    else:
        pace = "The last seven days hold too few answers, or too long a way to go, for a forecast."
    return Finding(f"Block of {name}", (left, spent, pace), attention=block["left_share"] < LOW_SHARE)


def _quotas(facts: dict[str, Any]) -> Finding:
    rows = facts["departments"]
    spent = sum(row["spent"] for row in rows) / MICRO
    if not spent:
        return Finding("Department quotas", ("No department spent any of its daily privacy quota.",))
    top = max(rows, key=lambda row: row["spent"])
    sentences = [
        f"Departments spent epsilon {figure(spent)} of their daily quotas in all;"
        f" {top['name']} at {top['hospital_name']} spent most ({figure(top['spent'] / MICRO)})."
    ]
    full = [row for row in rows if row["full_days"]]
    if not full:
        sentences.append("No department came near the end of its quota on any day.")
    for row in sorted(full, key=lambda row: -row["full_days"])[:5]:
        sentences.append(
            f"{row['name']} at {row['hospital_name']} used at least nine tenths of its daily quota of"
            f" {figure(row['cap'] / MICRO)} on {count(row['full_days'], 'day', 'days')}."
        )
    return Finding("Department quotas", tuple(sentences), attention=bool(full))


def _events(facts: dict[str, Any], kind: str, outcome: str) -> int:
    rows = facts["evidence"]["counts"]
    return sum(row["count"] for row in rows if row["kind"] == kind and row["outcome"] == outcome)


def _access(facts: dict[str, Any]) -> Finding:
    entered, failed = _events(facts, "session.sign_in", "ok"), _events(facts, "session.sign_in", "failed")
    denied = _events(facts, "policy.decision", "denied")
    return Finding(
        "Access",
        (
            _capital(f"{count(entered, 'sign-in', 'sign-ins')} succeeded and {failed:,} failed."),
            _capital(f"{count(denied, 'request was', 'requests were')} refused by the access policy."),
        ),
    )


def _evidence(facts: dict[str, Any]) -> Finding:
    log = facts["evidence"]
    if not log["total"]:
        return Finding("Evidence", ("The log holds no row for this period.",), attention=True)
    return Finding(
        "Evidence",
        (
            f"The log holds {count(log['total'], 'row', 'rows')} for this period,"
            f" between sequence numbers {log['first']:,} and {log['last']:,}.",
            "The database refuses to change, delete or empty them.",
        ),
    )


def _controls(facts: dict[str, Any]) -> list[Finding]:
    rows = facts.get("controls")
    if not rows:
        return []
    by_status = Counter(row["status"] for row in rows)
    sentences = [
        f"{by_status['met']:,} of {count(len(rows), 'control is', 'controls are')} met by evidence from live data,"
        f" {by_status['partial'] or 'none'} partly; {by_status['not_met'] or 'none'} not."
    ]
    if by_status["excepted"]:
        sentences.append(f"{_capital(count(by_status['excepted'], 'exception is', 'exceptions are'))} in force.")
    unmet = [f"{row['citation']} ({row['title'].lower()})" for row in rows if row["status"] == "not_met"]
    if unmet:
        more = f" and {len(unmet) - 3} more" if len(unmet) > 3 else ""
        named = listing(unmet) if len(unmet) <= 3 else ", ".join(unmet[:3])
        sentences.append(f"Not met: {named}{more}.")
    return [Finding("Controls", tuple(sentences), attention=bool(unmet))]


def _proofs(facts: dict[str, Any]) -> list[Finding]:
    if "log" not in facts:
        return []
    log = facts["log"]
    if log["checkpoint"] is None:
        why = "No checkpoint is signed, so this report carries no proof that the log was not rewritten."
        return [Finding("Proofs", (why,), attention=True)]
    point, proved, cosigned = log["checkpoint"], log["proved"], log["witnesses"]["cosigned"]
    if cosigned:
        named = f"It is cosigned by {listing(cosigned)}, of {count(log['witnesses']['known'], 'witness', 'witnesses')}."
    else:
        named = "No witness has cosigned it yet, so only the platform vouches for it."
    sentences = [f"The log is signed up to its entry {point['size'] - 1:,}.", named]
    if proved["entries"]:
        sentences.append(
            f"{_capital(count(proved['entries'], 'entry', 'entries'))} of the privacy ledger from this period come with"
            f" proofs in this file and add up to epsilon {figure(proved['epsilon'] / MICRO)} of departments' quotas."
        )
    left = proved["of"] - proved["entries"]
    if left:
        sentences.append(
            f"{_capital(count(left, 'further entry is', 'further entries are'))} in the log without proof here."
        )
    return [Finding("Proofs", tuple(sentences))]
