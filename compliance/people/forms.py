"""The filters and forms of people and access reviews: all values checked, choices those within reach."""

from __future__ import annotations

from datetime import date, timedelta

from django import forms
from django.http import QueryDict
from django.utils import timezone

from accounts.models import Department, Role
from accounts.principals import Principal
from compliance import access, period
from compliance.forms import MAX_TEXT, RangeForm, sort_choices
from compliance.people.selectors import SORTS, STANDINGS, PeopleFilter
from compliance.period import Period

DAYS = 30
DUE_DAYS = 14


class PeopleForm(RangeForm):
    """People; requests and epsilon are those of the last thirty days unless chosen otherwise."""

    def default_range(self, data: QueryDict) -> Period | None:
        return period.last_days(DAYS)

    def extend(self) -> None:
        rows = Department.objects.filter(hospital__in=access.hospitals(self.principal))
        found = dict(rows.order_by("code").values_list("code", "name"))
        self.fields["department"] = _choice("Department", "All departments", list(found.items()))
        self.fields["role"] = _choice("Role", "All roles", [(r.value, str(r.label)) for r in Role])
        self.fields["standing"] = _choice("Standing", "Everybody", list(STANDINGS.items()))
        self.fields["user"] = forms.CharField(label="Name", required=False, max_length=MAX_TEXT)
        self.fields["sort"] = forms.ChoiceField(required=False, choices=sort_choices(SORTS))

    def chosen(self) -> PeopleFilter:
        """The filter."""
        data = self.cleaned_data
        names = ("hospital", "department", "role", "standing", "user")
        covered = self.period() or period.last_days(DAYS)
        return PeopleFilter(period=covered, **{name: data[name] for name in names})


def _choice(label: str, empty: str, choices: list[tuple[str, str]]) -> forms.ChoiceField:
    return forms.ChoiceField(label=label, required=False, choices=[("", empty), *choices])


class StartForm(forms.Form):
    """A new access review: of which posts, and until when. ``scope`` is a hospital, or ``hospital/department``."""

    scope = forms.ChoiceField(label="Posts of")
    due = forms.DateField(
        label="Due", input_formats=["%Y-%m-%d"], widget=forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d")
    )

    def __init__(self, principal: Principal, data: QueryDict | None = None) -> None:
        super().__init__(data)
        choices = [] if principal.hospital else [("*", "The whole network")]
        places = {place.code: place.name for place in access.hospitals(principal)}
        rows = list(Department.objects.filter(hospital__in=places).order_by("name"))
        for code, name in places.items():
            choices.append((code, f"{name}, everybody"))
            choices += [(f"{code}/{row.code}", f"{name}, {row.name}") for row in rows if row.hospital_id == code]
        self.fields["scope"] = forms.ChoiceField(label="Posts of", choices=choices)
        self.fields["due"].initial = timezone.localdate() + timedelta(days=DUE_DAYS)
        for field in self.fields.values():
            select = isinstance(field.widget, forms.Select)
            field.widget.attrs["class"] = "form-select" if select else "form-control"

    def chosen(self) -> tuple[str, str, date]:
        """Hospital (empty: the network), department (empty: all) and last day."""
        hospital, _, department = self.cleaned_data["scope"].partition("/")
        return "" if hospital == "*" else hospital, department, self.cleaned_data["due"]
