"""Each rule at the product's limits: rows that it finds, rows that it does not, and rows that it nearly does."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compliance.anomalies.registry import RULES
from compliance.anomalies.robust import robust_z, share_near
from compliance.anomalies.rows import Asked, Rows, Signal, Watched
from compliance.anomalies.rules.habits import most_patients
from tests.compliance.anomalies.seeds import (
    ANNA,
    BEN,
    DAYTIME,
    FAR,
    NINE,
    START,
    asked,
    care,
    hits,
    past,
    rows,
    signals,
)

HOUR = timedelta(hours=1)
CHART = [asked(0, patient="p0")]
MOVED = [asked(0, patient="p0", department=9)]
NONE = (0,) * 15


def patients(count: int, minutes: int = 1) -> list[Asked]:
    return [asked(n, patient=f"p{n}", at=NINE + timedelta(minutes=n * minutes)) for n in range(count)]


def counts(count: int, *, minutes: int = 2, epsilon: float = 0.1, grow: int = 0, **fields: object) -> list[Asked]:
    return [
        asked(
            n,
            at=NINE + timedelta(minutes=n * minutes),
            kind="cohort.count",
            hospitals=("north",),
            epsilon_micro=round(epsilon * 1e6),
            size=300 + grow * n,
            **fields,
        )
        for n in range(count)
    ]


def at_night(count: int) -> list[Asked]:
    return [asked(n, at=START + 3 * HOUR + timedelta(minutes=n)) for n in range(count)]


def failures(count: int, *, minutes: int = 1, then: str = "ok") -> list[Signal]:
    failed = signals(count, "session.sign_in", "failed", minutes=minutes)
    last = Signal(
        seq=99, person=ANNA.id, at=failed[-1].at + timedelta(minutes=minutes), kind="session.sign_in", outcome=then
    )
    return [*failed, last]


def purposes(count: int, purpose: str) -> list[Asked]:
    return [asked(n, kind="general", purpose=purpose) for n in range(count)]


DENIED = ("policy.decision", "denied")
SPENT = ("ledger.reserve", "quota_spent")
VIP = [Watched(patient="p0", hospital="north", kind="vip")]
STAFF = [Watched(patient="p0", hospital="north", kind="staff", user=BEN.id)]

FINDS: list[tuple[str, str, Rows]] = [
    ("care-relation", "never in care", rows(CHART)),
    ("care-relation", "another department's", rows(CHART, care=[care(department=8)])),
    ("care-relation", "before it began", rows(CHART, care=[care(since=NINE + HOUR)])),
    ("care-relation", "long after its end", rows(CHART, care=[care(ended=NINE - 73 * HOUR)])),
    ("care-relation", "refused by the node", rows([asked(0, patient="p0", reason="policy_denied")], care=[care()])),
    ("care-relation", "in the present department's care, asked from another", rows(MOVED, care=[care()])),
    ("refused-charts", "five in a day", rows(signals=signals(5, *DENIED, asked="chart"))),
    ("same-surname", "in the label", rows(CHART, care=[care(label="WEBER, female, born 1950s")])),
    ("co-worker", "flagged as staff", rows(CHART, care=[care()], watched=STAFF)),
    ("co-worker", "a label with a colleague's name", rows(CHART, care=[care(label="Okafor Ben")])),
    ("vip", "new to the care", rows(CHART, care=[care(since=NINE - HOUR)], watched=VIP)),
    ("vip", "in care for long", rows(CHART, care=[care()], watched=VIP)),
    ("serial-cases", "against the habit", rows(patients(12), past=past(10))),
    ("serial-cases", "new staff, very many", rows(patients(25), past=past(9))),
    ("odd-hours", "three at night", rows(at_night(3), past=past(15), hours={1: DAYTIME})),
    ("volume", "thirty against eight", rows(purposes(30, "TREAT"), past=past(10))),
    ("volume", "fifty against eight", rows(purposes(50, "TREAT"), past=past(10))),
    ("purpose", "research by an attending", rows(purposes(5, "HRESCH"))),
    ("budget-refusals", "six in a day", rows(signals=signals(6, *SPENT))),
    ("budget-refusals", "by blocks", rows(signals=signals(6, "request.fail", "block_exhausted"))),
    ("narrowing", "eight small counts", rows(counts(8))),
    ("narrowing", "at each limit", rows(counts(8, minutes=15, epsilon=0.25, grow=48))),
    (
        "near-identical",
        "8, twice the usual",
        rows(counts(8), past=[*past(9, alike=4)[:8], *past(1, alike=5)]),
    ),
    ("near-identical", "2, 5, then 12", rows(counts(12), past=[*past(10)[:9], *past(1, alike=5)])),
    ("sign-ins", "half an hour apart", rows(signals=failures(5, minutes=30))),
    ("sign-ins", "five, then one", rows(signals=failures(5))),
]
SPARES: list[tuple[str, str, Rows]] = [
    ("care-relation", "from the very moment", rows(CHART, care=[care(since=NINE)])),
    ("care-relation", "in the asking department's care", rows(MOVED, care=[care(department=9)])),
    ("care-relation", "in care", rows(CHART, care=[care()])),
    ("care-relation", "letters after the end", rows(CHART, care=[care(ended=NINE - 71 * HOUR)])),
    ("care-relation", "no patient", rows(purposes(9, "TREAT"))),
    ("refused-charts", "four", rows(signals=signals(4, *DENIED, asked="chart"))),
    ("refused-charts", "other kinds", rows(signals=signals(9, *DENIED, asked="cohort.text"))),
    ("same-surname", "another name", rows(CHART, care=[care(label="Weberova, female, born 1950s")])),
    ("same-surname", "an ordinary label", rows(CHART, care=[care()])),
    ("co-worker", "flagged elsewhere", rows(CHART, watched=[Watched(patient="p0", hospital="lake", kind="staff")])),
    ("co-worker", "the surname alone", rows(CHART, care=[care(label="Okafor, born 1950s")])),
    ("co-worker", "a vip is no colleague", rows(CHART, watched=VIP)),
    ("vip", "another patient", rows([asked(0, patient="p1")], watched=VIP)),
    ("vip", "flagged elsewhere", rows(CHART, watched=[Watched(patient="p0", hospital="lake", kind="vip")])),
    ("serial-cases", "eleven", rows(patients(11), past=past(10))),
    ("serial-cases", "slowly", rows(patients(40, minutes=6), past=past(10))),
    ("serial-cases", "as always", rows(patients(14), past=past(10, patients=6))),
    ("serial-cases", "new staff, many", rows(patients(24), past=past(9))),
    ("serial-cases", "one patient often", rows([asked(n, patient="p0") for n in range(40)], past=past(10))),
    ("odd-hours", "two at night", rows(at_night(2), past=past(15), hours={1: DAYTIME})),
    ("odd-hours", "new staff", rows(at_night(9), past=past(14), hours={1: DAYTIME})),
    ("odd-hours", "little past", rows(at_night(9), past=past(15), hours={1: (0,) * 9 + (59,) + (0,) * 14})),
    ("odd-hours", "a night worker", rows(at_night(9), past=past(15), hours={1: (30,) * 6 + (0,) * 18})),
    ("odd-hours", "one in a hundred", rows(at_night(9), past=past(15), hours={1: (0, 0, 0, 1, 0, 0, 0, 0, 99, *NONE)})),
    ("odd-hours", "by day", rows(purposes(30, "TREAT"), past=past(15), hours={1: DAYTIME})),
    ("volume", "twenty-nine", rows(purposes(29, "TREAT"), past=past(10, requests=1))),
    ("volume", "new staff", rows(purposes(80, "TREAT"), past=past(9))),
    ("volume", "as always", rows(purposes(50, "TREAT"), past=past(10, requests=45))),
    ("volume", "as the department", rows(purposes(50, "TREAT"), past=[*past(10), *past(40, person=2, requests=50)])),
    ("purpose", "four", rows(purposes(4, "HRESCH"))),
    ("purpose", "the role's", rows(purposes(30, "ETREAT"))),
    ("budget-refusals", "five", rows(signals=signals(5, *SPENT))),
    ("budget-refusals", "other failures", rows(signals=signals(9, "request.fail", "no_node"))),
    ("narrowing", "seven", rows(counts(7))),
    ("narrowing", "dear ones", rows(counts(20, epsilon=0.3))),
    ("narrowing", "slowly", rows(counts(20, minutes=16))),
    ("narrowing", "unlike in length", rows(counts(20, grow=49))),
    ("narrowing", "the same one again", rows(counts(20, digest=b"same"))),
    ("near-identical", "rising, but seven", rows(counts(7), past=[*past(10)[:9], *past(1, alike=5)])),
    ("near-identical", "many, not rising", rows(counts(12), past=past(10))),
    ("near-identical", "rising, as usual", rows(counts(12), past=[*past(8, alike=8), *past(2)[:1], *past(1, alike=8)])),
    ("near-identical", "no past", rows(counts(12))),
    ("sign-ins", "four", rows(signals=failures(4))),
    ("sign-ins", "no success", rows(signals=failures(9, then="failed"))),
    ("sign-ins", "far apart", rows(signals=failures(9, minutes=31))),
]


@pytest.mark.parametrize(("rule", "case", "found"), FINDS, ids=lambda value: value if isinstance(value, str) else "")
def test_it_finds(rule: str, case: str, found: Rows) -> None:
    (hit,) = hits(rule, found)
    assert hit.person == ANNA.id and 0 < hit.score <= 100 and hit.weight > 0
    assert len(hit.sentence) <= 400
    known = {row.id for row in found.asked}
    assert set(hit.requests) <= known and set(hit.seqs) <= {row.seq for row in found.signals}
    charts = {"care-relation", "same-surname", "co-worker", "vip"}
    assert hit.patient == ("p0" if rule in charts else "")
    assert "p0" not in hit.sentence and "Weber" not in hit.sentence


@pytest.mark.parametrize(("rule", "case", "found"), SPARES, ids=lambda value: value if isinstance(value, str) else "")
def test_it_spares(rule: str, case: str, found: Rows) -> None:
    assert hits(rule, found) == []


def test_every_rule_is_seen_to_find_and_to_spare() -> None:
    assert {rule for rule, _, _ in FINDS} == {rule for rule, _, _ in SPARES} == set(RULES)


def test_a_score_says_how_far_beyond_the_limit() -> None:
    (at_limit,) = hits("purpose", rows(purposes(5, "HRESCH")))
    (twice,) = hits("purpose", rows(purposes(10, "HRESCH")))
    (more,) = hits("purpose", rows(purposes(40, "HRESCH")))
    assert (at_limit.score, twice.score, more.score) == (50, 100, 100)


def first(rule: str, found: Rows) -> str:
    (hit,) = hits(rule, found)
    return hit.sentence


def test_sentences_say_what_the_rows_say() -> None:
    refused = [asked(0, patient="p0", reason="policy_denied"), asked(1, patient="p0")]
    assert first("care-relation", rows(CHART)) == "Asked once about a patient who was never in care."
    told = first("care-relation", rows(refused))
    assert told == "Asked 2 times about a patient who was never in care. The hospital's node refused once."
    assert "before the care began" in first("care-relation", rows(CHART, care=[care(since=NINE + HOUR)]))
    assert "after the care had ended" in first("care-relation", rows(CHART, care=[care(ended=NINE - 99 * HOUR)]))
    assert "in their care for a while" in first("vip", rows(CHART, care=[care()], watched=VIP))
    assert "new to their care, or not in it" in first("vip", rows(CHART, watched=VIP))
    mixed = [*signals(4, *SPENT), *signals(3, "request.fail", "block_exhausted")]
    assert first("budget-refusals", rows(signals=mixed)).startswith("Refused 7 times for want of budget, 3 of them")


def test_who_was_never_in_care_stands_above_who_had_left_it() -> None:
    (never,) = hits("care-relation", rows(CHART))
    (left,) = hits("care-relation", rows(CHART, care=[care(ended=START - 99 * HOUR)]))
    assert never.score > left.score


def test_the_longest_row_of_failures_is_told() -> None:
    later = [replace(row, seq=row.seq + 200, at=row.at + 5 * HOUR) for row in failures(7)]
    latest = [replace(row, seq=row.seq + 400, at=row.at + 9 * HOUR) for row in failures(5)]
    assert first("sign-ins", rows(signals=[*failures(5), *later, *latest])).startswith("7 failed")


def test_of_several_shapes_of_question_the_most_frequent_is_told() -> None:
    others = [replace(row, kind="cohort.choice", id=UUID(int=row.id.int + 99)) for row in counts(3)]
    found = rows([*counts(12), *others], past=[*past(10)[:9], *past(1, alike=5)])
    assert first("near-identical", found).startswith("12 questions alike (cohort.count), after 2, 5 on")


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 9)), max_size=40), st.integers(0, 60))
def test_the_stretch_with_most_patients_is_found(drawn: list[tuple[int, int]], minutes: int) -> None:
    row_of = [asked(n, patient=f"p{who}", at=NINE + timedelta(minutes=at)) for n, (at, who) in enumerate(sorted(drawn))]
    span = timedelta(minutes=minutes)
    best = max((len({r.patient for r in row_of if a.at <= r.at <= a.at + span}) for a in row_of), default=0)
    found = most_patients(row_of, span)
    assert len({row.patient for row in found}) == best
    assert not found or found[-1].at - found[0].at <= span


def test_ones_own_chart_is_told_from_a_colleagues() -> None:
    own = [Watched(patient="p0", hospital="north", kind="staff", user=ANNA.id)]
    (hit,) = hits("co-worker", rows(CHART, watched=own))
    assert "their own chart" in hit.sentence and hit.score == 80


def test_people_with_a_name_alike_at_another_hospital_are_no_colleagues() -> None:
    found = rows(CHART, care=[care(label="Okafor Ben")])
    only_far = {person.id: person for person in (ANNA, FAR)}
    alone = Rows(start=found.start, end=found.end, people=only_far, asked=found.asked, care=found.care)
    assert hits("co-worker", alone) == []


def test_failures_before_midnight_count_with_a_success_after_it() -> None:
    shifted = [replace(row, at=row.at - 9 * HOUR - timedelta(minutes=5)) for row in failures(6)]
    assert shifted[0].at < START <= shifted[-1].at
    assert len(hits("sign-ins", rows(signals=shifted))) == 1
    yesterday = [replace(row, at=row.at - HOUR) for row in shifted]
    assert hits("sign-ins", rows(signals=yesterday)) == []


def test_wild_days_of_the_past_hide_nobody() -> None:
    wild = [*past(11), *past(2, requests=500)]
    assert len(hits("volume", rows(purposes(50, "TREAT"), past=wild))) == 1


@pytest.mark.parametrize(
    ("value", "history", "expected"),
    [(12, [10] * 9, 2 / 10**0.5), (3, [0] * 9, 3.0), (50, [10, 20, 30], (50 - 20) / 14.826), (5, [5], 0.0)],
)
def test_robust_deviations(value: float, history: list[float], expected: float) -> None:
    assert robust_z(value, history) == pytest.approx(expected)


def test_robust_deviations_need_a_history() -> None:
    with pytest.raises(ValueError, match="no history"):
        robust_z(1, [])


def test_hours_are_near_around_midnight() -> None:
    hours = [0] * 24
    hours[23] = 10
    assert (share_near(hours, 0, 1), share_near(hours, 1, 1), share_near([0] * 24, 5, 1)) == (1.0, 0.0, 0.0)
