"""The pages of people and access reviews: who sees them and how much, figures, filters, files, decisions by form."""

from __future__ import annotations

import csv
import io
import uuid
from datetime import timedelta

import pytest
from axes.models import AccessAttempt
from django.conf import settings
from django.db import connection
from django.test import Client
from django.utils import timezone

from accounts import principals
from accounts.models import ApiToken, Membership, User
from compliance import period
from compliance.models import Event
from compliance.people import reviews, selectors
from compliance.people.models import AccessReview
from compliance.people.selectors import PeopleFilter, Person
from tests.compliance.network import SECRET, Network, SignIn, ask

LISTS = ("/portal/people", "/portal/people.csv", "/portal/access-reviews")
pytestmark = pytest.mark.django_db


@pytest.fixture
def review(network: Network) -> AccessReview:
    due = timezone.localdate() + timedelta(days=14)
    return reviews.start(network.principal, hospital="lakeside", due=due)


@pytest.mark.parametrize("path", LISTS)
def test_officers_and_auditors_read_and_everybody_else_finds_nothing(
    path: str, network: Network, as_user: SignIn
) -> None:
    for user in (network.officer, network.auditor, network.lakeside_officer):
        page = as_user(user).get(path)
        assert page.status_code == 200 and SECRET not in page.content
    for user in (network.clinician, network.operator, network.outsider):
        assert as_user(user).get(path).status_code == 404
    assert Client().get(path).status_code == 302


def _people(network: Network, sort: str = "user", **chosen: str) -> list[Person]:
    return selectors.people(network.principal, PeopleFilter(period=period.last_days(30), **chosen), sort)


def test_a_hospitals_officer_sees_its_people_only(network: Network, as_user: SignIn) -> None:
    client = as_user(network.lakeside_officer)
    shown = {row.username for row in client.get("/portal/people").context["page"]}
    assert shown == {"neighbour", "lakeside.officer"}
    assert client.get(f"/portal/people/{network.neighbour.pk}").status_code == 200
    for stranger in (network.clinician, network.outsider, network.officer):
        assert client.get(f"/portal/people/{stranger.pk}").status_code == 404
    assert client.get("/portal/people/999999").status_code == 404
    assert client.get("/portal/people", {"hospital": "northfield"}).status_code == 422
    everybody = {row.username for row in as_user(network.officer).get("/portal/people").context["page"]}
    assert everybody == set(User.objects.values_list("username", flat=True))
    Membership.objects.filter(user=network.neighbour).update(active=False)
    former = {row.username: row.standing for row in client.get("/portal/people").context["page"]}
    assert former["neighbour"] == ["former"]


def test_figures_are_those_of_the_rows(network: Network) -> None:
    ask(network.clinician, epsilon=4.0, at=timezone.now() - timedelta(days=60))
    found = {row.username: row for row in _people(network)}
    mine = found["clinician"]
    assert mine.requests == 4 and mine.asked is not None
    assert mine.epsilon == 7_500_000  # the ledger's days are those on which it was charged; the failure gave back
    assert found["outsider"].standing == ["former"] and found["outsider"].requests == 0
    principals.issue_token(Membership.objects.get(user=network.clinician), "one")
    principals.issue_token(Membership.objects.get(user=network.clinician), "two")
    ApiToken.objects.filter(name="one").update(created_at=timezone.now() - timedelta(days=400))
    ApiToken.objects.filter(name="two").update(revoked_at=timezone.now())
    again = {row.username: row for row in _people(network)}["clinician"]
    assert again.tokens == 1 and again.oldest_token is not None
    assert timezone.now() - again.oldest_token > timedelta(days=399)


