"""The sign-in form: Django's, with our words and field attributes."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib.auth.forms import AuthenticationForm
from django.http import HttpRequest


class SignInForm(AuthenticationForm):
    """User name and password. Says only that the pair is wrong, never which half."""

    error_messages = {
        "invalid_login": "This user name and password do not match. Passwords are case-sensitive.",
        "inactive": "This user name and password do not match. Passwords are case-sensitive.",
    }

    def __init__(self, request: HttpRequest | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(request, *args, **kwargs)
        self.fields["username"].label = "User name"
        for name in ("username", "password"):
            widget: forms.Widget = self.fields[name].widget
            widget.attrs["class"] = "form-control"
