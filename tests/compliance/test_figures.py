"""One figure, the same everywhere: rows, pages, facts."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta

import pytest
from django.db.models import Sum
from django.utils import timezone

from accounts import principals
from accounts.models import Department
from compliance import blocks, budgets, facts, period
from compliance.models import Event
from compliance.period import Period
from federation.models import Inference, Node
from privacy.models import Entry, Scope, ScopeKind
from tests.compliance.network import Network, SignIn, ask


def _spent(department: Department) -> int:
    rows = Entry.objects.filter(scope__key=f"department:{department.pk}", scope__unit="micro_epsilon")
    return rows.exclude(kind="reset").aggregate(total=Sum("amount"))["total"] or 0


def test_the_ledger_page_says_what_the_rows_say(network: Network, as_user: SignIn) -> None:
    page = as_user(network.officer).get("/portal/ledger").context
    spent = {(row.hospital, row.code): row.spent for row in page["departments"]}
    assert spent == {(d.hospital_id, d.code): _spent(d) for d in Department.objects.all()}
    assert spent == {("northfield", "cardiology"): 3_500_000, ("lakeside", "emergency"): 3_750_000}
    open_ = {row.hospital: row.open for row in page["departments"]}
    assert open_ == {"northfield": 0, "lakeside": 500_000}
    left = {row.hospital: row.left_today for row in page["departments"]}
    assert left == {"northfield": 6_500_000, "lakeside": 16_250_000}
    charged = {row.code: (row.receipts, row.receipts_epsilon) for row in page["hospitals"]}
    assert charged == {"northfield": (1, 1_500_000), "lakeside": (2, 5_250_000)}
    assert page["departments_sum"] == sum(row.spent for row in page["hospitals"])
    for values in page["daily"]:
        assert values[0] != timezone.localdate().isoformat() or sum(values[1]) == page["departments_sum"]


def test_pages_and_facts_agree(network: Network, as_user: SignIn) -> None:
    client = as_user(network.officer)
    month = period.month_to_date()
    frozen = facts.collect(network.principal, month).facts
    chosen = {"start": month.start.isoformat(), "end": month.end.isoformat()}
    ledger = client.get("/portal/ledger", chosen).context
    requests = client.get("/portal/requests", chosen).context
    assert frozen["departments"] == [asdict(row) for row in ledger["departments"]]
    assert frozen["hospitals"] == [asdict(row) for row in ledger["hospitals"]]
    assert frozen["blocks"] == [asdict(row) for row in ledger["blocks"]]
    assert frozen["requests"]["kinds"] == [asdict(row) for row in requests["counts"]]
    assert frozen["requests"]["total"] == asdict(requests["total"])
    assert frozen["requests"]["total"]["total"] == requests["page"].paginator.count == Inference.objects.count()
    assert frozen["evidence"]["total"] == Event.objects.count()


def test_a_hospitals_facts_are_its_own(network: Network) -> None:
    month = period.month_to_date()
    frozen = facts.collect(principals.for_user(network.lakeside_officer.pk), month, "lakeside").facts
    assert [row["hospital"] for row in frozen["departments"]] == ["lakeside"]
    assert frozen == {
        **facts.collect(network.principal, month, "lakeside").facts,
        "requested_by": "lakeside.officer",
    } | {"generated_at": frozen["generated_at"]}
    assert frozen["requests"]["total"]["total"] == 4


def test_today_counts_what_it_leads_to(network: Network, as_user: SignIn) -> None:
    client = as_user(network.officer)
    page = client.get("/portal/").context
    assert page["total"].total == 7
    assert page["failed_sign_ins"] == 1
    assert [node.id for node in page["unseen"]] == ["lakeside"]
    day = timezone.localdate().isoformat()
    rows = client.get(f"/portal/events?kind=session.sign_in&outcome=failed&start={day}&end={day}").context["page"]
    assert rows.paginator.count == page["failed_sign_ins"]


def test_yesterdays_use_is_not_todays(network: Network) -> None:
    yesterday = timezone.localdate() - timedelta(days=1)
    Scope.objects.filter(kind="department").update(period=yesterday)
    rows = budgets.departments(network.principal, period.today())
    assert {row.spent_today for row in rows} == {0}
    assert {row.left_today == row.cap for row in rows} == {True}


def test_a_department_that_asked_nothing_has_its_default_quota(network: Network) -> None:
    Department.objects.create(hospital_id="lakeside", code="research", name="Research")
    row = next(row for row in budgets.departments(network.principal, period.today()) if row.code == "research")
    assert (row.cap, row.left_today, row.spent) == (2_000_000, 2_000_000, 0)


def test_the_forecast_adds_up_renyi_divergence(network: Network) -> None:
    def forecast() -> str | None:
        return next(b for b in blocks.reported(network.principal) if b.hospital == "lakeside").runs_out_on

    assert forecast() is None  # two answers are no pace
    ask(network.neighbour, epsilon=1.0, answered_by="lakeside")
    # Three receipts of divergence 0.34 in seven days; 4.06 of 6.06 left.
    days = int((6.06 - 2.0) / (3 * 0.1 * 3.4 / 7))
    assert forecast() == (timezone.localdate() + timedelta(days=days)).isoformat()


@pytest.mark.parametrize(
    "block", [None, [], "no", {"epsilon": "10"}, {"epsilon": 10, "cap": 0}, {"epsilon": float("1e9")}]
)
def test_a_nodes_nonsense_is_no_block(block: object, network: Network) -> None:
    Node.objects.filter(pk="lakeside").update(status={"block": block})
    assert [found.hospital for found in blocks.reported(network.principal)] == ["northfield"]


def test_no_page_shows_figures_of_a_block_that_a_reader_could_subtract(network: Network, as_user: SignIn) -> None:
    """Epsilon does not add up: the cap never stands beside what was spent or what still fits."""
    client = as_user(network.officer)
    today = " ".join(client.get("/portal/").content.decode().split())
    for block in blocks.reported(network.principal):
        assert block.largest == 4.75
        assert f"{round(100 * block.left_share)}% left" in today
        assert "still fits: epsilon 4.75. Composed epsilon spent so far: 5.25." in today
    assert "5.25 of 10" not in today
    ledger = client.get("/portal/ledger").context["charts"]["chart-blocks"]
    assert [series["name"] for series in ledger["series"]] == ["Left"]
    assert (ledger["unit"], ledger["top"]) == ("per cent", 100)


def test_a_range_without_rows_is_empty_not_wrong(network: Network) -> None:
    past = Period(timezone.localdate() - timedelta(days=400), timezone.localdate() - timedelta(days=390))
    rows = budgets.departments(network.principal, past)
    assert {(row.spent, row.open, row.requests, row.peak_day) for row in rows} == {(0, 0, 0, None)}


def test_a_release_told_again_counts_as_none(network: Network) -> None:
    before = {row.code: row.receipts_epsilon for row in hospital_rows(network)}
    row = ask(network.neighbour, epsilon=1.0, answered_by="lakeside")
    assert {r.code: r.receipts_epsilon for r in hospital_rows(network)}["lakeside"] == before["lakeside"] + 1_000_000
    assert row.receipt is not None
    told = {**row.receipt["body"]["mechanism"], "repeat_of": "x", "nano_rdp_spent": 0}
    Inference.objects.filter(pk=row.pk).update(receipt={"body": {**row.receipt["body"], "mechanism": told}})
    assert {r.code: r.receipts_epsilon for r in hospital_rows(network)} == before


def test_a_hospitals_allowance_is_its_own_and_not_the_departments_sum(network: Network) -> None:
    left = {row.code: (row.cap, row.left_today) for row in hospital_rows(network)}
    scope = Scope.objects.get(kind=ScopeKind.HOSPITAL, key="hospital:northfield")
    assert left["northfield"] == (60_000_000, 60_000_000 - scope.used)


def hospital_rows(network: Network) -> list[budgets.HospitalSpend]:
    day = period.today()
    return budgets.by_hospital(network.principal, day, budgets.departments(network.principal, day))
