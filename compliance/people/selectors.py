"""Accounts within the reach of who asks, with what they hold and what they did in a period. Counted, never typed in.

A hospital's officers see who has a post there, or had their last one there; those of the network see every account.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from axes.models import AccessAttempt
from django.conf import settings
from django.db import connection
from django.db.models import Count, Min, Q, QuerySet, Sum
from django.utils import timezone

from accounts.models import ApiToken, Membership, User
from accounts.principals import Principal
from compliance import access
from compliance.models import Event
from compliance.period import Period
from fdrouter.errors import NotFound
from federation.models import Inference
from privacy.models import Entry, EntryKind, ScopeKind, Unit

DORMANT = timedelta(days=90)
STANDINGS = {
    "active": "With a post",
    "dormant": "Dormant over 90 days",
    "locked": "Locked out now",
    "former": "No post",
}
PERSON_EVENTS = 100
LAST_REQUESTS = """
SELECT u.id, (SELECT i.created_at FROM federation_inference i WHERE i.user_id = u.id ORDER BY i.created_at DESC LIMIT 1)
FROM accounts_user u WHERE u.id = ANY(%s)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleFilter:
    """What the page may narrow by; ``period`` is that of requests, epsilon and lock-outs, and narrows nobody."""

    period: Period
    hospital: str = ""
    department: str = ""
    role: str = ""
    standing: str = ""
    user: str = ""


@dataclass(slots=True, kw_only=True)
class Person:
    """One account. ``used`` is the last sign-in or request; ``epsilon`` is in micro-epsilon, refunds taken off."""

    id: int
    username: str
    name: str
    enabled: bool
    role: str = ""
    hospital: str = ""
    department: str = ""
    active: bool = False
    posts: int = 0
    since: datetime | None = None
    sign_in: datetime | None = None
    asked: datetime | None = None
    joined: datetime
    tokens: int = 0
    oldest_token: datetime | None = None
    locked: bool = False
    lockouts: int = 0
    requests: int = 0
    epsilon: int = 0
    standing: list[str] = field(default_factory=list)

    @property
    def used(self) -> datetime | None:
        """The last time that the account was used, as far as is known."""
        return max((at for at in (self.sign_in, self.asked) if at), default=None)


SORTS = {
    "user": "username",
    "role": "role",
    "hospital": "hospital",
    "department": "department",
    "posts": "posts",
    "since": "since",
    "sign_in": "sign_in",
    "asked": "asked",
    "tokens": "tokens",
    "token_age": "oldest_token",
    "lockouts": "lockouts",
    "requests": "requests",
    "epsilon": "epsilon",
}


def people(principal: Principal, chosen: PeopleFilter, sort: str = "user") -> list[Person]:
    """The chosen accounts, sorted; empty values last. A few queries whatever their number."""
    found = [row for row in _gathered(principal, chosen) if _fits(row, chosen)]
    column, down = SORTS[sort.removeprefix("-")], sort.startswith("-")
    found.sort(key=lambda person: person.username)
    filled = [row for row in found if getattr(row, column) not in (None, "")]
    filled.sort(key=lambda row: getattr(row, column), reverse=down)
    return filled + [row for row in found if getattr(row, column) in (None, "")]


def person(principal: Principal, user_id: int, period: Period) -> Person:
    """One account.

    Raises:
        NotFound: there is none within reach.
    """
    found = [row for row in _gathered(principal, PeopleFilter(period=period), only=user_id) if row.id == user_id]
    if not found:
        raise NotFound
    return found[0]


def _fits(row: Person, chosen: PeopleFilter) -> bool:
    return (
        (not chosen.department or row.department == chosen.department)
        and (not chosen.role or row.role == chosen.role)
        and (not chosen.standing or chosen.standing in row.standing)
        and (not chosen.user or chosen.user.lower() in f"{row.username} {row.name}".lower())
    )


def _gathered(principal: Principal, chosen: PeopleFilter, only: int | None = None) -> list[Person]:
    within = access.reach(principal, chosen.hospital)
    users = User.objects.all() if only is None else User.objects.filter(pk=only)
    rows = {user.pk: _person(user) for user in users.only(*_USER_FIELDS)}
    posts = Membership.objects.select_related("department").order_by("active", "since", "pk")  # the last one counts
    for post in posts if only is None else posts.filter(user=only):
        _take_post(rows[post.user_id], post)
    if within is not None:
        rows = {key: row for key, row in rows.items() if row.hospital == within}
    _add_use(rows, chosen.period, list(rows) if within is not None or only is not None else None)
    for row in rows.values():
        row.standing = _standing(row)
    return list(rows.values())


_USER_FIELDS = ("username", "first_name", "last_name", "is_active", "last_login", "date_joined")


def _person(user: User) -> Person:
    return Person(
        id=user.pk,
        username=user.get_username(),
        name=user.get_full_name(),
        enabled=user.is_active,
        sign_in=user.last_login,
        joined=user.date_joined,
    )


def _take_post(row: Person, post: Membership) -> None:
    row.role, row.hospital, row.active, row.since = post.role, post.hospital_id or "", post.active, post.since
    row.department = post.department.code if post.department else ""
    row.posts += post.active


