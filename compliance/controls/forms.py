"""The controls' filters and the form of an exception: all values checked, choices those of the libraries."""

from __future__ import annotations

from datetime import timedelta

from django import forms
from django.http import QueryDict
from django.utils import timezone

from accounts.models import Role
from accounts.principals import Principal
from compliance import period
from compliance.controls import exceptions
from compliance.controls.library import libraries
from compliance.controls.matrix import SHOWN, MatrixFilter
from compliance.forms import RangeForm
from compliance.period import Period

DAYS = 30


class ControlForm(RangeForm):
    """Regulation, status, owner and the days that the evidence is of: the last thirty unless chosen otherwise."""

    def default_range(self, data: QueryDict) -> Period | None:
        return period.last_days(DAYS)

    def extend(self) -> None:
        del self.fields["hospital"]  # an officer's post says whose evidence it is
        found = libraries()
        owners = sorted({control.owner for library in found for control in library.controls})
        choices: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
            "regulation": ("Regulation", "All regulations", [(lib.regulation, lib.title) for lib in found]),
            "status": ("Status", "Every status", list(SHOWN.items())),
            "owner": ("Owner", "All owners", [(owner, str(Role(owner).label).capitalize()) for owner in owners]),
        }
        for name, (label, empty, values) in choices.items():
            self.fields[name] = forms.ChoiceField(label=label, required=False, choices=[("", empty), *values])

    def chosen(self) -> MatrixFilter:
        """The filter."""
        data = self.cleaned_data
        return MatrixFilter(regulation=data["regulation"], status=data["status"], owner=data["owner"])

    def covered(self) -> Period:
        """The days that the evidence is of."""
        return self.period() or period.last_days(DAYS)


class ExceptionForm(forms.Form):
    """Why a control may be unmet, who answers for it, and until when."""

    reason = forms.CharField(
        label="Reason", min_length=10, max_length=exceptions.MAX_REASON, widget=forms.Textarea(attrs={"rows": 2})
    )
    owner = forms.CharField(label="Who answers for it", min_length=2, max_length=exceptions.MAX_OWNER)
    expires_on = forms.DateField(
        label="Until, that day included",
        widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d"),
        input_formats=["%Y-%m-%d"],
    )

    def __init__(self, principal: Principal, data: QueryDict | None = None) -> None:
        today = timezone.localdate()
        start = {"owner": principal.display_name, "expires_on": today + timedelta(days=30)}
        super().__init__(data, initial=start)
        self.fields["expires_on"].widget.attrs |= {"min": f"{today}", "max": f"{today + exceptions.LONGEST}"}
        for field in self.fields.values():
            field.widget.attrs["class"] = "form-control"
