"""Evidence about requests and answers: decided by policy, sealed at rest, with receipts, overseen by who asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.db.models import Count as Number
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.expressions import RawSQL
from django.db.models.fields.json import KT

from accounts.policy import PolicyRequest, decide
from accounts.principals import Principal
from compliance import selectors
from compliance.controls.evidence import (
    MET,
    NOT_MET,
    PARTIAL,
    Count,
    Evidence,
    Table,
    counted,
    event_table,
    found_under,
    logged,
    query,
    sentence,
    seqs,
)
from compliance.models import Event
from compliance.period import Period
from compliance.selectors import RequestFilter
from federation.models import Inference
from federation.states import InferenceState

COLUMNS = ("Time", "Kind", "Model", "State", "Node", "Id")
SEALED_LEAST = 29
"""Bytes of the shortest sealed text: version, 96-bit nonce, 128-bit tag."""


def _requests(principal: Principal, period: Period) -> QuerySet[Inference]:
    return selectors.requests(principal, RequestFilter(period=period))


def _table(rows: QuerySet[Inference]) -> Table:
    return Table(
        COLUMNS, rows, lambda row: (row.created_at, row.get_kind_display(), row.model, row.state, row.node_id, row.pk)
    )


@query("answers.decided")
def decided(principal: Principal, period: Period, /) -> Evidence:
    """Whether every request of the period has a policy decision in the log, and by which policy file."""
    rows = _requests(principal, period)
    decision = Event.objects.filter(subject=OuterRef("pk"), kind="policy.decision")
    without = rows.filter(~Exists(decision))
    decisions = logged(principal, period, ["policy.decision"])
    denied = decisions.filter(outcome="denied").count()
    named = decisions.filter(details__has_key="policy_digest").order_by()
    digests = dict(named.values_list(KT("details__policy_digest")).annotate(n=Number("seq")))
    present = decide(PolicyRequest("nobody", "general", "", "", "", False, False)).policy_digest
    total, bare = rows.count(), without.count()
    said = sentence(
        f"{total - bare:,} of {counted(total, 'request has', 'requests have')} a policy decision in the log;"
        f" {denied:,} were denied.",
        f"The policy file in force has the digest {present}; {counted(len(digests), 'file', 'files')} decided in this"
        " period.",
    )
    counts = (
        Count("Requests", total),
        Count("Without a decision", bare),
        Count("Denied", denied, found_under(period, kind="policy.decision", outcome="denied") if denied else None),
        *(Count(f"Decided by {name}", n) for name, n in sorted(digests.items())),
    )
    status = NOT_MET if bare else MET if total or denied else PARTIAL
    table = _table(without) if bare else event_table(decisions)
    return Evidence(status=status, sentence=said, counts=counts, table=table, span=seqs(decisions))


def _unsealed(column: str) -> Any:
    """Whether the column holds something that cannot be a sealed text, without the contents leaving the database."""
    statement = f"coalesce(octet_length({column}) < {SEALED_LEAST} OR get_byte({column}, 0) <> 1, false)"
    return RawSQL(f'(federation_inference."{column}" IS NOT NULL AND {statement})', [])  # noqa: S611  (constants only)


@query("storage.sealed")
def sealed(principal: Principal, period: Period, /) -> Evidence:
    """Whether questions and answers at rest have the form of sealed texts; of all time, not of the period."""
    rows = selectors.requests(principal, RequestFilter())
    rows = rows.annotate(open_request=_unsealed("request"), open_answer=_unsealed("answer"))
    bare = rows.filter(Q(open_request=True) | Q(open_answer=True))
    total, wrong = rows.count(), bare.count()
    key = len(settings.DATA_KEY) * 8
    said = sentence(
        f"{total - wrong:,} of {counted(total, 'stored request is', 'stored requests are')} sealed with AES-256-GCM"
        f" under a data key of {key} bits, questions and answers alike.",
        f"{wrong:,} {'is' if wrong == 1 else 'are'} stored in clear." if wrong else "",
        "Keys are not rotated, and have no age." if total else "Nothing is stored yet.",
    )
    counts = (Count("Stored requests", total), Count("Not sealed", wrong), Count("Bits of the data key", key))
    status = NOT_MET if wrong or key < 256 else PARTIAL
    return Evidence(status=status, sentence=said, counts=counts, table=_table(bare if wrong else rows))


@query("answers.receipts")
def receipts(principal: Principal, period: Period, /, *, digest: str = "digest") -> Evidence:
    """Whether each answer has a signed receipt that holds a digest: its own, or ``model_digest``."""
    done = _requests(principal, period).filter(state=InferenceState.DONE)
    path = "receipt__digest" if digest == "digest" else f"receipt__body__{digest}"
    # Several hospitals together: the parts are signed by each, and the whole by the coordinator.
    bare = done.annotate(named=KT(path)).filter(Q(named__isnull=True) | Q(named=""))
    if digest != "digest":
        bare = bare.exclude(receipt__has_key="receipts")
    total, without = done.count(), bare.count()
    words = "receipt" if digest == "digest" else "receipt that names the model by its digest"
    said = (
        f"{total - without:,} of {counted(total, 'answer has', 'answers have')} a {words}."
        if total
        else "Nothing was answered in this period."
    )
    models = done.order_by().values_list("model").annotate(n=Number("pk"))
    counts = (
        Count("Answers", total),
        Count("Without", without),
        *(Count(f"By {model}", n) for model, n in sorted(models)),
    )
    status = PARTIAL if not total else MET if not without else NOT_MET if without == total else PARTIAL
    return Evidence(status=status, sentence=said, counts=counts, table=_table(bare if without else done))


@query("answers.claimed")
def claimed(principal: Principal, period: Period, /) -> Evidence:
    """Whether each answer from many patients' records states epsilon and mechanism in its receipt."""
    done = _requests(principal, period).filter(state=InferenceState.DONE, kind__startswith="cohort.")
    done = done.exclude(kind="cohort.released")
    silent = done.annotate(stated=KT("receipt__body__mechanism__epsilon")).filter(stated__isnull=True)
    silent = silent.exclude(receipt__has_key="receipts")
    total, bare = done.count(), silent.count()
    said = (
        f"{total - bare:,} of {counted(total, 'answer', 'answers')} from many patients' records state mechanism and"
        " epsilon in a signed receipt."
        if total
        else "Nobody was answered from many patients' records in this period."
    )
    counts = (Count("Answers from records", total), Count("Without a claim", bare))
    status = PARTIAL if not total else NOT_MET if bare else MET
    return Evidence(status=status, sentence=said, counts=counts, table=_table(silent if bare else done))


