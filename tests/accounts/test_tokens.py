"""Bearer tokens of the REST API."""

from __future__ import annotations

import pytest
from django.test import RequestFactory
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request

from accounts import principals
from accounts.models import ApiToken, Membership
from accounts.tokens import TokenAuthentication
from tests.accounts import people

pytestmark = pytest.mark.django_db


def sent(header: str | None) -> Request:
    headers = {} if header is None else {"Authorization": header}
    return Request(RequestFactory().get("/api/me", headers=headers))


@pytest.fixture
def token() -> str:
    return principals.issue_token(Membership.objects.get(user=people.person("ada")), "laptop")


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER {}", "Bearer   {} "])
def test_a_token_signs_its_owner_in(form: str, token: str) -> None:
    found = TokenAuthentication().authenticate(sent(form.format(token)))
    assert found is not None
    user, principal = found
    assert (user.username, principal.user_id) == ("ada", user.pk)


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic YTpi", "Token abc", "fdr_abc"])
def test_without_a_bearer_token_another_way_may_be_tried(header: str | None) -> None:
    assert TokenAuthentication().authenticate(sent(header)) is None


@pytest.mark.parametrize("value", ["fdr_guess", "\xff\xfe", "a b c", "' OR 1=1 --", "x" * 10_000])
def test_a_wrong_token_is_refused_and_not_repeated(value: str, token: str) -> None:
    with pytest.raises(AuthenticationFailed) as refused:
        TokenAuthentication().authenticate(sent(f"Bearer {value}"))
    assert value not in str(refused.value)


def test_a_token_is_exact(token: str) -> None:
    for wrong in (token[:-1], token + "A", token.upper(), token.removeprefix("fdr_")):
        with pytest.raises(AuthenticationFailed):
            TokenAuthentication().authenticate(sent(f"Bearer {wrong}"))


def test_a_deleted_token_is_refused(token: str) -> None:
    ApiToken.objects.all().delete()
    with pytest.raises(AuthenticationFailed):
        TokenAuthentication().authenticate(sent(f"Bearer {token}"))


def test_the_answer_says_how_to_authenticate() -> None:
    assert TokenAuthentication().authenticate_header(sent(None)) == "Bearer"
