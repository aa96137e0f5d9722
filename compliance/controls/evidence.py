"""Evidence queries: a registry of typed functions that look at live data and say how a control stands.

A query takes the person who asks, a period and its own keyword parameters, whose annotations are what a library's
parameters are checked against. It never returns more than that person may see.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import msgspec
from django.db.models import Max, Min, QuerySet
from django.utils import timezone

from accounts.principals import Principal
from compliance import selectors
from compliance.models import Event
from compliance.period import Period
from compliance.selectors import EventFilter

MET, PARTIAL, NOT_MET, NOT_APPLICABLE = "met", "partial", "not_met", "not_applicable"
STATUSES = {MET: "Met", PARTIAL: "Partly met", NOT_MET: "Not met", NOT_APPLICABLE: "Not applicable"}

Cells = Callable[[Any], Sequence[Any]]


class UnknownQuery(LookupError):
    """No evidence query has this name."""


class ParametersInvalid(ValueError):
    """The parameters do not fit the query's signature."""


@dataclass(frozen=True, slots=True)
class Count:
    """A figure of the evidence. ``events`` are the events page's parameters under which its rows are found."""

    label: str
    value: int | float | str
    events: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """The rows behind a figure: a queryset or a list, and how a row becomes one cell a column."""

    columns: tuple[str, ...]
    rows: QuerySet[Any] | Sequence[Any]
    cells: Cells = tuple

    def first(self, count: int) -> list[Sequence[Any]]:
        """The first rows, as cells."""
        return [self.cells(row) for row in self.rows[:count]]

    def total(self) -> int:
        """How many rows there are."""
        return self.rows.count() if isinstance(self.rows, QuerySet) else len(self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """How a control stood at ``checked_at``, in one sentence, with figures, rows and the range of the log."""

    status: str
    sentence: str
    counts: tuple[Count, ...] = ()
    table: Table | None = None
    span: tuple[int | None, int | None] = (None, None)
    checked_at: datetime = field(default_factory=timezone.now)

    @property
    def first(self) -> int | None:
        """The sequence number of the first event that was looked at."""
        return self.span[0]

    @property
    def last(self) -> int | None:
        """The sequence number of the last one."""
        return self.span[1]


class Run(Protocol):
    """An evidence query."""

    def __call__(self, principal: Principal, period: Period, /, **parameters: Any) -> Evidence: ...


@dataclass(frozen=True, slots=True)
class Query:
    """A registered query: its function, what its parameters must be, and what it looks at."""

    name: str
    run: Run
    parameters: type[msgspec.Struct]
    says: str


QUERIES: dict[str, Query] = {}


def query(name: str) -> Callable[[Callable[..., Evidence]], Callable[..., Evidence]]:
    """Registers an evidence query. Keyword-only arguments of the function are the parameters a library may give."""

    def register(run: Callable[..., Evidence]) -> Callable[..., Evidence]:
        if name in QUERIES:
            raise ValueError(f"two evidence queries are called {name}")
        given = inspect.signature(run, eval_str=True).parameters.values()
        fields: list[Any] = [
            (p.name, p.annotation) if p.default is p.empty else (p.name, p.annotation, p.default)
            for p in given
            if p.kind is p.KEYWORD_ONLY
        ]
        shape = msgspec.defstruct("Parameters", fields, kw_only=True, forbid_unknown_fields=True, frozen=True)
        QUERIES[name] = Query(name, run, shape, (inspect.getdoc(run) or "").partition("\n")[0])
        return run

    return register


def checked(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with the query's defaults filled in.

    Raises:
        UnknownQuery: no such query. ParametersInvalid: not its parameters.
    """
    if name not in QUERIES:
        raise UnknownQuery(name)
    try:
        return msgspec.structs.asdict(msgspec.convert(dict(parameters), QUERIES[name].parameters))
    except msgspec.ValidationError as error:
        raise ParametersInvalid(f"{name}: {error}") from None


def run(name: str, parameters: Mapping[str, Any], principal: Principal, period: Period) -> Evidence:
    """Runs a query with parameters that :func:`checked` has passed."""
    return QUERIES[name].run(principal, period, **parameters)


# --- what several queries need ------------------------------------------------------------------------------------
EVENT_COLUMNS = ("No.", "Time", "Kind", "Outcome", "Actor", "Subject", "Hospital")


def _event_cells(event: Event) -> Sequence[Any]:
    actor = getattr(event, "actor", None)
    return (event.seq, event.at, event.kind, event.outcome, actor, event.subject, event.hospital)


def logged(principal: Principal, period: Period | None, kinds: Iterable[str] = ()) -> QuerySet[Event]:
    """The events of these kinds (none named: all) within reach, newest first."""
    rows = selectors.events(principal, EventFilter(period=period)).order_by("-seq")
    return rows.filter(kind__in=list(kinds)) if kinds else rows


def event_table(rows: QuerySet[Event]) -> Table:
    """Events as the rows of an evidence."""
    return Table(EVENT_COLUMNS, rows, _event_cells)


def seqs(rows: QuerySet[Event]) -> tuple[int | None, int | None]:
    """The first and the last sequence number of the events."""
    found = rows.order_by().aggregate(first=Min("seq"), last=Max("seq"))
    return found["first"], found["last"]


def found_under(period: Period, **chosen: str) -> dict[str, str]:
    """The parameters of the events page under which a figure's rows are found."""
    return {**chosen, "start": period.start.isoformat(), "end": period.end.isoformat()}


def counted(number: int, one: str, many: str) -> str:
    """``no rows``, ``1 row``, ``1,204 rows``."""
    return f"no {many}" if number == 0 else f"{number:,} {one if number == 1 else many}"


def sentence(*parts: str) -> str:
    """Parts joined to sentences, the first letter a capital."""
    text = " ".join(part for part in parts if part)
    return text[:1].upper() + text[1:]
