"""What the asker decides about an answer: owner, colleague, outsider; twice, at once, changed, and never rewritten."""

from __future__ import annotations

import threading

import pytest
from django.db import DatabaseError, connection, transaction
from django.test import Client

from accounts.models import Role, User
from compliance.models import Event
from fdrouter.errors import Conflict, InvalidParameter, NotFound
from federation import oversight
from federation.models import AnswerReview, Inference, Verdict
from tests.accounts.people import hospital, person, principal
from tests.federation import rows

pytestmark = pytest.mark.django_db


@pytest.fixture
def ada() -> User:
    return person("ada")


@pytest.fixture
def answered(ada: User) -> Inference:
    rows.node(hospital())
    return rows.request(ada, "What helps?", "Rest helps.")


def decide(user: User, row: Inference, verdict: str, **given: str) -> oversight.Review:
    return oversight.review(principal(user), row.pk, verdict=verdict, **given)


def test_an_answer_is_accepted_edited_and_rejected_and_all_of_it_stays(ada: User, answered: Inference) -> None:
    assert oversight.latest(answered) is None
    decide(ada, answered, "accepted")
    decide(ada, answered, "edited", text=" Rest helps,\r\nand water. ")
    standing = decide(ada, answered, "rejected", reason="unsafe", text="left over from the form")
    assert (standing.verdict, standing.reason, standing.text) == (Verdict.REJECTED, "unsafe", "")
    assert oversight.latest(answered) == standing
    kept = list(answered.reviews.order_by("pk").values_list("verdict", "reason"))
    assert kept == [("accepted", ""), ("edited", ""), ("rejected", "unsafe")]
    edited = answered.reviews.get(verdict="edited")
    assert b"water" not in bytes(edited.text or b""), "sealed like the answer"
    events = Event.objects.filter(kind="answer.review", subject=answered.pk).order_by("seq")
    assert [event.outcome for event in events] == ["accepted", "edited", "rejected"]
    assert "water" not in str([event.details for event in events])
    answered.refresh_from_db()
    assert answered.state == "done"


def test_the_same_decision_again_is_not_recorded_twice(ada: User, answered: Inference) -> None:
    first = decide(ada, answered, "edited", text="Rest and water help.")
    assert decide(ada, answered, "edited", text="Rest and water help.\n") == first
    assert AnswerReview.objects.count() == Event.objects.filter(kind="answer.review").count() == 1


@pytest.mark.parametrize(
    ("verdict", "given", "field"),
    [
        ("", {}, "verdict"),
        ("fine", {}, "verdict"),
        ("edited", {}, "text"),
        ("edited", {"text": " \n"}, "text"),
        ("edited", {"text": "Rest helps. "}, "text"),
        ("edited", {"text": "a\0b"}, "text"),
        ("edited", {"text": "x" * 40_000}, "text"),
        ("rejected", {}, "reason"),
        ("rejected", {"reason": "because"}, "reason"),
    ],
)
def test_a_decision_needs_what_it_says(
    ada: User, answered: Inference, verdict: str, given: dict[str, str], field: str
) -> None:
    with pytest.raises(InvalidParameter) as refused:
        decide(ada, answered, verdict, **given)
    assert refused.value.details["field"] == field
    assert not AnswerReview.objects.exists() and not Event.objects.filter(kind="answer.review").exists()


def test_nobody_decides_about_anothers_answer(answered: Inference) -> None:
    for role in (Role.ATTENDING, Role.PRIVACY_OFFICER, Role.ADMINISTRATOR):
        with pytest.raises(NotFound):
            decide(person(f"other-{role}", role), answered, "accepted")


@pytest.mark.parametrize("state", ["queued", "failed", "cancelled"])
def test_without_an_answer_there_is_nothing_to_decide(ada: User, state: str) -> None:
    row = rows.request(ada, "What helps?", None, state=state)
    with pytest.raises(Conflict):
        decide(ada, row, "accepted")


def test_the_database_keeps_every_decision(ada: User, answered: Inference) -> None:
    decide(ada, answered, "accepted")
    for statement in (
        "UPDATE federation_answerreview SET verdict = 'rejected', reason = 'wrong'",
        "DELETE FROM federation_answerreview",
        "TRUNCATE federation_answerreview",
    ):
        with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)
    with pytest.raises(DatabaseError), transaction.atomic():
        AnswerReview.objects.create(inference=answered, verdict="rejected")


@pytest.mark.django_db(transaction=True)
def test_two_equal_decisions_at_once_are_one() -> None:
    ada = person("ada")
    row = rows.request(ada, "What helps?", "Rest helps.")

    def press() -> None:
        decide(ada, row, "accepted")
        connection.close()

    threads = [threading.Thread(target=press) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert AnswerReview.objects.filter(inference=row).count() == 1


# --- pages and API ------------------------------------------------------------------------------------------------
def test_the_entry_offers_the_decision_and_works_without_scripts(
    ada: User, answered: Inference, client: Client
) -> None:
    client.force_login(ada)
    path = f"/history/{answered.pk}"
    assert "Your decision about this answer" in client.get(path).content.decode()
    assert client.post(f"{path}/review", {"verdict": "accepted"}).headers["Location"] == path
    assert "Your decision: accepted" in client.get(path).content.decode()
    refused = client.post(f"{path}/review", {"verdict": "rejected", "reason": ""})
    assert refused.status_code == 422 and "Say why" in refused.content.decode()
    part = client.post(f"{path}/review", {"verdict": "rejected", "reason": "wrong"}, headers={"HX-Request": "true"})
    assert part.status_code == 200 and "It is wrong" in part.content.decode() and "<html" not in part.content.decode()
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(ada)
    assert strict.post(f"{path}/review", {"verdict": "accepted"}).status_code == 403
    client.force_login(person("ben"))
    assert client.post(f"{path}/review", {"verdict": "accepted"}).status_code == 404


def test_an_entry_without_an_answer_offers_none(ada: User, client: Client) -> None:
    row = rows.request(ada, "What helps?", None, state="failed")
    client.force_login(ada)
    assert "Your decision" not in client.get(f"/history/{row.pk}").content.decode()


def test_an_edited_text_is_escaped(ada: User, answered: Inference, client: Client) -> None:
    decide(ada, answered, "edited", text="<script>alert(1)</script>")
    client.force_login(ada)
    assert "<script>alert" not in client.get(f"/history/{answered.pk}").content.decode()


def test_the_api_takes_and_tells_the_decision(ada: User, answered: Inference, client: Client) -> None:
    client.force_login(ada)
    path = f"/api/inferences/{answered.pk}"
    assert client.get(path).json()["review"] is None
    made = client.post(f"{path}/review", {"verdict": "edited", "text": "Rest."}, content_type="application/json")
    assert made.status_code == 200 and made.json()["text"] == "Rest."
    assert client.get(path).json()["review"] == made.json()
    wrong = client.post(f"{path}/review", {"verdict": "perhaps"}, content_type="application/json")
    assert wrong.status_code in (400, 422)
    client.force_login(person("ben"))
    assert client.post(f"{path}/review", {"verdict": "accepted"}, content_type="application/json").status_code == 404
