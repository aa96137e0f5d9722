"""Evidence about people: accounts, posts, sign-ins, sessions."""

from __future__ import annotations

from datetime import timedelta

from axes.models import AccessAttempt
from django.apps import apps
from django.conf import settings
from django.db.models import Count as Number
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from accounts.models import ApiToken, Membership
from accounts.principals import Principal
from compliance import access
from compliance.controls.evidence import (
    MET,
    NOT_MET,
    PARTIAL,
    Count,
    Evidence,
    Table,
    counted,
    event_table,
    found_under,
    logged,
    query,
    sentence,
    seqs,
)
from compliance.period import Period
from federation.models import Inference

STRONG_HASHES = ("argon2", "pbkdf2_sha256", "scrypt", "bcrypt_sha256")
POST_COLUMNS = ("Account", "Role", "Hospital", "Since", "Last sign-in")


def _posts(principal: Principal) -> QuerySet[Membership]:
    """The active posts of open accounts within reach."""
    within = access.reach(principal)
    rows = Membership.objects.filter(active=True, user__is_active=True).select_related("user")
    return rows if within is None else rows.filter(hospital=within)


def _post_table(rows: QuerySet[Membership]) -> Table:
    return Table(
        POST_COLUMNS,
        rows.order_by("user__username"),
        lambda row: (
            row.user.username,
            row.get_role_display().capitalize(),
            row.hospital_id,
            row.since,
            row.user.last_login,
        ),
    )


@query("accounts.unique")
def unique(principal: Principal, period: Period, /) -> Evidence:
    """Active accounts, and those behind which no one person stands: without a name, or with another one's name."""
    posts = _posts(principal)
    nameless = posts.filter(user__first_name="", user__last_name="")
    named = posts.exclude(user__first_name="", user__last_name="")
    doubles = named.order_by().values("user__first_name", "user__last_name").annotate(n=Number("pk")).filter(n__gt=1)
    pairs = Q()
    for row in doubles:
        pairs |= Q(user__first_name=row["user__first_name"], user__last_name=row["user__last_name"])
    twice = posts.filter(pairs) if pairs else posts.none()
    total, without, same = posts.count(), nameless.count(), twice.count()
    status = NOT_MET if without else PARTIAL if same or not total else MET
    said = sentence(
        f"{counted(total, 'account is', 'accounts are')} active, each with one post.",
        f"{without:,} of them name no person." if without else "All of them name a person.",
        f"{same:,} share a name with another account and may be one person's." if same else "",
    )
    counts = (Count("Active accounts", total), Count("Without a person's name", without), Count("Same name", same))
    suspects = posts.filter(Q(pk__in=nameless.values("pk")) | Q(pk__in=twice.values("pk")))
    return Evidence(
        status=status, sentence=said, counts=counts, table=_post_table(suspects if without or same else posts)
    )


@query("accounts.dormant")
def dormant(principal: Principal, period: Period, /, *, days: int = 90) -> Evidence:
    """Active accounts that have neither signed in nor asked anything for some days."""
    since = timezone.now() - timedelta(days=days)
    posts = _posts(principal)
    asked = Exists(Inference.objects.filter(user=OuterRef("user_id"), created_at__gte=since))
    silent = posts.filter(Q(user__last_login=None) | Q(user__last_login__lt=since))
    silent = silent.filter(~asked, user__date_joined__lt=since, since__lt=since)
    total, idle = posts.count(), silent.count()
    said = sentence(
        f"Of {counted(total, 'active account', 'active accounts')}, {idle or 'none'} neither signed in nor asked"
        f" anything for {days} days.",
        "They should be closed, or their need confirmed." if idle else "",
    )
    counts = (Count("Active accounts", total), Count(f"Dormant over {days} days", idle))
    return Evidence(status=PARTIAL if idle else MET, sentence=said, counts=counts, table=_post_table(silent))


@query("accounts.second_factor")
def second_factor(principal: Principal, period: Period, /, *, app: str = "allauth.mfa") -> Evidence:
    """Whether people sign in with a second factor: whether the product has one at all, and for how many."""
    posts = _posts(principal)
    total = posts.count()
    there = apps.is_installed(app)
    said = (
        f"A second factor can be set up; which of {counted(total, 'account', 'accounts')} have one is not counted yet."
        if there
        else f"Passwords and tokens only: there is no second factor, so none of the {total:,} active accounts has one."
    )
    counts = (Count("Active accounts", total), Count("With a second factor", "unknown" if there else 0))
    return Evidence(status=PARTIAL if there else NOT_MET, sentence=said, counts=counts, table=_post_table(posts))


