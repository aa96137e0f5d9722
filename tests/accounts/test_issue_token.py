"""The command that issues tokens, and what scopes do to one."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from accounts import principals
from accounts.models import ApiToken
from compliance.models import Event
from fdrouter.errors import Unauthenticated
from tests.accounts import people

pytestmark = pytest.mark.django_db


def test_a_token_with_a_scope_is_good_for_that_alone(capsys: pytest.CaptureFixture[str]) -> None:
    ada = people.person("ada")
    call_command("issue_token", "ada", name="siem", scope=["system/AuditEvent.rs"], days=30)
    token = capsys.readouterr().out.strip()
    digest = principals.token_digest(token)
    assert principals.for_token(digest, scope="system/AuditEvent.rs").user_id == ada.pk
    for scope in (None, "", "system/AuditEvent", "user/Provenance.rs"):
        with pytest.raises(Unauthenticated):
            principals.for_token(digest, scope=scope)
    made = ApiToken.objects.get()
    assert made.expires_at is not None
    assert timedelta(days=29) < made.expires_at - timezone.now() <= timedelta(days=30)
    last = Event.objects.latest("seq")
    assert (last.kind, last.details["scopes"]) == ("token.issue", ["system/AuditEvent.rs"])
    assert token not in str(last.details)


def test_a_token_without_scopes_is_good_for_what_the_post_is(capsys: pytest.CaptureFixture[str]) -> None:
    people.person("ada")
    call_command("issue_token", "ada", name="laptop")
    digest = principals.token_digest(capsys.readouterr().out.strip())
    assert principals.for_token(digest) == principals.for_token(digest, scope="system/AuditEvent.rs")


def test_nobody_gets_none() -> None:
    people.person("bob", None)
    for name in ("bob", "no.such.person"):
        with pytest.raises(CommandError):
            call_command("issue_token", name, name="x")
    assert not ApiToken.objects.exists()