def test_dormant_and_locked_out(network: Network) -> None:
    long_ago = timezone.now() - timedelta(days=91)
    for user in (network.operator, network.auditor, network.clinician):
        User.objects.filter(pk=user.pk).update(last_login=long_ago, date_joined=long_ago)
        Membership.objects.filter(user=user).update(since=long_ago)
    User.objects.filter(pk=network.auditor.pk).update(last_login=timezone.now() - timedelta(days=89))
    assert [row.username for row in _people(network, standing="dormant")] == ["operator"]  # a clinician asked today
    for name, failures in (("neighbour", settings.AXES_FAILURE_LIMIT), ("clinician", 1), ("nobody at all", 99)):
        AccessAttempt.objects.create(username=name, ip_address="127.0.0.1", failures_since_start=failures)
    assert [row.username for row in _people(network, standing="locked")] == ["neighbour"]
    AccessAttempt.objects.update(attempt_time=timezone.now() - timedelta(hours=1))
    assert _people(network, standing="locked") == []


def test_filters_and_sorting(network: Network, as_user: SignIn) -> None:
    client = as_user(network.officer)

    def shown(**asked: str) -> list[str]:
        return [row.username for row in client.get("/portal/people", asked).context["page"]]

    assert shown(role="node_operator") == ["operator"]
    assert shown(department="emergency") == shown(user="NEIGH") == ["neighbour"]
    assert shown(standing="former") == ["outsider"]
    assert shown(sort="-requests")[0] == "clinician" and shown(sort="-epsilon")[:2] == ["neighbour", "clinician"]
    for column in selectors.SORTS:
        assert sorted(shown(sort=column)) == sorted(shown(sort=f"-{column}"))
    assert client.get("/portal/people", {"role": "king"}).status_code == 422


def test_the_file_is_an_event(network: Network, as_user: SignIn) -> None:
    User.objects.filter(pk=network.clinician.pk).update(first_name="=cmd()")
    answer = as_user(network.auditor).get("/portal/people.csv", {"hospital": "northfield", "user": "clin"})
    (line,) = csv.DictReader(io.StringIO(answer.content.decode()))
    assert (line["user"], line["name"], line["requests"]) == ("clinician", "'=cmd()", "4")
    made = Event.objects.get(kind="people.export")
    assert made.details["rows"] == 1 and made.details["filter"]["user"] == "chosen"


def test_a_person_with_their_events(network: Network, as_user: SignIn) -> None:
    token = principals.issue_token(Membership.objects.get(user=network.neighbour), "night job")
    page = as_user(network.officer).get(f"/portal/people/{network.neighbour.pk}")
    assert b"night job" in page.content and token.encode() not in page.content
    assert {event.actor_id for event in page.context["events"]} == {network.neighbour.pk}
    assert len(page.context["events"]) == Event.objects.filter(actor_id=network.neighbour.pk).count()


def test_a_review_is_its_hospitals_and_an_auditor_only_reads(
    network: Network, as_user: SignIn, review: AccessReview
) -> None:
    path = f"/portal/access-reviews/{review.pk}"
    line = review.lines.get(person=network.neighbour)
    other = reviews.start(network.principal, hospital="northfield", due=timezone.localdate())
    officer = as_user(network.lakeside_officer)
    assert officer.get(path).status_code == 200
    assert officer.get(f"/portal/access-reviews/{other.pk}").status_code == 404
    assert officer.post(f"/portal/access-reviews/{other.pk}/close").status_code == 404
    assert [row.pk for row in officer.get("/portal/access-reviews").context["page"]] == [review.pk]
    auditor = as_user(network.auditor)
    read = auditor.get(path)
    assert read.status_code == 200 and b"Certify" not in read.content
    assert auditor.post(f"{path}/lines/{line.pk}", {"state": "certified"}).status_code == 403
    assert auditor.post(f"{path}/close").status_code == 403
    assert auditor.post("/portal/access-reviews", {"scope": "*", "due": "2099-01-01"}).status_code == 403
    assert auditor.post("/portal/access-reviews", {}).status_code == 403
    for user in (network.clinician, network.outsider):
        assert as_user(user).get(path).status_code == 404
        assert as_user(user).post(f"{path}/lines/{line.pk}", {"state": "certified"}).status_code == 404
    line.refresh_from_db()
    assert line.state == "open"