def _add_use(rows: dict[int, Person], period: Period, keys: list[int] | None) -> None:
    """Requests, epsilon, tokens and lock-outs. ``keys`` narrows the queries; ``None``: everybody."""
    begin, end = period.bounds
    mine = {} if keys is None else {"user_id__in": keys}
    asked = Inference.objects.filter(created_at__gte=begin, created_at__lt=end, **mine).order_by()
    for key, number in asked.values_list("user_id").annotate(n=Count("pk")):
        _set(rows, key, requests=number)
    for key, last in _last_requests(list(rows)):
        _set(rows, key, asked=last)
    for key, amount in _spent(period, keys):
        _set(rows, key, epsilon=amount)
    for key, number, oldest in _tokens():
        _set(rows, key, tokens=number, oldest_token=oldest)
    refused = Event.objects.filter(kind="session.sign_in", at__gte=begin, at__lt=end, outcome="failed")
    refused = refused.filter(details__reason="locked", actor_id__in=list(rows)).order_by()
    for key, number in refused.values_list("actor_id").annotate(n=Count("seq")):
        _set(rows, key, lockouts=number)
    locked = locked_names()
    for row in rows.values():
        row.locked = row.username in locked


def _set(rows: dict[int, Person], key: int | None, **values: Any) -> None:
    if key in rows:
        for name, value in values.items():
            setattr(rows[key], name, value)


def _last_requests(keys: list[int]) -> list[tuple[int, datetime | None]]:
    """Who asked last when: one step into the index of requests by user for each account."""
    with connection.cursor() as cursor:
        cursor.execute(LAST_REQUESTS, [keys])
        return list(cursor.fetchall())


def _spent(period: Period, keys: list[int] | None) -> list[tuple[int, int]]:
    """Micro-epsilon that the ledger charged to people's own scopes on the days of the period."""
    lines = Entry.objects.filter(scope__kind=ScopeKind.USER, scope__unit=Unit.MICRO_EPSILON)
    lines = lines.exclude(kind=EntryKind.RESET).filter(period__range=(period.start, period.end)).order_by()
    if keys is not None:
        lines = lines.filter(scope__key__in=[f"user:{key}" for key in keys])
    sums = lines.values_list("scope__key").annotate(total=Sum("amount"))
    return [(int(key.removeprefix("user:")), amount) for key, amount in sums]


def working_tokens() -> QuerySet[ApiToken]:
    """Tokens that are taken now."""
    rows = ApiToken.objects.filter(revoked_at=None, membership__active=True)
    return rows.filter(Q(expires_at=None) | Q(expires_at__gt=timezone.now()))


def _tokens() -> list[tuple[int, int, datetime]]:
    rows = working_tokens().order_by().values_list("membership__user_id")
    return list(rows.annotate(n=Count("pk"), oldest=Min("created_at")))


def locked_names() -> set[str]:
    """User names that sign-in refuses at the moment. What was typed and belongs to nobody matches no account."""
    since = timezone.now() - timedelta(hours=float(settings.AXES_COOLOFF_TIME))
    tried = AccessAttempt.objects.filter(failures_since_start__gte=settings.AXES_FAILURE_LIMIT, attempt_time__gte=since)
    return {name for name in tried.values_list("username", flat=True) if name}


def _standing(row: Person) -> list[str]:
    found = ["active" if row.active and row.enabled else "former"]
    last = max(at for at in (row.used, row.since, row.joined) if at)
    if found == ["active"] and last < timezone.now() - DORMANT:
        found.append("dormant")
    return found + ["locked"] * row.locked


@dataclass(frozen=True, slots=True)
class Token:
    """A token without what it is. ``ends``: when it was revoked, or expires."""

    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    ends: datetime | None
    working: bool


def tokens(user_id: int) -> list[Token]:
    """A person's tokens, newest first."""
    works = set(working_tokens().filter(membership__user=user_id).values_list("pk", flat=True))
    rows = ApiToken.objects.filter(membership__user=user_id).order_by("-created_at")
    return [
        Token(row.name, row.prefix, row.scopes, row.created_at, row.revoked_at or row.expires_at, row.pk in works)
        for row in rows
    ]


def last_api_request(user_id: int) -> datetime | None:
    """When a person last asked through the API, by whichever token."""
    rows = Inference.objects.filter(user=user_id).exclude(channel="web").order_by("-created_at")
    return rows.values_list("created_at", flat=True).first()


def posts(principal: Principal, user_id: int) -> QuerySet[Membership]:
    """A person's posts within reach, the present one first."""
    within = access.reach(principal)
    rows = Membership.objects.filter(user=user_id).select_related("department", "hospital")
    return (rows if within is None else rows.filter(hospital=within)).order_by("-active", "-since", "-pk")


def events(principal: Principal, user_id: int) -> QuerySet[Event]:
    """What this person did, newest first, within reach: at the reader's hospital, or at none."""
    within = access.reach(principal)
    rows = Event.objects.filter(actor_id=user_id).defer("sealed", "commitment").order_by("-at", "-seq")
    return rows if within is None else rows.filter(Q(hospital=within) | Q(hospital=None))