@query("accounts.credentials")
def credentials(principal: Principal, period: Period, /) -> Evidence:
    """How passwords and tokens are stored: by the kind of hash of every account within reach."""
    posts = _posts(principal)
    weak = posts.exclude(user__password__startswith="!")  # noqa: S106  (the mark of an account without one)
    for name in STRONG_HASHES:
        weak = weak.exclude(user__password__startswith=f"{name}$")
    tokens = ApiToken.objects.filter(membership__in=posts, revoked_at=None)
    bad = [token.pk for token in tokens.only("pk", "digest") if len(token.digest) != 32]
    total, wrong = posts.count(), weak.count()
    said = sentence(
        f"{total - wrong:,} of {counted(total, 'account has', 'accounts have')} a slow salted hash (or no password);"
        f" {counted(tokens.count(), 'token is', 'tokens are')} kept as SHA-256 digests only.",
        f"{wrong:,} passwords are stored in another way." if wrong else "",
        f"{len(bad):,} tokens are stored in another way." if bad else "",
    )
    counts = (
        Count("Accounts", total),
        Count("Passwords stored otherwise", wrong),
        Count("Tokens", tokens.count()),
        Count("Tokens stored otherwise", len(bad)),
    )
    return Evidence(status=NOT_MET if wrong or bad else MET, sentence=said, counts=counts, table=_post_table(weak))


@query("accounts.privileges")
def privileges(principal: Principal, period: Period, /, *, kinds: list[str]) -> Evidence:
    """Whether each post that began in the period left an event in the log."""
    begin, end = period.bounds
    begun = _posts(principal).filter(since__gte=begin, since__lt=end)
    rows = logged(principal, period, kinds)
    posts, events = begun.count(), rows.count()
    if events >= posts:
        status, rest = (MET, "each change can be found there.") if posts else (PARTIAL, "no post was given out.")
    else:
        status, rest = NOT_MET, f"{posts - events:,} changes of privileges are not in the log."
    said = sentence(f"{counted(posts, 'post', 'posts')} began and {counted(events, 'event', 'events')} say so:", rest)
    counts = (Count("Posts begun", posts), Count("Events of changes", events))
    return Evidence(status=status, sentence=said, counts=counts, table=_post_table(begun), span=seqs(rows))


@query("sign_ins.watched")
def watched(principal: Principal, period: Period, /, *, most_attempts: int = 10) -> Evidence:
    """Sign-ins that failed and accounts that were paused, and whether pausing is switched on."""
    rows = logged(principal, period, ["session.sign_in"])
    failed = rows.filter(outcome="failed")
    good, bad = rows.exclude(outcome="failed").count(), failed.count()
    locked = failed.filter(details__reason="locked").count()
    limit = int(settings.AXES_FAILURE_LIMIT)
    paused = 0
    if principal.hospital is None:  # the counter knows names typed by strangers, so it belongs to no hospital
        paused = AccessAttempt.objects.filter(failures_since_start__gte=limit).count()
    guarded = apps.is_installed("axes") and bool(getattr(settings, "AXES_ENABLED", True)) and limit <= most_attempts
    said = sentence(
        f"{counted(good, 'sign-in', 'sign-ins')} succeeded, {bad:,} failed and {locked:,} met a paused account.",
        f"An account is paused after {limit} failures." if guarded else "Nothing pauses an account after failures.",
    )
    counts = (
        Count("Succeeded", good, found_under(period, kind="session.sign_in", outcome="ok") if good else None),
        Count("Failed", bad, found_under(period, kind="session.sign_in", outcome="failed") if bad else None),
        Count("Refused while paused", locked),
        Count("Paused now or lately", paused),
    )
    status = MET if guarded else NOT_MET
    return Evidence(status=status, sentence=said, counts=counts, table=event_table(failed), span=seqs(rows))


@query("sessions.timeouts")
def timeouts(principal: Principal, period: Period, /, *, most_hours: float = 12, idle_minutes: int = 30) -> Evidence:
    """How long a session lasts, and whether it ends when nobody uses it."""
    seconds = int(settings.SESSION_COOKIE_AGE)
    sliding = bool(settings.SESSION_SAVE_EVERY_REQUEST)  # then the age counts from the last request
    hours = seconds / 3600
    if sliding:
        good = seconds <= idle_minutes * 60
        said = f"A session ends {hours:.1f} hours after its last use and has no other end."
    else:
        good = hours <= most_hours
        said = f"A session ends {hours:.1f} hours after its sign-in, whether it is used or not."
    said += " Neither idle time nor role shortens it." if not sliding else " Role does not shorten it."
    out = logged(principal, period, ["session.sign_out"])
    counts = (Count("Seconds", seconds), Count("Signed out by people", out.count()))
    return Evidence(
        status=PARTIAL if good else NOT_MET, sentence=said, counts=counts, table=event_table(out), span=seqs(out)
    )