def test_a_review_goes_its_way_by_forms(network: Network, as_user: SignIn) -> None:
    client = as_user(network.lakeside_officer)
    due = (timezone.localdate() + timedelta(days=7)).isoformat()
    assert client.post("/portal/access-reviews", {"scope": "northfield", "due": due}).status_code == 422
    assert client.post("/portal/access-reviews", {"scope": "lakeside", "due": "2020-01-01"}).status_code == 422
    client.post("/portal/access-reviews", {"scope": "lakeside", "due": due})
    review = AccessReview.objects.get()
    path = f"/portal/access-reviews/{review.pk}"
    own, other = (review.lines.get(person=user) for user in (network.lakeside_officer, network.neighbour))
    page = client.get(path)
    assert b"your own post" in page.content
    assert b"Nobody reviews" in client.post(f"{path}/lines/{own.pk}", {"state": "certified"}, follow=True).content
    assert b"Give a reason" in client.post(f"{path}/lines/{other.pk}", {"state": "revoked"}, follow=True).content
    assert client.post(f"{path}/lines/{uuid.uuid4().int % 10**9}", {"state": "certified"}).status_code == 404
    client.post(f"{path}/lines/{other.pk}", {"state": "revoked", "reason": "<b>Has left</b>"})
    page = client.get(path, {"state": "revoked"})
    assert [row.pk for row in page.context["page"]] == [other.pk] and b"&lt;b&gt;Has left" in page.content
    assert (page.context["review"].decided, page.context["review"].total) == (1, 2)
    client.post(f"{path}/close")
    assert b"left open when it was closed" in client.get(path).content
    lines = list(csv.DictReader(io.StringIO(client.get(f"{path}/lines.csv").content.decode())))
    assert {(row["user"], row["decision"]) for row in lines} == {("neighbour", "revoked"), ("lakeside.officer", "open")}
    assert Event.objects.get(kind="review.export").subject == review.pk


def test_pages_keep_the_strict_content_policy(network: Network, as_user: SignIn, review: AccessReview) -> None:
    paths = (*LISTS[::2], f"/portal/people/{network.clinician.pk}", f"/portal/access-reviews/{review.pk}")
    for path in paths:
        text = as_user(network.officer).get(path).content.decode()
        assert " style=" not in text and "<style" not in text and " onclick=" not in text


FILL = """
INSERT INTO federation_inference (id, user_id, membership_id, department_id, kind, model, purpose, channel, stream,
  hospitals, patient_reference, parameters, epsilon_micro, delta, request_digest, state, reason, details, attempt,
  lease, reply_to, prompt_tokens, completion_tokens, finish_reason, created_at, finished_at)
SELECT gen_random_uuid(), (%s::bigint[])[1 + n %% 50], %s, %s, 'chart', 'm', 'TREAT', 'web', true, '{northfield}',
  'north-' || n %% 5000, '{}', 0, 0, '\\x00', 'done', '', '{}', 1, now(), '', 0, 0, '',
  now() - n * interval '10 minutes', now()
FROM generate_series(1, 20000) AS n
"""


def fill(post: Membership) -> None:
    """Many requests about many patients by fifty people."""
    made = User.objects.bulk_create(User(username=f"someone{n}") for n in range(50))
    with connection.cursor() as cursor:
        cursor.execute(FILL, [[user.pk for user in made], post.pk, post.department_id])
        cursor.execute("ANALYZE federation_inference")


def test_the_last_request_is_one_step_into_an_index(network: Network) -> None:
    fill(Membership.objects.get(user=network.clinician))
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {selectors.LAST_REQUESTS}", [[network.clinician.pk, network.neighbour.pk]])
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert "inference_by_user" in plan and "Seq Scan on federation_inference" not in plan
