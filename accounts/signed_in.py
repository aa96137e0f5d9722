"""Whether a connection that was opened once still belongs to a signed-in person."""

from __future__ import annotations

from django.contrib.auth import HASH_SESSION_KEY
from django.contrib.sessions.models import Session
from django.utils import timezone
from django.utils.crypto import constant_time_compare

from accounts.models import Membership


def still_signed_in(session_key: str | None, user_id: int) -> bool:
    """The session lives, belongs to the present password, and the person still has an active post."""
    session = Session.objects.filter(session_key=session_key or "", expire_date__gt=timezone.now()).first()
    post = Membership.objects.select_related("user").filter(user_id=user_id, active=True, user__is_active=True).first()
    if session is None or post is None:
        return False
    return constant_time_compare(session.get_decoded().get(HASH_SESSION_KEY, ""), post.user.get_session_auth_hash())
