"""The only writer of access reviews. Officers decide line by line whether a post is still needed; nobody their own.

Each step is compare-and-set under the review's lock, so two reviewers at once never decide a line twice and the last
decision ends the review, whoever makes it. A revoked post really ends: see ``accounts.posts``.
"""

from __future__ import annotations

from datetime import date
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction
from django.db.models import Count, Q, QuerySet
from django.utils import timezone

from accounts import posts
from accounts.models import Department, Membership, Role
from accounts.principals import Principal
from compliance import access
from compliance.people.models import (
    LINE_TRANSITIONS,
    REVIEW_TRANSITIONS,
    AccessReview,
    AccessReviewLine,
    LineState,
    ReviewState,
)
from fdrouter import evidence
from fdrouter.errors import Conflict, InvalidParameter, NotFound, PolicyDenied

MAX_REASON = 400
OPEN_ONCE = "access_review_open_once"


def may_act(principal: Principal) -> bool:
    """Officers start reviews and decide; auditors read."""
    return principal.role == Role.PRIVACY_OFFICER


def require_officer(principal: Principal) -> None:
    """Raises PolicyDenied, with evidence, for who may only read."""
    _officers_only(principal, None)


def visible(principal: Principal) -> QuerySet[AccessReview]:
    """The reviews within reach, newest first, with the numbers of their lines."""
    within = access.reach(principal)
    rows = AccessReview.objects.select_related("started_by", "ended_by").order_by("-started_at", "pk")
    rows = rows.annotate(
        total=Count("lines"),
        decided=Count("lines", filter=~Q(lines__state=LineState.OPEN)),
        revoked=Count("lines", filter=Q(lines__state=LineState.REVOKED)),
    )
    return rows if within is None else rows.filter(hospital=within)


def start(principal: Principal, *, hospital: str, department: str = "", due: date) -> AccessReview:
    """Starts a review of every active post in scope, each as it is now. Without a hospital: of the whole network.

    Raises:
        NotFound: the hospital or department is not within reach. PolicyDenied: not an officer.
        InvalidParameter: the day is over, or nobody has a post there. Conflict: one of this scope is open.
    """
    within = access.reach(principal, hospital)
    _officers_only(principal, None)
    if within is not None and not access.hospitals(principal, within).exists():
        raise NotFound
    if department and not Department.objects.filter(hospital=within or "", code=department).exists():
        raise InvalidParameter("This hospital has no such department.", field="department")
    if due < timezone.localdate():
        raise InvalidParameter("Choose today or a later day.", field="due")
    try:
        with transaction.atomic():
            return _start(principal, within or "", department, due)
    except IntegrityError as error:
        if OPEN_ONCE not in str(error):
            raise
        raise Conflict("A review of these posts is open already.") from None


def _start(principal: Principal, hospital: str, department: str, due: date) -> AccessReview:
    scope = Membership.objects.filter(active=True).select_related("user", "department")
    scope = scope.filter(hospital=hospital) if hospital else scope
    scope = scope.filter(department__code=department) if department else scope
    scope = scope.annotate(working=Count("tokens", filter=_working_tokens()))
    review = AccessReview.objects.create(
        hospital=hospital, department=department, due=due, started_by_id=principal.user_id, started_at=timezone.now()
    )
    lines = [_line(review, post, post.working) for post in scope.order_by("pk")]
    if not lines:
        raise InvalidParameter("Nobody has a post there.", field="department" if department else "hospital")
    AccessReviewLine.objects.bulk_create(lines)
    evidence.record(_event(review, principal, "started", lines=len(lines), due=due.isoformat()))
    return review


def _working_tokens() -> Q:
    return Q(tokens__revoked_at=None) & (Q(tokens__expires_at=None) | Q(tokens__expires_at__gt=timezone.now()))


def _line(review: AccessReview, post: Membership, tokens: int) -> AccessReviewLine:
    return AccessReviewLine(
        review=review,
        membership=post,
        membership_version=post.version,
        person=post.user,
        username=post.user.get_username(),
        role=post.role,
        hospital=post.hospital_id or "",
        department=post.department.code if post.department else "",
        since=post.since,
        last_sign_in=post.user.last_login,
        tokens=tokens,
    )


