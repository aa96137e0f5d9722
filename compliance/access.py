"""Who may read the portal, and of which hospitals: every selector starts here."""

from __future__ import annotations

from django.db.models import QuerySet

from accounts.models import Hospital, Role
from accounts.principals import Principal
from fdrouter.errors import NotFound


def reach(principal: Principal, hospital: str | None = None) -> str | None:
    """The hospital whose rows this person may see, narrowed to ``hospital``; ``None`` is the whole network.

    Raises:
        NotFound: the portal does not exist for this person, or the hospital is not theirs.
    """
    if not principal.sees_portal:
        raise NotFound
    if principal.hospital is not None:
        if hospital not in (None, "", principal.hospital):
            raise NotFound
        return principal.hospital
    return hospital or None


def may_request_reports(principal: Principal) -> bool:
    """Officers request reports; auditors read them."""
    return principal.role == Role.PRIVACY_OFFICER


def hospitals(principal: Principal, hospital: str | None = None) -> QuerySet[Hospital]:
    """The hospitals within reach, by name."""
    within = reach(principal, hospital)
    rows = Hospital.objects.order_by("name")
    return rows if within is None else rows.filter(code=within)
