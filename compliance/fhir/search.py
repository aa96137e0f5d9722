"""Search parameters of ``GET /fhir/AuditEvent``, and the page of events that they choose.

A parameter that is not understood is refused: an ignored filter would answer with more than was asked for. Days are
days in UTC. Pages are found by key (time and number of the last row), so a long read costs the same on each page and
rows that arrive meanwhile move none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from django.db import connection
from django.db.models import Q, QuerySet

from accounts.models import User
from accounts.principals import Principal
from compliance import selectors
from compliance.fhir import codes, mapping
from compliance.models import Event
from compliance.selectors import EventFilter
from fdrouter.errors import InvalidParameter

DEFAULT_COUNT = 50
MAX_COUNT = 200
MAX_VALUES = 20
SORTS = ("-date", "date")
TOTALS = ("accurate", "none")
FORMATS = ("json", "application/json", "application/fhir+json")

PARAMETERS: Mapping[str, tuple[str, str]] = {
    "_id": ("token", "The event's number in the log."),
    "date": ("date", "When it was recorded: a year, month, day or instant, with eq, ge, gt, le or lt."),
    "agent": ("reference", "The account of the person who acted, by its number; also as agent:identifier."),
    "agent-name": ("string", "The user name of the person who acted, whole."),
    "entity": ("reference", "What it is about (a question, a report), by its UUID; also as entity:identifier."),
    "type": ("token", "The type's code, with or without its system."),
    "subtype": ("token", "A subtype's code; the event's own kind is one, of the system urn:fdrouter:event-kind."),
    "outcome": ("token", "0, 4 or 8."),
    "site": ("token", "The hospital's code."),
}
CONTROLS = ("_count", "_sort", "_total", "_format", "_after")
_ALIASES = {"agent:identifier": "agent", "entity:identifier": "entity"}

_DATE = re.compile(
    r"(?P<prefix>eq|ge|gt|le|lt|sa|eb)?(?P<year>\d{4})(-(?P<month>\d\d)(-(?P<day>\d\d)"
    r"(T(?P<time>\d\d:\d\d(:\d\d(\.\d{1,6})?)?)(?P<zone>Z|[+-]\d\d:\d\d)?)?)?)?"
)
_AFTER = re.compile(r"(\d{1,19})-(\d{1,19})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
MAX_SEQ = 2**63 - 1

# Every kind that occurs, by hopping through the index on kinds: a few reads, however many events there are.
_KINDS = """
WITH RECURSIVE k (kind) AS (
  (SELECT kind FROM compliance_event ORDER BY kind LIMIT 1)
  UNION ALL
  SELECT (SELECT e.kind FROM compliance_event e WHERE e.kind > k.kind ORDER BY e.kind LIMIT 1) FROM k
    WHERE k.kind IS NOT NULL
) SELECT kind FROM k WHERE kind IS NOT NULL
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A checked search. ``given`` are its parameters as they were understood, for links and evidence."""

    where: Q
    given: tuple[tuple[str, str], ...]
    count: int = DEFAULT_COUNT
    newest_first: bool = True
    total: bool = True
    after: tuple[datetime, int] | None = None

    def query(self, **more: str) -> str:
        """The query string of this search; ``more`` replaces or adds."""
        kept = [(name, value) for name, value in self.given if name not in more]
        return urlencode([*kept, *more.items()])


@dataclass(frozen=True, slots=True)
class Page:
    """Some events, newest or oldest first; ``following`` is the key of the next page; ``total`` of all pages."""

    events: Sequence[Event]
    total: int | None
    following: str | None


def parse(parameters: Mapping[str, list[str]]) -> Search:
    """The search that these parameters (each with all its values) mean.

    Raises:
        InvalidParameter: one is unknown or malformed; ``details["field"]`` names it.
    """
    where, given = Q(), []
    for spelled, values in parameters.items():
        name = _ALIASES.get(spelled, spelled)
        if name not in PARAMETERS and name not in CONTROLS:
            raise InvalidParameter("This search parameter is not supported here.", field=spelled)
        if name in CONTROLS and len(values) > 1 or len(values) > MAX_VALUES:
            raise InvalidParameter("This search parameter is given too often.", field=spelled)
        for value in values:
            given.append((spelled, value))
            if name in _FILTERS:
                where &= _filter(name, value, spelled)
    last = {name: values[-1] for name, values in parameters.items()}
    _one_of(last.get("_format", "json"), FORMATS, "_format")
    return Search(
        where=where,
        given=tuple(given),
        count=_count(last.get("_count")),
        newest_first=_one_of(last.get("_sort", "-date"), SORTS, "_sort") == "-date",
        total=_one_of(last.get("_total", "accurate"), TOTALS, "_total") == "accurate",
        after=_after(last.get("_after")),
    )


def _filter(name: str, value: str, spelled: str) -> Q:
    options = value.split(",")
    if not value or not all(options) or len(options) > MAX_VALUES or "\0" in value:
        raise InvalidParameter("This search parameter's value is not valid.", field=spelled)
    if name == "date" and len(options) > 1:
        raise InvalidParameter("Give a range as two dates: date=ge...&date=lt...", field=spelled)
    found = Q()
    for option in options:
        try:
            found |= _FILTERS[name](option)
        except (ValueError, OverflowError):
            raise InvalidParameter("This search parameter's value is not valid.", field=spelled) from None
    return found


def _one_of(value: str, allowed: Sequence[str], field: str) -> str:
    if value not in allowed:
        raise InvalidParameter(f"Use one of: {', '.join(allowed)}.", field=field)
    return value


def _count(value: str | None) -> int:
    if value is None:
        return DEFAULT_COUNT
    if not re.fullmatch(r"\d{1,9}", value):
        raise InvalidParameter("Give a whole number.", field="_count")
    return min(int(value), MAX_COUNT)


def _after(value: str | None) -> tuple[datetime, int] | None:
    if value is None:
        return None
    found = _AFTER.fullmatch(value)
    try:
        if found is None or int(found[2]) > MAX_SEQ:
            raise ValueError
        return _EPOCH + int(found[1]) * _MICROSECOND, int(found[2])
    except (ValueError, OverflowError):
        raise InvalidParameter("Use the address of the next page as it was given.", field="_after") from None


# --- one value of each parameter ----------------------------------------------------------------------------------
def _number(text: str) -> int:
    if not re.fullmatch(r"\d{1,19}", text) or int(text) > MAX_SEQ:
        raise ValueError(text)
    return int(text)


def _token(text: str) -> tuple[str | None, str]:
    """``code``, ``system|code`` (or ``|code``: no system, which no code of ours is without)."""
    system, bar, code = text.rpartition("|")
    return (system if bar else None), code


def _by_id(text: str) -> Q:
    return Q(seq=_number(text))


def _by_agent(text: str) -> Q:
    system, code = _token(text)
    return Q(actor_id=_number(code)) if system in (None, mapping.USER_SYSTEM) else _NOTHING


def _by_agent_name(text: str) -> Q:
    return Q(actor_id__in=User.objects.filter(username=text).values("pk"))


def _by_entity(text: str) -> Q:
    system, code = _token(text)
    return Q(subject=UUID(code.removeprefix("urn:uuid:"))) if system in (None, mapping.URI) else _NOTHING


def _by_type(text: str) -> Q:
    return Q(kind__in=codes.kinds_with_type(*_token(text), known=kinds()))


def _by_subtype(text: str) -> Q:
    return Q(kind__in=codes.kinds_with_subtype(*_token(text), known=kinds()))


def _by_outcome(text: str) -> Q:
    system, code = _token(text)
    return Q(outcome__in=codes.outcomes_of(code)) if system in (None, mapping.OUTCOME) else _NOTHING


def _by_site(text: str) -> Q:
    return Q(hospital=_token(text)[1])


def _by_date(text: str) -> Q:
    prefix, start, end = moments(text)
    return {
        "eq": Q(at__gte=start, at__lt=end),
        "ge": Q(at__gte=start),
        "gt": Q(at__gte=end),
        "sa": Q(at__gte=end),
        "lt": Q(at__lt=start),
        "eb": Q(at__lt=start),
        "le": Q(at__lt=end),
    }[prefix]


_NOTHING = Q(pk__in=[])
_FILTERS: Mapping[str, Callable[[str], Q]] = {
    "_id": _by_id,
    "date": _by_date,
    "agent": _by_agent,
    "agent-name": _by_agent_name,
    "entity": _by_entity,
    "type": _by_type,
    "subtype": _by_subtype,
    "outcome": _by_outcome,
    "site": _by_site,
}


def moments(text: str) -> tuple[str, datetime, datetime]:
    """Prefix, and the first moment of a FHIR date and the first one after it: a date is a range as wide as it says.

    Raises:
        ValueError: it is no date.
    """
    found = _DATE.fullmatch(text.replace(" ", "+"))  # a plus of the zone that was not escaped
    if found is None:
        raise ValueError(text)
    part = found.groupdict()
    day = f"{part['year']}-{part['month'] or '01'}-{part['day'] or '01'}"
    if part["time"]:
        start = datetime.fromisoformat(f"{day}T{part['time']}{part['zone'] or '+00:00'}").astimezone(UTC)
        fraction = len(part["time"].partition(".")[2])
        seconds = part["time"].count(":") == 2
        return (
            part["prefix"] or "eq",
            start,
            start + (timedelta(seconds=10.0**-fraction) if seconds else timedelta(minutes=1)),
        )
    start = datetime.fromisoformat(day).replace(tzinfo=UTC)
    if part["day"]:
        end = start + timedelta(days=1)
    else:
        months = start.year * 12 + (start.month if part["month"] else 12)
        end = start.replace(year=months // 12, month=months % 12 + 1)
    return part["prefix"] or "eq", start, end


def kinds() -> list[str]:
    """Every kind of event that occurs."""
    with connection.cursor() as cursor:
        cursor.execute(_KINDS)
        return [kind for (kind,) in cursor.fetchall()]


# --- the events ---------------------------------------------------------------------------------------------------
def rows(principal: Principal, search: Search) -> QuerySet[Event]:
    """The chosen events within reach, in order, of all pages. ``actor`` (a user name) comes with each.

    Raises:
        NotFound: the person's post has no part in the evidence.
    """
    found = selectors.events(principal, EventFilter()).filter(search.where).defer("sealed", "commitment")
    return found.order_by("-at", "-seq") if search.newest_first else found.order_by("at", "seq")


def following(found: QuerySet[Event], search: Search) -> QuerySet[Event]:
    """What comes after the last row of the page before."""
    if search.after is None:
        return found
    at, seq = search.after
    if search.newest_first:
        return found.filter(Q(at__lte=at) & (Q(at__lt=at) | Q(seq__lt=seq)))
    return found.filter(Q(at__gte=at) & (Q(at__gt=at) | Q(seq__gt=seq)))


def page(principal: Principal, search: Search) -> Page:
    """One page. ``_count=0`` asks for the total alone."""
    every = rows(principal, search)
    total = every.order_by().count() if search.total else None
    if search.count == 0:
        return Page([], total, None)
    found: list[Any] = list(following(every, search)[: search.count + 1])
    shown = found[: search.count]
    if len(found) <= search.count:
        return Page(shown, total, None)
    last = shown[-1]
    return Page(shown, total, f"{(last.at - _EPOCH) // _MICROSECOND}-{last.seq}")
