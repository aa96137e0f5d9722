"""The pages of findings and cases: who sees them, filters, the file, steps by form, no contents."""

from __future__ import annotations

import csv
import io
import uuid
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from accounts.models import Role, User
from compliance.anomalies import cases
from compliance.anomalies.models import AnomalyCase, WatchedPatient
from compliance.models import Event
from tests.accounts import people
from tests.compliance.anomalies.made import finding
from tests.compliance.network import SECRET, Network, SignIn

PAGES = ("/portal/anomalies", "/portal/anomalies.csv", "/portal/anomalies/rules", "/portal/anomalies/watch")
LISTS = (*PAGES, "/portal/cases")


@pytest.fixture
def case(network: Network) -> AnomalyCase:
    return cases.open_from_findings(network.principal, [finding(network.clinician).pk], "As the finding says.")


@pytest.mark.parametrize("path", LISTS)
def test_officers_and_auditors_read_and_everybody_else_finds_nothing(
    path: str, network: Network, as_user: SignIn, case: AnomalyCase
) -> None:
    for user in (network.officer, network.auditor, network.lakeside_officer):
        page = as_user(user).get(path)
        assert page.status_code == 200 and SECRET not in page.content
    for user in (network.clinician, network.operator, network.outsider):
        assert as_user(user).get(path).status_code == 404
    assert Client().get(path).status_code == 302


def test_a_case_is_its_hospitals(network: Network, as_user: SignIn, case: AnomalyCase) -> None:
    path = f"/portal/cases/{case.pk}"
    assert as_user(network.officer).get(path).status_code == 200
    read = as_user(network.auditor).get(path)
    assert read.status_code == 200 and b"As the finding says." in read.content and b"Decide" not in read.content
    for user in (network.lakeside_officer, network.clinician, network.outsider):
        assert as_user(user).get(path).status_code == 404
        assert as_user(user).post(f"{path}/note", {"note-note": "mine"}).status_code == 404
    assert as_user(network.auditor).post(f"{path}/note", {"note-note": "mine"}).status_code == 403
    assert Event.objects.filter(kind="anomaly.case", outcome="denied", subject=case.pk).count() == 1
    assert case.notes.count() == 1


def test_findings_of_another_hospital_are_not_there(network: Network, as_user: SignIn) -> None:
    here, there = finding(network.clinician), finding(network.neighbour)
    page = as_user(network.lakeside_officer).get("/portal/anomalies").context["page"]
    assert [row.pk for row in page] == [there.pk]
    taken = as_user(network.lakeside_officer).post("/portal/cases/from-findings", {"finding": [str(here.pk)]})
    assert taken.status_code == 404 and not AnomalyCase.objects.exists()
    assert {row.pk for row in as_user(network.officer).get("/portal/anomalies").context["page"]} == {here.pk, there.pk}


def test_filters_and_sorting(network: Network, as_user: SignIn) -> None:
    client = as_user(network.officer)
    old = finding(network.clinician, days_ago=45)
    low = finding(network.clinician, rule="volume", score=50)
    high = finding(network.neighbour, rule="vip", score=90, patient="lake-0001")

    def shown(**asked: str) -> list[uuid.UUID]:
        return [row.pk for row in client.get("/portal/anomalies", asked).context["page"]]

    assert shown(sort="-score") == [high.pk, low.pk] and shown(sort="score") == [low.pk, high.pk]
    assert shown(rule="vip") == shown(person="neighb") == shown(hospital="lakeside") == [high.pk]
    start = (timezone.localdate() - timedelta(days=60)).isoformat()
    assert old.pk in shown(start=start)
    cases.open_from_findings(network.principal, [low.pk])
    assert shown(state="waiting") == [high.pk] and shown(state="working") == [low.pk] and shown(state="closed") == []
    wrong = client.get("/portal/anomalies", {"rule": "splendid"})
    assert wrong.status_code == 422 and b"Nothing is shown" in wrong.content
    for column in ("time", "rule", "person", "patient", "rows", "state", "hospital", "department", "sentence"):
        assert len(shown(sort=column)) == len(shown(sort=f"-{column}")) == 2


