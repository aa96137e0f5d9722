"""The patient access report: whose accesses, who may ask, classes, what it cannot tell, and its own evidence."""

from __future__ import annotations

import csv
import io
import json
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from accounts.models import CareRelation, Department, Role
from compliance.log import entries
from compliance.models import Event
from compliance.period import last_days
from compliance.subjects import selectors
from compliance.subjects.accounting import classify
from compliance.subjects.forms import six_years_before
from compliance.subjects.selectors import Subject
from federation.models import Inference
from tests.accounts import people
from tests.compliance.network import SECRET, Network, SignIn, ask
from tests.compliance.people.test_pages import fill

pytestmark = pytest.mark.django_db
PATH = "/portal/patient"


def asked(network: Network, reference: str = "north-0001", **changes: Any) -> Inference:
    row = ask(network.clinician, kind="chart")
    Inference.objects.filter(pk=row.pk).update(patient_reference=reference, **changes)
    return row


def form(reference: str = "north-0001", hospital: str = "northfield", **more: str) -> dict[str, str]:
    return {"reference": reference, "hospital": hospital, **more}


def test_only_officers_of_the_hospital_or_network_ask(network: Network, as_user: SignIn) -> None:
    asked(network)
    assert as_user(network.officer).post(PATH, form()).context["counts"]["accesses"] == 1
    north = people.person("north.officer", Role.PRIVACY_OFFICER, at=people.hospital())
    assert as_user(north).post(PATH, form()).context["counts"]["accesses"] == 1
    other = as_user(network.lakeside_officer).post(PATH, form())
    assert other.status_code == 422 and "asked" not in other.context
    auditor = as_user(network.auditor)
    assert auditor.get(PATH).status_code == 200 and b'name="reference"' not in auditor.get(PATH).content
    for data in (form(), {}, form(format="json")):
        assert auditor.post(PATH, data).status_code == 403
    for user in (network.clinician, network.operator, network.outsider):
        assert as_user(user).get(PATH).status_code == as_user(user).post(PATH, form()).status_code == 404
    assert Event.objects.filter(kind="patient.report", outcome="ok").count() == 2
    assert Event.objects.filter(kind="patient.report", outcome="denied").count() == 3


def test_each_access_with_who_when_why_and_its_events(network: Network, as_user: SignIn) -> None:
    row = asked(network)
    page = as_user(network.officer).post(PATH, form())
    (access,) = page.context["page"]
    assert (access.username, access.department, access.purpose) == ("clinician", "Cardiology", "Treatment")
    assert (access.role, access.outcome, access.node) == ("Attending", "done", "northfield")
    assert [step.kind for step in access.steps] == ["policy.decision", "request.submit", "request.finish"]
    assert access.request == row.pk and not access.accounting.owed and "treatment" in access.accounting.reason
    assert SECRET not in page.content and b"treatment, 164.528(a)(1)(i)" in page.content


def test_the_same_reference_of_another_hospital_is_another_patient(network: Network, as_user: SignIn) -> None:
    asked(network)
    theirs = as_user(network.lakeside_officer).post(PATH, form(hospital="lakeside"))
    assert theirs.status_code == 200 and theirs.context["counts"]["accesses"] == 0
    asked(network, hospitals=["lakeside"], node="lakeside")
    assert as_user(network.lakeside_officer).post(PATH, form(hospital="lakeside")).context["counts"]["accesses"] == 1
    assert as_user(network.officer).post(PATH, form()).context["counts"]["accesses"] == 1


def test_whether_the_patient_was_in_care_at_that_time(network: Network, as_user: SignIn) -> None:
    row = asked(network)
    at = Inference.objects.get(pk=row.pk).created_at
    cardiology = Department.objects.get(code="cardiology")

    def known() -> bool:
        return bool(as_user(network.officer).post(PATH, form()).context["page"][0].in_care)

    relation = people.in_care("north-0001", of=cardiology)
    assert not known()  # it began after the request
    CareRelation.objects.filter(pk=relation.pk).update(since=at - timedelta(days=1))
    assert known()
    CareRelation.objects.filter(pk=relation.pk).update(ended_at=at - timedelta(hours=1))
    assert not known()
    CareRelation.objects.filter(pk=relation.pk).update(ended_at=at + timedelta(hours=1))
    assert known()
    CareRelation.objects.filter(pk=relation.pk).update(department=people.department("surgery"))
    assert not known()  # another department's


