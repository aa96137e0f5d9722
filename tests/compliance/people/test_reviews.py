"""Access reviews: what a campaign covers, who decides, what a revocation ends, two reviewers at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from accounts import posts, principals
from accounts.models import ApiToken, Membership, Role, User
from accounts.principals import Principal
from compliance.models import Event
from compliance.people import reviews
from compliance.people.models import AccessReview, AccessReviewLine
from fdrouter.errors import Conflict, InvalidParameter, NotFound, PolicyDenied, Unauthenticated
from tests.accounts import people
from tests.compliance import network as networks
from tests.compliance.network import Network, SignIn


def start(principal: Principal, hospital: str = "lakeside", department: str = "") -> AccessReview:
    due = timezone.localdate() + timedelta(days=14)
    return reviews.start(principal, hospital=hospital, department=department, due=due)


def line_of(review: AccessReview, user: User) -> AccessReviewLine:
    return review.lines.get(person=user)


@pytest.mark.django_db
def test_a_campaign_holds_every_active_post_in_scope_as_it_was(network: Network) -> None:
    principals.issue_token(Membership.objects.get(user=network.neighbour), "script")
    review = start(network.principal)
    assert {row.username for row in review.lines.all()} == {"neighbour", "lakeside.officer"}
    line = line_of(review, network.neighbour)
    assert (line.role, line.department, line.tokens) == ("attending", "emergency", 1)
    Membership.objects.filter(user=network.neighbour).update(role=Role.RESIDENT)
    line.refresh_from_db()
    assert line.role == "attending"
    only = start(network.principal, department="emergency")
    assert [row.username for row in only.lines.all()] == ["neighbour"]
    everybody = start(network.principal, hospital="")
    assert everybody.lines.count() == Membership.objects.filter(active=True).count()
    started = Event.objects.get(kind="access.review", subject=review.pk)
    assert (started.outcome, started.details["lines"]) == ("started", 2)


@pytest.mark.django_db
def test_what_cannot_be_started(network: Network) -> None:
    theirs = principals.for_user(network.lakeside_officer.pk)
    start(network.principal)
    with pytest.raises(Conflict):
        start(network.principal)
    with pytest.raises(NotFound):
        start(theirs, hospital="northfield")
    with pytest.raises(NotFound):
        start(network.principal, hospital="nowhere")
    with pytest.raises(InvalidParameter):
        start(theirs, department="cardiology")  # the other hospital's
    with pytest.raises(InvalidParameter):
        reviews.start(theirs, hospital="", due=timezone.localdate() - timedelta(days=1))
    people.department("empty", people.hospital("lakeside"))
    with pytest.raises(InvalidParameter):
        start(theirs, department="empty")
    with pytest.raises(PolicyDenied):
        start(principals.for_user(network.auditor.pk), hospital="northfield")
    with pytest.raises(NotFound):
        start(principals.for_user(network.clinician.pk), hospital="northfield")
    assert AccessReview.objects.count() == 1


@pytest.mark.django_db
def test_a_revocation_ends_post_tokens_and_sessions(network: Network, as_user: SignIn) -> None:
    post = Membership.objects.get(user=network.neighbour)
    token = principals.issue_token(post, "script")
    client, other = as_user(network.neighbour), as_user(network.clinician)
    assert client.get("/history").status_code == other.get("/history").status_code == 200
    review = start(network.principal)
    line = reviews.decide(network.principal, review.pk, line_of(review, network.neighbour).pk, "revoked", "Has left.")
    assert (line.state, line.reason, line.decided_by_id) == ("revoked", "Has left.", network.officer.pk)
    post.refresh_from_db()
    assert not post.active
    with pytest.raises(Unauthenticated):
        principals.for_token(principals.token_digest(token))
    assert ApiToken.objects.get(membership=post).revoked_at is not None
    gone = client.get("/history")
    assert gone.status_code == 302 and "/sign-in" in gone.headers["Location"]
    assert other.get("/history").status_code == 200
    ended = Event.objects.get(kind="post.end")
    assert (ended.details["tokens"], ended.details["sessions"], ended.details["person"]) == (1, 1, network.neighbour.pk)
    told = Event.objects.get(kind="access.review", outcome="revoked")
    assert "Has left" not in str(told.details) and told.sealed is not None


@pytest.mark.django_db
def test_nobody_reviews_themselves(network: Network) -> None:
    theirs = principals.for_user(network.lakeside_officer.pk)
    review = start(theirs)
    own = line_of(review, network.lakeside_officer)
    for state in ("certified", "revoked"):
        with pytest.raises(PolicyDenied):
            reviews.decide(theirs, review.pk, own.pk, state, "It is me.")
    with pytest.raises(PolicyDenied):
        posts.end(theirs.membership_id, theirs.version, by=theirs.user_id, why="access_review")
    with pytest.raises(IntegrityError, match="not_ones_own"), transaction.atomic():
        AccessReviewLine.objects.filter(pk=own.pk).update(
            state="certified", decided_by=network.lakeside_officer, decided_at=timezone.now()
        )
    assert Membership.objects.get(user=network.lakeside_officer).active
    assert Event.objects.filter(kind="access.review", outcome="denied").count() == 2
    assert reviews.decide(network.principal, review.pk, own.pk, "certified").state == "certified"


@pytest.mark.django_db
def test_the_last_decision_ends_the_review_and_nothing_follows(network: Network) -> None:
    review = start(network.principal)
    first, last = list(review.lines.order_by("username"))
    reviews.decide(network.principal, review.pk, first.pk, "certified")
    with pytest.raises(Conflict):
        reviews.decide(network.principal, review.pk, first.pk, "revoked", "On second thought.")
    with pytest.raises(InvalidParameter):
        reviews.decide(network.principal, review.pk, last.pk, "revoked", " ")
    with pytest.raises(InvalidParameter):
        reviews.decide(network.principal, review.pk, last.pk, "overtaken")
    reviews.decide(network.principal, review.pk, last.pk, "revoked", "Has left.")
    review.refresh_from_db()
    assert (review.state, review.ended_by_id) == ("completed", network.officer.pk)
    with pytest.raises(Conflict):
        reviews.close(network.principal, review.pk)
    ended = Event.objects.get(kind="access.review", outcome="completed")
    assert ended.details["counts"] == {"certified": 1, "revoked": 1}


@pytest.mark.django_db
def test_closing_early_leaves_open_lines_open(network: Network) -> None:
    review = start(network.principal)
    reviews.decide(network.principal, review.pk, line_of(review, network.neighbour).pk, "certified")
    reviews.close(network.principal, review.pk)
    with pytest.raises(Conflict):
        reviews.decide(network.principal, review.pk, line_of(review, network.lakeside_officer).pk, "certified")
    closed = Event.objects.get(kind="access.review", outcome="closed")
    assert closed.details["counts"] == {"certified": 1, "open": 1}
    assert start(network.principal).pk != review.pk


@pytest.mark.django_db
@pytest.mark.parametrize("change", [{"role": Role.RESIDENT}, {"active": False}], ids=str)
def test_a_post_that_moved_on_is_overtaken_whatever_is_decided(network: Network, change: dict[str, object]) -> None:
    review = start(network.principal, department="emergency")
    Membership.objects.filter(user=network.neighbour).update(**change)
    line = reviews.decide(network.principal, review.pk, review.lines.get().pk, "revoked", "Has left.")
    assert (line.state, line.reason) == ("overtaken", "")
    assert Membership.objects.get(user=network.neighbour).active is ("active" not in change)
    assert AccessReview.objects.get(pk=review.pk).state == "completed"


@pytest.mark.django_db
def test_the_database_keeps_what_was_decided(network: Network) -> None:
    review = start(network.principal, department="emergency")
    line = review.lines.get()
    tampering: tuple[Callable[[], object], ...] = (
        lambda: AccessReviewLine.objects.filter(pk=line.pk).update(role="nurse"),
        lambda: AccessReview.objects.filter(pk=review.pk).update(due=timezone.localdate()),
        lambda: AccessReviewLine.objects.filter(pk=line.pk).delete(),
    )
    for tamper in tampering:
        with pytest.raises(IntegrityError), transaction.atomic():
            tamper()
    reviews.decide(network.principal, review.pk, line.pk, "certified")
    with pytest.raises(IntegrityError), transaction.atomic():
        AccessReviewLine.objects.filter(pk=line.pk).update(state="revoked", reason="x y")


@pytest.mark.django_db(transaction=True)
def test_two_reviewers_at_once(quick_passwords: None) -> None:
    made = networks.build()
    second = principals.for_user(people.person("second", Role.PRIVACY_OFFICER, network=True).pk)
    review = start(made.principal)
    mine, other = line_of(review, made.neighbour), line_of(review, made.lakeside_officer)
    both = threading.Barrier(2)

    def together(*calls: tuple[Principal, int, str]) -> list[str]:
        ends: list[str] = []

        def run(who: Principal, line: int, state: str) -> None:
            both.wait()
            try:
                ends.append(reviews.decide(who, review.pk, line, state, "Has left.").state)
            except Conflict:
                ends.append("conflict")
            finally:
                connection.close()

        threads = [threading.Thread(target=run, args=call) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(ends)

    ends = together((made.principal, mine.pk, "certified"), (second, mine.pk, "revoked"))
    assert "conflict" in ends and len(ends) == 2
    mine.refresh_from_db()
    assert Membership.objects.get(user=made.neighbour).active is (mine.state == "certified")
    whole = start(made.principal, hospital="northfield")
    lines = list(whole.lines.order_by("pk"))
    review = whole
    for line in lines[2:]:
        reviews.decide(made.principal, whole.pk, line.pk, "certified")
    assert together((made.principal, lines[0].pk, "certified"), (second, lines[1].pk, "certified")) == ["certified"] * 2
    whole.refresh_from_db()
    assert whole.state == "completed"
    assert Event.objects.filter(kind="access.review", outcome="completed", subject=whole.pk).count() == 1
    other.refresh_from_db()
    assert other.state == "open"


@pytest.mark.django_db(transaction=True)
def test_the_last_two_decisions_wait_for_each_other_so_that_one_of_them_ends_the_review(quick_passwords: None) -> None:
    made = networks.build()
    second = principals.for_user(people.person("second", Role.PRIVACY_OFFICER, network=True).pk)
    review = start(made.principal)
    first, last = list(review.lines.order_by("pk"))

    def other() -> None:
        reviews.decide(second, review.pk, last.pk, "certified")
        connection.close()

    thread = threading.Thread(target=other)
    with transaction.atomic():
        reviews.decide(made.principal, review.pk, first.pk, "certified")
        thread.start()
        thread.join(timeout=1)
        assert thread.is_alive()
    thread.join()
    review.refresh_from_db()
    assert (review.state, review.ended_by_id) == ("completed", second.user_id)
