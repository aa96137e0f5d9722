"""People and access reviews as CSV. Making a file is an event."""

from __future__ import annotations

from datetime import UTC, datetime

from django.db import transaction

from accounts.principals import Principal
from compliance import export
from compliance.people import selectors
from compliance.people.models import AccessReview
from compliance.people.selectors import PeopleFilter
from fdrouter import evidence
from privacy.quotas import MICRO

COLUMNS = (
    *("user", "name", "role", "hospital", "department", "active_posts", "post_since", "last_sign_in", "last_request"),
    *("working_tokens", "oldest_token", "lock_outs", "requests", "epsilon", "standing"),
)
LINE_COLUMNS = (
    *("user", "role", "hospital", "department", "post_since", "last_sign_in", "working_tokens"),
    *("decision", "reason", "decided_by", "decided_at"),
)


def _at(value: datetime | None) -> str | None:
    return None if value is None else value.astimezone(UTC).isoformat(timespec="seconds")


def people_csv(principal: Principal, chosen: PeopleFilter, sort: str) -> str:
    """The chosen accounts, safe to open in a spreadsheet."""
    named = {name: getattr(chosen, name) for name in ("hospital", "department", "role", "standing")}
    named = {name: value for name, value in named.items() if value}
    named |= {"start": chosen.period.start.isoformat(), "end": chosen.period.end.isoformat()}
    if chosen.user:
        named["user"] = "chosen"  # what was typed may be anybody's name
    with transaction.atomic():
        lines = [
            export.line(
                (
                    *(row.username, row.name, row.role, row.hospital, row.department, row.posts),
                    *(_at(row.since), _at(row.sign_in), _at(row.asked), row.tokens, _at(row.oldest_token)),
                    *(row.lockouts, row.requests, row.epsilon / MICRO, " ".join(row.standing)),
                )
            )
            for row in selectors.people(principal, chosen, sort)
        ]
        evidence.record(
            evidence.Event(
                kind="people.export",
                actor_id=principal.user_id,
                hospital=principal.hospital,
                details={"rows": len(lines), "filter": named},
            )
        )
    return export.line(COLUMNS) + "".join(lines)


def review_csv(principal: Principal, review: AccessReview) -> str:
    """Every line of a review, the open ones too."""
    with transaction.atomic():
        lines = [
            export.line(
                (
                    *(row.username, row.role, row.hospital, row.department, _at(row.since), _at(row.last_sign_in)),
                    *(row.tokens, row.state, row.reason),
                    *(row.decided_by.get_username() if row.decided_by else None, _at(row.decided_at)),
                )
            )
            for row in review.lines.select_related("decided_by").order_by("username", "pk")
        ]
        evidence.record(
            evidence.Event(
                kind="review.export",
                actor_id=principal.user_id,
                subject=review.pk,
                hospital=review.hospital or None,
                details={"rows": len(lines)},
            )
        )
    return export.line(LINE_COLUMNS) + "".join(lines)
