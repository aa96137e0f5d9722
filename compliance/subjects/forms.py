"""The forms of the patient access report and of disclosures."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from django import forms
from django.http import QueryDict
from django.utils import timezone

from accounts.principals import Principal
from compliance import access, period
from compliance.forms import MAX_TEXT, RangeForm, sort_choices
from compliance.period import Period
from compliance.subjects.disclosures import NAMES, SORTS, DisclosureFilter, kinds
from compliance.subjects.selectors import MAX_REFERENCE

YEARS = 6
"""45 CFR 164.528(a)(1): the six years before the request."""
ORDERS = {
    "-at": "Newest first",
    "at": "Oldest first",
    "username": "Person",
    "department": "Department",
    "kind": "Kind",
    "purpose": "Purpose",
    "outcome": "Outcome",
    "in_care": "Outside of care first",
    "accounting": "Counted first",
}


def six_years_before(day: date) -> date:
    """The same day six years earlier; of a leap day, the day before it."""
    try:
        return day.replace(year=day.year - YEARS)
    except ValueError:
        return day.replace(year=day.year - YEARS, day=28)


def _day(label: str) -> forms.DateField:
    widget = forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d")
    return forms.DateField(label=label, required=False, widget=widget, input_formats=["%Y-%m-%d"])


class SubjectForm(forms.Form):
    """A patient's reference at a hospital, and up to six years. Sent by POST: an address would stay in histories."""

    reference = forms.CharField(
        label="Patient reference",
        max_length=MAX_REFERENCE,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    start = _day("From (six years at most)")
    end = _day("To")
    order = forms.ChoiceField(label="Order", required=False, choices=list(ORDERS.items()))

    def __init__(self, principal: Principal, data: QueryDict | None = None) -> None:
        super().__init__(data)
        places = [(place.code, place.name) for place in access.hospitals(principal)]
        self.fields["hospital"] = forms.ChoiceField(label="Hospital", choices=places)
        self.order_fields(["hospital", "reference", "start", "end", "order"])
        today = timezone.localdate()
        self.fields["start"].initial, self.fields["end"].initial = six_years_before(today), today
        for field in self.fields.values():
            select = isinstance(field.widget, forms.Select)
            field.widget.attrs["class"] = "form-select" if select else "form-control"

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        end = cleaned.get("end") or timezone.localdate()
        start = cleaned.get("start") or six_years_before(end)
        if start > end:
            self.add_error("end", "The range ends before it begins.")
        elif start.year < period.FIRST_YEAR - YEARS or end > timezone.localdate() + timedelta(days=1):
            self.add_error("end", "Choose days up to today.")
        elif start < six_years_before(end):
            self.add_error("start", "Choose at most six years.")
        self.covered = Period(start, end)
        return cleaned


class DisclosureForm(RangeForm):
    """Disclosures of the last ninety days unless chosen otherwise."""

    def default_range(self, data: QueryDict) -> Period | None:
        return period.last_days(90)

    def extend(self) -> None:
        found = [("", "Everything"), *((kind, NAMES.get(kind, kind)) for kind in kinds())]
        self.fields["kind"] = forms.ChoiceField(label="What", required=False, choices=found)
        self.fields["actor"] = forms.CharField(label="Recipient's user name", required=False, max_length=MAX_TEXT)
        self.fields["sort"] = forms.ChoiceField(required=False, choices=sort_choices(SORTS))

    def chosen(self) -> DisclosureFilter:
        """The filter."""
        data = self.cleaned_data
        return DisclosureFilter(period=self.period(), **{name: data[name] for name in ("hospital", "kind", "actor")})