def test_the_file_holds_the_filtered_rows_and_is_an_event(network: Network, as_user: SignIn) -> None:
    finding(network.clinician, sentence="=HYPERLINK(1)")
    finding(network.neighbour, rule="vip")
    answer = as_user(network.auditor).get("/portal/anomalies.csv", {"hospital": "northfield"})
    (line,) = csv.DictReader(io.StringIO(answer.content.decode()))
    assert line["person"] == "clinician" and line["sentence"] == "'=HYPERLINK(1)"
    made = Event.objects.get(kind="anomaly.export")
    assert made.actor_id == network.auditor.pk and made.details["rows"] == 1
    assert as_user(network.auditor).get("/portal/anomalies.csv", {"state": "splendid"}).status_code == 422


def test_a_case_goes_its_way_by_forms(network: Network, as_user: SignIn) -> None:
    client = as_user(network.officer)
    one, two = finding(network.clinician), finding(network.clinician, rule="vip", patient="north-0001")
    client.post("/portal/cases/from-findings", {"finding": [str(one.pk)]})
    case = AnomalyCase.objects.get()
    path = f"/portal/cases/{case.pk}"
    assert client.post(f"{path}/link", {"finding": [str(two.pk)]}).status_code == 302
    assert case.findings.count() == 2
    client.post(f"{path}/assign", {"version": 1, "assignee": network.officer.pk})
    empty = client.post(f"{path}/decide", {"version": 2, "decide-decision": "no_issue", "decide-note": ""})
    assert empty.status_code == 422 and empty.context["decide_form"].errors["note"]
    kept = client.post(f"{path}/decide", {"version": 2, "decide-decision": "x", "decide-note": "Careful words."})
    assert kept.status_code == 422 and b"Careful words." in kept.content
    answer = {"version": 2, "decide-decision": "policy_reminder", "decide-note": "Talked to her."}
    assert client.post(f"{path}/decide", answer).status_code == 302
    client.post(f"{path}/close", {"version": 3})
    client.post(f"{path}/reopen", {"version": 4, "reopen-note": "Something new."})
    case.refresh_from_db()
    assert (case.state, case.version, case.decision) == ("open", 5, "")
    client.get(path)  # reading is in the log and not among the steps
    page = client.get(path)
    told = [event.outcome for event, _ in page.context["steps"]]
    assert told == ["opened", "linked", "assigned", "decided", "noted", "closed", "reopened", "noted"]
    assert b"Talked to her." in page.content and b"after: policy reminder" in page.content
    stale = client.post(f"{path}/assign", {"version": 3, "assignee": network.officer.pk}, follow=True)
    assert b"moved this case on" in stale.content


@pytest.mark.parametrize(
    ("step", "data"),
    [
        ("assign", {}),
        ("assign", {"version": "x"}),
        ("link", {"finding": "x"}),
        ("dance", {}),
        ("close", {"version": ""}),
    ],
)
def test_nonsense_changes_nothing(
    step: str, data: dict[str, str], network: Network, as_user: SignIn, case: AnomalyCase
) -> None:
    answer = as_user(network.officer).post(f"/portal/cases/{case.pk}/{step}", data)
    assert answer.status_code in (404, 422)
    case.refresh_from_db()
    assert (case.state, case.version) == ("open", 1)


def test_findings_of_two_people_make_no_case(network: Network, as_user: SignIn) -> None:
    chosen = [str(finding(user).pk) for user in (network.clinician, network.neighbour)]
    page = as_user(network.officer).post("/portal/cases/from-findings", {"finding": chosen}, follow=True)
    assert b"choose findings of one" in page.content and not AnomalyCase.objects.exists()


def test_a_case_by_hand(network: Network, as_user: SignIn) -> None:
    client = as_user(network.lakeside_officer)
    assert client.post("/portal/cases/open", {"note": ""}).status_code == 422
    for name in ("clinician", "nobody", "lakeside.officer"):  # another hospital's, none, oneself
        page = client.post("/portal/cases/open", {"note": "A phone call.", "username": name})
        assert page.status_code == 422 and page.context["open_form"].errors["username"]
    assert not AnomalyCase.objects.exists()
    client.post("/portal/cases/open", {"note": "A phone call.", "username": "neighbour"})
    made = AnomalyCase.objects.get()
    assert (made.hospital, made.person_id, made.notes.count()) == ("lakeside", network.neighbour.pk, 1)
    assert as_user(network.auditor).post("/portal/cases/open", {"note": "A phone call."}).status_code == 403


