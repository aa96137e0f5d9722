"""The end of a post: the membership, its tokens and the person's sessions, together and once."""

from __future__ import annotations

from dataclasses import dataclass

from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.models import Session
from django.db import transaction
from django.utils import timezone

from accounts.models import ApiToken, Membership
from fdrouter import evidence
from fdrouter.errors import Conflict, PolicyDenied


@dataclass(frozen=True, slots=True)
class Ended:
    """What went with a post: tokens that worked until now, and sessions that were open."""

    tokens: int
    sessions: int


def end(membership_id: int, version: int, *, by: int, why: str) -> Ended:
    """Ends a post as it was seen: no page, token or session of it works from this transaction's end on.

    ``why`` is a word that names the procedure, not free text: it goes into the log. Whoever the post belongs to cannot
    end it.

    Raises:
        PolicyDenied: it is the post of the person who acts. Conflict: it has changed or ended since.
    """
    with transaction.atomic():
        post = Membership.objects.select_for_update(of=("self",)).select_related("department").get(pk=membership_id)
        if post.user_id == by:
            raise PolicyDenied("Nobody ends their own post.")
        if not post.active or post.version != version:
            raise Conflict("This post has changed or ended meanwhile.")
        Membership.objects.filter(pk=post.pk).update(active=False)
        tokens = ApiToken.objects.filter(membership=post, revoked_at=None).update(revoked_at=timezone.now())
        ended = Ended(tokens=tokens, sessions=_end_sessions(post.user_id))
        evidence.record(
            evidence.Event(
                kind="post.end",
                actor_id=by,
                hospital=post.hospital_id,
                department=post.department.code if post.department else None,
                details={
                    "person": post.user_id,
                    "membership": post.pk,
                    "role": post.role,
                    "why": why,
                    "tokens": ended.tokens,
                    "sessions": ended.sessions,
                },
            )
        )
    return ended


def _end_sessions(user_id: int) -> int:
    """Deletes the person's sessions. Rows do not say whose they are, so each that still runs is opened."""
    running = Session.objects.filter(expire_date__gt=timezone.now())
    theirs = [row.pk for row in running.iterator() if row.get_decoded().get(SESSION_KEY) == str(user_id)]
    deleted, _ = Session.objects.filter(pk__in=theirs).delete()
    return deleted
