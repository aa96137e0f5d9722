"""The filters of the portal's pages: GET parameters, all validated, choices limited to what the reader may see."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta
from typing import Any

from django import forms
from django.core.validators import MaxValueValidator, MinValueValidator
from django.http import QueryDict

from accounts.models import Department
from accounts.policy import PURPOSES
from accounts.principals import Principal
from compliance import access, period
from compliance.charts import OUTCOMES
from compliance.models import ReportKind
from compliance.period import Period
from compliance.selectors import EVENT_SORTS, REQUEST_SORTS, EventFilter, RequestFilter, event_kinds
from federation.models import Kind, Node

MAX_DAYS = 366
LONGEST = timedelta(days=MAX_DAYS - 1)
MAX_TEXT = 80


def _dated(label: str) -> forms.DateField:
    limits = [MinValueValidator(date(period.FIRST_YEAR, 1, 1)), MaxValueValidator(date(period.LAST_YEAR, 12, 31))]
    widget = forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d")
    return forms.DateField(label=label, required=False, widget=widget, input_formats=["%Y-%m-%d"], validators=limits)


def _choice(label: str, empty: str, choices: Iterable[tuple[str, str]]) -> forms.ChoiceField:
    return forms.ChoiceField(label=label, required=False, choices=[("", empty), *choices])


def _text(label: str, placeholder: str = "") -> forms.CharField:
    return forms.CharField(
        label=label, required=False, max_length=MAX_TEXT, widget=forms.TextInput(attrs={"placeholder": placeholder})
    )


def sort_choices(columns: Iterable[str]) -> list[tuple[str, str]]:
    """Each column, upwards and downwards."""
    return [(sign + column, column) for column in columns for sign in ("", "-")]


class RangeForm(forms.Form):
    """A range of days and a hospital within reach. Unknown parameters are ignored, wrong values are errors."""

    start = _dated("From")
    end = _dated("To")

    def __init__(self, principal: Principal, data: QueryDict) -> None:
        super().__init__(self._with_range(data))
        self.principal = principal
        places = [(place.code, place.name) for place in access.hospitals(principal)]
        self.fields["hospital"] = _choice("Hospital", "All hospitals", places)
        if principal.hospital is not None:
            self.fields["hospital"].widget = forms.HiddenInput()
        self.extend()
        for field in self.fields.values():
            kind = "form-select" if isinstance(field.widget, forms.Select) else "form-control"
            field.widget.attrs.setdefault("class", kind)

    def _with_range(self, data: QueryDict) -> QueryDict:
        """The parameters with the default range where none is given, so that the page shows what it counts."""
        chosen = self.default_range(data)
        if chosen is None or data.get("start") or data.get("end"):
            return data
        filled = data.copy()
        filled["start"], filled["end"] = chosen.start.isoformat(), chosen.end.isoformat()
        return filled

    def default_range(self, data: QueryDict) -> Period | None:
        """The range when none is given; ``None``: all time."""
        return None

    def extend(self) -> None:
        """Adds the fields of a subclass."""

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        start, end = cleaned.get("start"), cleaned.get("end")
        if start and end and start > end:
            self.add_error("end", "The range ends before it begins.")
        elif start and end and (end - start).days >= MAX_DAYS:
            self.add_error("end", f"Choose at most {MAX_DAYS} days.")
        return cleaned

    def period(self) -> Period | None:
        """The chosen range; with one end only, up to a year from it; with none, all time."""
        start: date | None = self.cleaned_data.get("start")
        end: date | None = self.cleaned_data.get("end")
        if start is not None:
            return Period(start, end or max(start, min(period.today().end, start + LONGEST)))
        return None if end is None else Period(end - LONGEST, end)


class LedgerForm(RangeForm):
    """The ledger page: this month unless another range is chosen."""

    def default_range(self, data: QueryDict) -> Period | None:
        return period.month_to_date()


class _DepartmentForm(RangeForm):
    def extend(self) -> None:
        rows = Department.objects.filter(hospital__in=access.hospitals(self.principal))
        found = dict(rows.order_by("code").values_list("code", "name"))
        self.fields["department"] = _choice("Department", "All departments", found.items())


class RequestForm(_DepartmentForm):
    """The requests page: the last thirty days unless chosen otherwise; an id is looked for at any time."""

    def default_range(self, data: QueryDict) -> Period | None:
        return None if data.get("id") else period.last_days(30)

    def extend(self) -> None:
        super().extend()
        nodes = Node.objects.order_by("name")  # a hospital's people may ask any hospital's records
        self.fields["kind"] = _choice("Kind", "All kinds", Kind.choices)
        self.fields["state"] = _choice("Outcome", "All outcomes", OUTCOMES)
        self.fields["node"] = _choice("Node", "All nodes", nodes.values_list("pk", "name"))
        self.fields["user"] = _text("User name")
        self.fields["reason"] = _text("Reason")
        self.fields["id"] = forms.UUIDField(label="Request id", required=False)
        self.fields["sort"] = forms.ChoiceField(required=False, choices=sort_choices(REQUEST_SORTS))

    def chosen(self) -> RequestFilter:
        """The filter."""
        data = self.cleaned_data
        names = ("hospital", "department", "kind", "state", "reason", "node", "user", "id")
        return RequestFilter(period=self.period(), **{name: data[name] for name in names})


class EventForm(_DepartmentForm):
    """The events page and its export."""

    def extend(self) -> None:
        super().extend()
        kinds = [(kind, kind) for kind in event_kinds(self.principal)]
        self.fields["kind"] = _choice("Kind", "All kinds", kinds)
        self.fields["outcome"] = forms.CharField(label="Outcome", required=False, max_length=MAX_TEXT)
        self.fields["actor"] = _text("Actor")
        self.fields["subject"] = forms.UUIDField(label="Subject", required=False)
        self.fields["purpose"] = _choice("Purpose", "All purposes", PURPOSES.items())
        self.fields["sort"] = forms.ChoiceField(required=False, choices=sort_choices(EVENT_SORTS))

    def chosen(self) -> EventFilter:
        """The filter; without a range, all of the log."""
        data = self.cleaned_data
        names = ("hospital", "department", "kind", "outcome", "actor", "subject", "purpose")
        return EventFilter(period=self.period(), **{name: data[name] for name in names})


class ReportForm(forms.Form):
    """Which kind of period, which one, and of which hospital.

    ``start`` is any day of the day, week, month or quarter; ``end`` counts for a free range only.
    """

    kind = forms.ChoiceField(label="Period", choices=ReportKind.choices, initial=ReportKind.MONTHLY)
    start = _dated("A day of it, or the first")
    end = _dated("Last day")

    def __init__(self, principal: Principal, data: QueryDict | None = None) -> None:
        super().__init__(data)
        self.covered = period.today()
        self.fields["start"].required = True
        self.fields["start"].initial = period.latest_complete("monthly").start
        places = [(place.code, place.name) for place in access.hospitals(principal)]
        if principal.hospital is None:
            places.insert(0, ("", "All hospitals"))
        self.fields["hospital"] = forms.ChoiceField(label="Hospital", choices=places, required=False)
        for field in self.fields.values():
            select = isinstance(field.widget, forms.Select)
            field.widget.attrs["class"] = "form-select" if select else "form-control"

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        kind, start, end = cleaned.get("kind"), cleaned.get("start"), cleaned.get("end")
        if not kind or not start:
            return cleaned
        if kind != ReportKind.RANGE:
            self.covered = period.whole(kind, start)
        elif end is None:
            self.add_error("end", "A free range has a last day.")
        elif not 1 <= (end - start).days + 1 <= period.LONGEST_REPORT:
            self.add_error("end", f"Choose 1 to {period.LONGEST_REPORT} days.")
        else:
            self.covered = Period(start, end)
        if self.covered.start > period.today().end:
            self.add_error("start", "Choose a period that has begun.")
        return cleaned