def test_patients_are_flagged_by_officers_of_their_hospital(network: Network, as_user: SignIn) -> None:
    form = {"watch-hospital": "lakeside", "watch-reference": "lake-0001", "watch-kind": "vip"}
    client = as_user(network.lakeside_officer)
    assert client.post("/portal/anomalies/watch", form).status_code == 302
    assert client.post("/portal/anomalies/watch", form).status_code == 422  # already
    assert client.post("/portal/anomalies/watch", {**form, "watch-hospital": "northfield"}).status_code == 422
    assert as_user(network.auditor).post("/portal/anomalies/watch", form).status_code == 403
    row = WatchedPatient.objects.get()
    event = Event.objects.get(kind="anomaly.watch", outcome="added")
    assert "lake-0001" not in str(event.details) and event.sealed is not None
    north = people.person("north.officer", Role.PRIVACY_OFFICER, at=people.hospital())
    assert as_user(north).post(f"/portal/anomalies/watch/{row.pk}/end").status_code == 404
    assert client.post(f"/portal/anomalies/watch/{row.pk}/end").status_code == 302
    assert b"Nobody is flagged" in client.get("/portal/anomalies/watch").content


def test_today_shows_the_queue_with_the_oldest_clock_first(network: Network, as_user: SignIn) -> None:
    late = cases.open_by_hand(network.principal, note="First of all.", username="neighbour")
    cases.open_by_hand(network.principal, note="Then this.", username="clinician")
    AnomalyCase.objects.filter(pk=late.pk).update(
        due_at=timezone.now() - timedelta(days=1), version=2, state="assigned", assignee=network.officer
    )
    finding(network.clinician)
    queue = as_user(network.officer).get("/portal/").context["queue"]
    assert [row.pk for row in queue.cases][0] == late.pk and len(queue.cases) == 2
    assert (queue.waiting, queue.overdue, queue.findings) == (2, 1, 1)
    text = as_user(network.officer).get("/portal/").content
    assert b"overdue since" in text and b"1 finding of the anomaly rules" in text
    theirs = as_user(network.lakeside_officer).get("/portal/").context["queue"]
    assert (theirs.waiting, theirs.findings) == (1, 0)
    overdue = as_user(network.officer).get("/portal/cases", {"state": "overdue"}).context["page"]
    assert [row.pk for row in overdue] == [late.pk]


def test_what_is_about_oneself_is_not_there(network: Network, as_user: SignIn) -> None:
    mine = finding(network.lakeside_officer)
    other: User = network.officer
    case = cases.open_from_findings(network.principal, [mine.pk])
    client = as_user(network.lakeside_officer)
    assert not client.get("/portal/anomalies").context["page"].paginator.count
    assert not client.get("/portal/cases").context["page"].paginator.count
    assert client.get(f"/portal/cases/{case.pk}").status_code == 404
    assert b"lakeside.officer" not in client.get("/portal/anomalies.csv").content
    choices = as_user(other).get(f"/portal/cases/{case.pk}").context["assign_form"].fields["assignee"].choices
    assert str(network.lakeside_officer.pk) not in dict(choices) and str(other.pk) in dict(choices)


def test_pages_keep_the_strict_content_policy(network: Network, as_user: SignIn, case: AnomalyCase) -> None:
    for path in ("/portal/anomalies", "/portal/anomalies/rules", "/portal/cases", f"/portal/cases/{case.pk}"):
        text = as_user(network.officer).get(path).content.decode()
        assert " style=" not in text and "<style" not in text and " onclick=" not in text


def test_an_unknown_case_is_not_there(network: Network, as_user: SignIn) -> None:
    assert as_user(network.officer).get(f"/portal/cases/{uuid.uuid4()}").status_code == 404


def test_a_note_shows_as_text(network: Network, as_user: SignIn) -> None:
    case = cases.open_by_hand(network.principal, note="<script>alert(1)</script>")
    text = as_user(network.officer).get(f"/portal/cases/{case.pk}").content.decode()
    assert "<script>alert" not in text and "&lt;script&gt;alert" in text
