"""The acting person of a request, as every other module sees them."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from django.db.models import Q
from django.utils import timezone

from accounts.models import CLINICAL_ROLES, ApiToken, Membership, Role
from fdrouter.errors import Unauthenticated

TOKEN_BYTES = 32
TOKEN_PREFIX = "fdr_"  # noqa: S105  (not a secret: it tells people what they hold)


@dataclass(frozen=True, slots=True)
class Principal:
    """A person in their present post. ``version`` is the membership's: admission refuses an outdated one."""

    user_id: int
    username: str
    display_name: str
    membership_id: int
    version: int
    role: str
    hospital: str | None
    department: str | None
    department_id: int | None

    @property
    def is_clinical(self) -> bool:
        return self.role in CLINICAL_ROLES

    @property
    def sees_portal(self) -> bool:
        """Whether the compliance pages exist for this person."""
        return self.role in (Role.PRIVACY_OFFICER, Role.AUDITOR)


def token_digest(token: str) -> bytes:
    """The 32 bytes by which a bearer token is looked up. Tokens are random, so a plain hash is enough."""
    return hashlib.sha256(token.encode()).digest()


def _principal(membership: Membership) -> Principal:
    user = membership.user
    return Principal(
        user_id=user.pk,
        username=user.get_username(),
        display_name=user.get_full_name() or user.get_username(),
        membership_id=membership.pk,
        version=membership.version,
        role=membership.role,
        hospital=membership.hospital_id,
        department=membership.department.code if membership.department else None,
        department_id=membership.department_id,
    )


def for_user(user_id: int) -> Principal:
    """The person's active post.

    Raises:
        Unauthenticated: no active post, or the account is closed.
    """
    membership = (
        Membership.objects.select_related("user", "department")
        .filter(user_id=user_id, active=True, user__is_active=True)
        .first()
    )
    if membership is None:
        raise Unauthenticated
    return _principal(membership)


def for_token(digest: bytes, *, scope: str | None = None) -> Principal:
    """The owner of a valid token. A token with scopes is one only where the caller names one of them.

    Raises:
        Unauthenticated: unknown, expired or revoked token, one for something else, or a closed account.
    """
    meant = Q(scopes=[]) if scope is None else Q(scopes=[]) | Q(scopes__contains=[scope])
    token = (
        ApiToken.objects.select_related("membership__user", "membership__department")
        .filter(meant, digest=digest, revoked_at__isnull=True)
        .filter(membership__active=True, membership__user__is_active=True)
        .filter(Q(expires_at__isnull=True) | Q(expires_at__gt=timezone.now()))
        .first()
    )
    if token is None:
        raise Unauthenticated
    return _principal(token.membership)


def issue_token(membership: Membership, name: str, scopes: Iterable[str] = ()) -> str:
    """Creates a token and returns it; it cannot be read again. ``scopes`` narrow what it is good for."""
    token = TOKEN_PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    ApiToken.objects.create(
        digest=token_digest(token), prefix=token[:10], name=name, scopes=list(scopes), membership=membership
    )
    return token