def decide(principal: Principal, review_id: UUID, line_id: int, state: str, reason: str = "") -> AccessReviewLine:
    """Certifies or revokes one post. A post that changed or ended since the start makes its line overtaken instead.

    Raises:
        NotFound: no such line within reach. PolicyDenied: not an officer, or one's own post.
        InvalidParameter: no such decision, or a revocation without its reason.
        Conflict: the line or the review has been decided meanwhile.
    """
    _mine(principal, review_id)
    words = " ".join(reason.split())
    if state not in (LineState.CERTIFIED, LineState.REVOKED):
        raise InvalidParameter("Certify or revoke.", field="state")
    if len(words) > MAX_REASON or (state == LineState.REVOKED and len(words) < 3):
        raise InvalidParameter(f"Give a reason of 3 to {MAX_REASON} characters.", field="reason")
    with transaction.atomic():
        review = AccessReview.objects.select_for_update().get(pk=review_id)
        line = AccessReviewLine.objects.filter(pk=line_id, review=review).first()
        if line is None:
            raise NotFound
        own = line.person_id == principal.user_id
        if not own:
            _decide(principal, review, line, LineState(state), words)
    if own:
        _refuse(principal, review, "Nobody reviews their own post. Another officer decides this line.")
    return line


def _decide(principal: Principal, review: AccessReview, line: AccessReviewLine, state: LineState, reason: str) -> None:
    post = Membership.objects.select_for_update().get(pk=line.membership_id)
    if not post.active or post.version != line.membership_version:
        state, reason = LineState.OVERTAKEN, ""
    before = [former for former, following in LINE_TRANSITIONS.items() if state in following]
    rows = AccessReviewLine.objects.filter(pk=line.pk, state__in=before, review__state=ReviewState.OPEN)
    now = timezone.now()
    if not rows.update(state=state, reason=reason, decided_by_id=principal.user_id, decided_at=now):
        raise Conflict("This line or its review was decided meanwhile. Look at it again.")
    if state == LineState.REVOKED:
        posts.end(post.pk, post.version, by=principal.user_id, why="access_review")
    line.refresh_from_db()
    about = {"line": line.pk, "membership": post.pk, "person": line.person_id}
    private = {"reason": reason} if reason else None
    evidence.record(_event(review, principal, state.value, private, **about))
    if not review.lines.filter(state=LineState.OPEN).exists():
        _end(principal, review, ReviewState.COMPLETED)


def close(principal: Principal, review_id: UUID) -> AccessReview:
    """Closes a review early. Its open lines stay open for good, and the event counts them.

    Raises:
        NotFound, PolicyDenied: as of :func:`decide`. Conflict: it has ended meanwhile.
    """
    _mine(principal, review_id)
    with transaction.atomic():
        review = AccessReview.objects.select_for_update().get(pk=review_id)
        _end(principal, review, ReviewState.CLOSED)
    return review


def _end(principal: Principal, review: AccessReview, state: ReviewState) -> None:
    before = [former for former, following in REVIEW_TRANSITIONS.items() if state in following]
    rows = AccessReview.objects.filter(pk=review.pk, state__in=before)
    if not rows.update(state=state, ended_by_id=principal.user_id, ended_at=timezone.now()):
        raise Conflict("This review has ended meanwhile.")
    review.refresh_from_db()
    counts = dict(review.lines.order_by().values_list("state").annotate(n=Count("pk")))
    evidence.record(_event(review, principal, state.value, counts=counts))


def _mine(principal: Principal, review_id: UUID) -> None:
    review = visible(principal).filter(pk=review_id).first()
    if review is None:
        raise NotFound
    _officers_only(principal, review)


def _officers_only(principal: Principal, review: AccessReview | None) -> None:
    if not may_act(principal):
        _refuse(principal, review, "Only a privacy officer reviews access.")


def _refuse(principal: Principal, review: AccessReview | None, message: str) -> None:
    evidence.record(
        evidence.Event(
            kind="access.review",
            outcome="denied",
            actor_id=principal.user_id,
            subject=review.pk if review else None,
            hospital=(review.hospital if review else principal.hospital) or None,
            details={"role": principal.role},
        )
    )
    raise PolicyDenied(message)


def _event(
    review: AccessReview, principal: Principal, outcome: str, private: dict[str, Any] | None = None, **details: Any
) -> evidence.Event:
    return evidence.Event(
        kind="access.review",
        outcome=outcome,
        actor_id=principal.user_id,
        subject=review.pk,
        hospital=review.hospital or None,
        department=review.department or None,
        details={"state": review.state, **details},
        private=private,
    )
