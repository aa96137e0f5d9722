"""Signing in and out, the choice of appearance, and the check that every page's person has a post."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

from axes.helpers import get_cool_off
from django.contrib.auth import logout
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView, redirect_to_login
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

from accounts import principals
from accounts.forms import SignInForm
from accounts.models import User
from accounts.principals import Principal
from fdrouter import evidence
from fdrouter.context import THEMES
from fdrouter.errors import Unauthenticated

P = ParamSpec("P")
THEME_SECONDS = 365 * 24 * 3600


def principal_required(
    view: Callable[Concatenate[HttpRequest, Principal, P], HttpResponse],
) -> Callable[Concatenate[HttpRequest, P], HttpResponse]:
    """The view takes the acting principal. Signed out: to the sign-in page. Without a post: a page that says so.

    A part of a page (htmx) gets a bare 401 instead, so that no sign-in form is swapped into the page.
    """

    @wraps(view)
    def checked(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        if not request.user.is_authenticated:
            if "HX-Request" in request.headers:
                return HttpResponse(status=401)
            return redirect_to_login(request.get_full_path())
        try:
            principal = principals.for_user(request.user.pk)
        except Unauthenticated:
            return render(request, "accounts/no_post.html", status=403)
        return view(request, principal, *args, **kwargs)

    return checked


def _local(request: HttpRequest, target: str) -> str:
    """``target`` if it is an address of this site, otherwise the start page."""
    safe = url_has_allowed_host_and_scheme(
        target, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return target if safe else "/"


def _event(kind: str, user: User | None, outcome: str = "ok", **details: Any) -> evidence.Event:
    """Evidence about a session. Nothing that was typed goes in: a user name may be a mistyped password."""
    hospital = department = None
    if user is not None:
        try:
            post = principals.for_user(user.pk)
            hospital, department = post.hospital, post.department
        except Unauthenticated:
            details["post"] = "none"
    return evidence.Event(
        kind=kind,
        outcome=outcome,
        actor_id=user.pk if user is not None else None,
        hospital=hospital,
        department=department,
        details=details,
    )


class SignIn(LoginView):
    """Sign-in with evidence of success and failure, each in the transaction of the attempt itself."""

    template_name = "accounts/sign_in.html"
    authentication_form = SignInForm
    redirect_authenticated_user = True

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        with transaction.atomic():
            return super().post(request, *args, **kwargs)

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        response = super().form_valid(form)
        evidence.record(_event("session.sign_in", form.get_user()))
        return response

    def form_invalid(self, form: AuthenticationForm) -> HttpResponse:
        locked = bool(getattr(self.request, "axes_locked_out", False))
        name = form.cleaned_data.get("username", "") if hasattr(form, "cleaned_data") else ""
        if name:
            user = User.objects.filter(username=name).first()
            evidence.record(_event("session.sign_in", user, "failed", reason="locked" if locked else "credentials"))
        if not locked:
            return super().form_invalid(form)
        # Axes replaces the response of a locked request by a bare line of text; this page says more.
        self.request.axes_locked_out = False  # type: ignore[attr-defined]
        pause = get_cool_off(self.request)
        minutes = max(1, round(pause.total_seconds() / 60)) if pause else None
        return render(self.request, "accounts/locked.html", {"minutes": minutes}, status=429)


@require_POST
def sign_out(request: HttpRequest) -> HttpResponse:
    """Ends the session."""
    if isinstance(request.user, User):
        with transaction.atomic():
            evidence.record(_event("session.sign_out", request.user))
            logout(request)
    return redirect("accounts:sign-in")


@require_POST
def theme(request: HttpRequest) -> HttpResponse:
    """Remembers the appearance in a cookie, and goes back to the page."""
    chosen = request.POST.get("theme", "")
    response = HttpResponseRedirect(_local(request, request.POST.get("next", "/")))
    if chosen in THEMES:
        response.set_cookie("theme", chosen, max_age=THEME_SECONDS, samesite="Lax", secure=request.is_secure())
    return response