def test_nobody_asked(network: Network, as_user: SignIn) -> None:
    people.in_care("north-0002")
    for reference in ("north-0002", "north-9999"):
        page = as_user(network.officer).post(PATH, form(reference))
        assert page.status_code == 200 and b"Nobody asked about this reference" in page.content
        assert b"cannot tell whether the hospital has such a patient" in page.content
    files = as_user(network.officer).post(PATH, form("north-9999", format="json"))
    assert json.loads(files.content)["accesses"] == []


@pytest.mark.parametrize(
    "reference", ["", " ", "x" * 65, "<script>", "'; DROP TABLE", "a b", "a\x00b", "-north", "näme", "%", "*"]
)
def test_nonsense_is_refused_without_a_report(reference: str, network: Network, as_user: SignIn) -> None:
    asked(network)
    page = as_user(network.officer).post(PATH, form(reference))
    assert page.status_code == 422 and "asked" not in page.context
    assert not Event.objects.filter(kind="patient.report").exists()


def test_six_years_at_most(network: Network, as_user: SignIn) -> None:
    row, today = asked(network), timezone.localdate()
    client = as_user(network.officer)
    old = timezone.now() - timedelta(days=5 * 365)
    Inference.objects.filter(pk=row.pk).update(created_at=old)
    assert client.post(PATH, form()).context["counts"]["accesses"] == 1
    Inference.objects.filter(pk=row.pk).update(created_at=timezone.now() - timedelta(days=6 * 365 + 10))
    assert client.post(PATH, form()).context["counts"]["accesses"] == 0
    too_long = six_years_before(today) - timedelta(days=1)
    for start, end in ((too_long, today), (today, today - timedelta(days=1)), (today, today + timedelta(days=9))):
        assert client.post(PATH, form(start=start.isoformat(), end=end.isoformat())).status_code == 422
    assert client.post(PATH, form(start="yesterday")).status_code == 422


def test_looking_and_downloading_are_events_that_name_nobody_in_clear(network: Network, as_user: SignIn) -> None:
    asked(network)
    client = as_user(network.officer)
    client.post(PATH, form())
    table = client.post(PATH, form(format="csv"))
    (line,) = csv.DictReader(io.StringIO(table.content.decode()))
    assert (line["user"], line["accounting"], line["in_care_at_the_time"]) == ("clinician", "exempt", "no")
    document = json.loads(client.post(PATH, form(format="json")).content)
    assert document["accesses"][0]["steps"] and document["counts"]["accesses"] == 1 and len(document["limits"]) == 4
    assert "north-0001" not in table.headers["Content-Disposition"]
    told = list(Event.objects.filter(kind__startswith="patient.").order_by("seq"))
    assert [(e.kind, e.details.get("format")) for e in told] == [
        ("patient.report", None),
        ("patient.export", "csv"),
        ("patient.export", "json"),
    ]
    for event in told:
        assert "north-0001" not in str(event.details) and event.purpose == "PATRQT" and event.hospital == "northfield"
        opened = entries.private_part(event)
        assert opened is not None and json.loads(opened[1]) == {"patient_reference": "north-0001"}


def test_the_page_says_what_can_never_be_told(network: Network, as_user: SignIn) -> None:
    text = as_user(network.officer).get(PATH).content.decode()
    assert "can never be told" in text and "/portal/blocks" in text and "not asked yet" in text
    assert " style=" not in text and "<style" not in text


@pytest.mark.parametrize(
    ("purpose", "inside", "owed", "words"),
    [
        ("TREAT", False, False, "treatment"),
        ("ETREAT", True, False, "treatment"),
        ("HPAYMT", False, False, "payment"),
        ("HQUALIMP", False, False, "operations"),
        ("PATRQT", False, False, "to the patient"),
        ("HRESCH", True, False, "use inside"),
        ("HRESCH", False, True, "Counts"),
        ("SOMETHING", False, True, "Counts"),
    ],
)
def test_classes_of_the_accounting(purpose: str, inside: bool, owed: bool, words: str) -> None:
    found = classify(purpose, inside=inside)
    assert found.owed is owed and words in found.reason


def test_a_patient_is_found_through_an_index_however_many_requests_there_are(network: Network) -> None:
    fill(asked(network).membership)
    subject = Subject(hospital="northfield", reference="north-17", period=last_days(2000))
    plan = selectors.rows(subject).explain()
    assert "inference_by_patient" in plan and "Seq Scan on federation_inference" not in plan, plan
    assert len(selectors.accesses(subject)) == 4
