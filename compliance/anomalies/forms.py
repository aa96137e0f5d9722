"""The filters and forms of findings and cases: all values checked, choices those within reach."""

from __future__ import annotations

from django import forms
from django.http import QueryDict

from accounts.principals import Principal
from compliance import access, period
from compliance.anomalies import cases
from compliance.anomalies.models import AnomalyCase, CaseState, Decision, WatchKind
from compliance.anomalies.registry import RULES
from compliance.anomalies.selectors import CASE_SORTS, FINDING_SORTS, FINDING_STATES, CaseFilter, FindingFilter
from compliance.anomalies.services import MAX_REFERENCE
from compliance.forms import MAX_TEXT, RangeForm, sort_choices
from compliance.period import Period

DAYS = 30
NOTE = forms.Textarea(attrs={"rows": 3, "maxlength": cases.MAX_NOTE})


class FindingForm(RangeForm):
    """The findings: the last thirty days unless chosen otherwise."""

    def default_range(self, data: QueryDict) -> Period | None:
        return period.last_days(DAYS)

    def extend(self) -> None:
        rules = [("", "All rules"), *sorted(((rule.name, rule.title) for rule in RULES.values()), key=lambda r: r[1])]
        self.fields["rule"] = forms.ChoiceField(label="Rule", required=False, choices=rules)
        self.fields["person"] = forms.CharField(label="User name", required=False, max_length=MAX_TEXT)
        states = [("", "Every state"), *FINDING_STATES.items()]
        self.fields["state"] = forms.ChoiceField(label="State", required=False, choices=states)
        self.fields["sort"] = forms.ChoiceField(required=False, choices=sort_choices(FINDING_SORTS))

    def chosen(self) -> FindingFilter:
        """The filter."""
        data = self.cleaned_data
        names = ("hospital", "rule", "person", "state")
        return FindingFilter(period=self.period(), **{name: data[name] for name in names})


class CaseForm(RangeForm):
    """The cases, whenever they were opened."""

    def extend(self) -> None:
        del self.fields["start"], self.fields["end"]
        states = [("", "Every state"), ("waiting", "Waiting"), ("overdue", "Overdue"), *CaseState.choices]
        self.fields["state"] = forms.ChoiceField(label="State", required=False, choices=states)
        self.fields["person"] = forms.CharField(label="About", required=False, max_length=MAX_TEXT)
        self.fields["assignee"] = forms.CharField(label="Officer", required=False, max_length=MAX_TEXT)
        self.fields["sort"] = forms.ChoiceField(required=False, choices=sort_choices(CASE_SORTS))

    def chosen(self) -> CaseFilter:
        """The filter."""
        data = self.cleaned_data
        return CaseFilter(**{name: data[name] for name in ("hospital", "person", "state", "assignee")})


class _Styled(forms.Form):
    def style(self) -> None:
        """Gives every field the look of the portal's forms."""
        for field in self.fields.values():
            select = isinstance(field.widget, forms.Select)
            field.widget.attrs["class"] = "form-select" if select else "form-control"


class OpenForm(_Styled):
    """A case by hand: about whom, if anybody, and why."""

    username = forms.CharField(label="About (user name, may stay empty)", required=False, max_length=150)
    note = forms.CharField(label="Why", min_length=3, max_length=cases.MAX_NOTE, widget=NOTE)

    def __init__(self, data: QueryDict | None = None) -> None:
        super().__init__(data)
        self.style()


class WatchForm(_Styled):
    """A patient to flag: where, by which reference, why, and the patient's own account."""

    reference = forms.CharField(label="Patient reference", max_length=MAX_REFERENCE)
    kind = forms.ChoiceField(label="Why", choices=WatchKind.choices)
    username = forms.CharField(label="Own user name (if they work here)", required=False, max_length=150)

    def __init__(self, principal: Principal, data: QueryDict | None = None) -> None:
        super().__init__(data, prefix="watch")
        places = [(place.code, place.name) for place in access.hospitals(principal)]
        self.fields["hospital"] = forms.ChoiceField(label="Hospital", choices=places)
        self.style()


class AssignForm(_Styled):
    """Who takes the case."""

    def __init__(self, principal: Principal, case: AnomalyCase, data: QueryDict | None = None) -> None:
        super().__init__(data)
        people = cases.officers(principal, case)
        names = [(str(user.pk), user.get_full_name() or user.get_username()) for user in people]
        self.fields["assignee"] = forms.ChoiceField(label="Officer", choices=names)
        self.fields["assignee"].initial = str(case.assignee_id or principal.user_id)
        self.style()


class NoteForm(_Styled):
    """A note."""

    note = forms.CharField(label="Note", min_length=3, max_length=cases.MAX_NOTE, widget=NOTE)

    def __init__(self, data: QueryDict | None = None, *, label: str = "Note", prefix: str = "note") -> None:
        super().__init__(data, prefix=prefix)
        self.fields["note"].label = label
        self.style()


class DecideForm(NoteForm):
    """A decision with its reasons."""

    decision = forms.ChoiceField(label="Decision", choices=Decision.choices)
    field_order = ("decision", "note")

    def __init__(self, data: QueryDict | None = None) -> None:
        super().__init__(data, label="Reasons", prefix="decide")
