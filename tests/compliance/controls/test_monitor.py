"""The SDK's compliance monitor: inside the platform over its evidence, outside a clear refusal."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connection
from django.utils import timezone

import fdrouter
from compliance.models import Event
from fdrouter import ComplianceMonitor
from fdrouter.errors import InvalidParameter, PolicyDenied
from tests.compliance.network import Network

ROOT = Path(__file__).resolve().parents[3]


def test_outside_of_the_platform_it_says_so() -> None:
    program = (
        "import fdrouter\ntry:\n    fdrouter.ComplianceMonitor()\nexcept fdrouter.InvalidParameter as e:\n    print(e)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Django settings" in done.stdout, done.stderr
    assert "ComplianceMonitor" in fdrouter.__all__


def test_it_acts_for_an_officer_or_auditor(network: Network) -> None:
    ComplianceMonitor()
    ComplianceMonitor(user="auditor")
    for name in ("clinician", "nobody"):
        with pytest.raises(InvalidParameter, match="officer or auditor"):
            ComplianceMonitor(user=name)


def test_who_is_meant_must_be_clear(db: None) -> None:
    with pytest.raises(InvalidParameter, match="Name the officer"):
        ComplianceMonitor()


# --- tracking -----------------------------------------------------------------------------------------------------
def calls() -> list[tuple[str, dict[str, Any]]]:
    return [(event.outcome, event.details) for event in Event.objects.filter(kind="monitor.call").order_by("seq")]


def test_a_tracked_call_is_evidence_without_its_contents(network: Network) -> None:
    @ComplianceMonitor().track
    def process_patient_query(query: str) -> str:
        """Answers."""
        return query.upper()

    assert process_patient_query("secret cough") == "SECRET COUGH"
    assert process_patient_query.__doc__ == "Answers."
    (first, begun), (second, ended) = calls()
    assert (first, second) == ("begun", "ok") and "process_patient_query" in begun["function"]
    assert ended["seconds"] >= 0 and "cough" not in json.dumps([begun, ended]).lower()


def test_a_failure_is_named_and_goes_on(network: Network) -> None:
    @ComplianceMonitor().track
    def broken() -> None:
        raise KeyError("of patient 7")

    with pytest.raises(KeyError):
        broken()
    outcome, details = calls()[-1]
    assert (outcome, details["error"]) == ("failed", "KeyError") and "7" not in json.dumps(details["error"])


def test_a_control_that_is_not_met_stops_the_call(network: Network) -> None:
    ran = []

    @ComplianceMonitor().track
    def process() -> None:
        ran.append(1)

    process()
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cursor.execute("ALTER TABLE compliance_leaf DISABLE TRIGGER compliance_leaf_append_only")
    with pytest.raises(PolicyDenied, match="is not met"):
        process()
    assert ran == [1] and [outcome for outcome, _ in calls()] == ["begun", "ok", "refused"]


def test_what_is_required_can_be_chosen_and_must_exist(network: Network) -> None:
    monitor = ComplianceMonitor()

    @monitor.track(requires=["onc-d13"])
    def process() -> None:
        raise AssertionError("must not run")

    with pytest.raises(PolicyDenied):
        process()
    for wrong in (["no-such-control"], "onc-d13"):
        with pytest.raises(InvalidParameter, match="requires"):
            monitor.track(requires=wrong)


def test_coroutines_are_tracked_too(network: Network) -> None:
    @ComplianceMonitor().track
    async def process(query: str) -> str:
        return query

    assert async_to_sync(process)("x") == "x"
    assert [outcome for outcome, _ in calls()] == ["begun", "ok"]


# --- reports ------------------------------------------------------------------------------------------------------
def test_the_report_says_what_the_matrix_says(network: Network) -> None:
    report = ComplianceMonitor().generate_report(period="monthly", include_privacy_metrics=True, format="json")
    facts = json.loads(report.content)
    assert len(report.sha256) == 64 and report.media_type == "application/json"
    assert sum(facts["counts"].values()) == len(facts["controls"])
    assert facts["period"]["start"] == f"{timezone.localdate().replace(day=1)}"
    assert {block["hospital"] for block in facts["privacy"]["blocks"]} == {"northfield", "lakeside"}
    assert Event.objects.filter(kind="controls.export", actor_id=network.officer.pk).count() == 1


def test_a_table_has_the_controls_alone(network: Network, tmp_path: Path) -> None:
    monitor = ComplianceMonitor("lakeside.officer")
    with pytest.raises(InvalidParameter, match="include_privacy_metrics=False"):
        monitor.generate_report(format="csv")
    report = monitor.generate_report("weekly", False, "csv")
    file = report.save(tmp_path / "controls.csv")
    rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"))))
    assert len(rows) == len(report.facts["controls"]) and "privacy" not in report.facts
    assert report.facts["scope"] == "lakeside"


@pytest.mark.parametrize(
    "arguments",
    [
        {"period": "yearly"},
        {"period": 7},
        {"period": (timezone.localdate(), timezone.localdate() - timedelta(days=1))},
        {"period": (timezone.localdate() + timedelta(days=3), timezone.localdate() + timedelta(days=4))},
        {"format": "docx"},
        {"format": "pdf", "include_privacy_metrics": False},
    ],
)
def test_what_cannot_be_is_refused(network: Network, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidParameter):
        ComplianceMonitor().generate_report(**arguments)


@pytest.mark.filterwarnings("ignore:unclosed file .*sRGB2014.icc:ResourceWarning")
def test_the_pdf_is_the_portals_report(network: Network) -> None:
    report = ComplianceMonitor().generate_report(period="monthly", include_privacy_metrics=True, format="pdf")
    assert report.content.startswith(b"%PDF-") and report.facts["controls"]
    kinds = Event.objects.filter(kind__startswith="report.").order_by("seq").values_list("kind", flat=True)
    assert list(kinds) == ["report.request", "report.finish", "report.download"]
    with pytest.raises(PolicyDenied):
        ComplianceMonitor("auditor").generate_report(format="pdf")
