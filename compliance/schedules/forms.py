"""The form of a schedule."""

from __future__ import annotations

import re

from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.http import QueryDict

from accounts.principals import Principal
from compliance import access
from compliance.schedules.models import REPEATED
from compliance.schedules.services import MOST_RECIPIENTS


class ScheduleForm(forms.Form):
    """How often, of which hospital, to whom."""

    every = forms.ChoiceField(label="How often", choices=REPEATED, initial="monthly")
    recipients = forms.CharField(
        label="Recipients",
        max_length=1000,
        help_text="Mail addresses, separated by commas.",
        widget=forms.TextInput(attrs={"placeholder": "privacy@hospital.example", "autocomplete": "off"}),
    )
    attach = forms.BooleanField(label="Attach the document", required=False)

    def __init__(self, principal: Principal, data: QueryDict | None = None) -> None:
        super().__init__(data, prefix="schedule")
        places = [(place.code, place.name) for place in access.hospitals(principal)]
        if principal.hospital is None:
            places.insert(0, ("", "All hospitals"))
        self.fields["hospital"] = forms.ChoiceField(label="Hospital", choices=places, required=False)
        self.order_fields(["every", "hospital", "recipients", "attach"])
        for name, field in self.fields.items():
            select = isinstance(field.widget, forms.Select)
            kind = "form-check-input" if name == "attach" else "form-select" if select else "form-control"
            field.widget.attrs["class"] = kind

    def clean_recipients(self) -> list[str]:
        found = [one for one in re.split(r"[,;\s]+", self.cleaned_data["recipients"]) if one]
        if not 1 <= len(found) <= MOST_RECIPIENTS:
            raise ValidationError(f"Name 1 to {MOST_RECIPIENTS} addresses.")
        for one in found:
            validate_email(one)
        return sorted(set(found))