@query("answers.overseen")
def overseen(principal: Principal, period: Period, /, *, least_percent: float = 10.0) -> Evidence:
    """How many answers were accepted, edited or rejected by the person who asked."""
    done = _requests(principal, period).filter(state=InferenceState.DONE)
    reviews = logged(principal, period, ["answer.review"])
    by = dict(reviews.order_by().values_list("outcome").annotate(n=Number("subject", distinct=True)))
    answers, looked = done.count(), reviews.order_by().values("subject").distinct().count()
    share = 100 * looked / answers if answers else 0.0
    said = (
        f"People decided about {looked:,} of {counted(answers, 'answer', 'answers')} ({share:.0f}%); {least_percent:g}%"
        " are asked for."
        if answers
        else "Nothing was answered in this period."
    )
    counts = (
        Count("Answers", answers),
        *(
            Count(str(name).capitalize(), n, found_under(period, kind="answer.review", outcome=str(name)))
            for name, n in sorted(by.items())
        ),
    )
    status = MET if answers and share >= least_percent else PARTIAL if looked or not answers else NOT_MET
    return Evidence(status=status, sentence=said, counts=counts, table=event_table(reviews), span=seqs(reviews))


@query("answers.care")
def care(principal: Principal, period: Period, /) -> Evidence:
    """Answers about one patient: each decided by the care relation, and how many were refused for want of one."""
    charts = _requests(principal, period).filter(kind="chart")
    decision = Event.objects.filter(subject=OuterRef("pk"), kind="policy.decision", outcome="allowed")
    bare = charts.filter(~Exists(decision))
    refused = logged(principal, period, ["policy.decision"]).filter(outcome="denied")
    total, without = charts.count(), bare.count()
    policy = Path(settings.POLICY_FILE)
    guarded = policy.is_file() and "in_care" in policy.read_text(encoding="utf-8")
    said = sentence(
        f"Of {counted(total, 'question', 'questions')} about one patient, {total - without:,} were allowed by policy;"
        f" {refused.count():,} requests of any kind were refused.",
        "The policy asks for the care relation." if guarded else "The policy does not ask for a care relation.",
        "What the model gets is the chart's recent part; no minimiser takes anything out of a prompt.",
    )
    counts = (
        Count("Questions about a patient", total),
        Count("Not decided", without),
        Count("Refused", refused.count()),
    )
    status = NOT_MET if without or not guarded else PARTIAL
    table = _table(bare) if without else event_table(refused)
    return Evidence(status=status, sentence=said, counts=counts, table=table, span=seqs(refused))
