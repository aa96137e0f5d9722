"""Signing in and out, the lock, the appearance, and people without a post."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import Membership, Role
from compliance.models import Event
from tests.accounts.people import PASSWORD, department, person

pytestmark = pytest.mark.django_db
SIGN_IN = "/sign-in"


def sign_in(client: Client, username: str, password: str, **more: str) -> int:
    return client.post(SIGN_IN, {"username": username, "password": password, **more}).status_code


def session_events() -> list[tuple[str, str, int | None]]:
    rows = Event.objects.filter(kind__startswith="session.").order_by("seq")
    return list(rows.values_list("kind", "outcome", "actor_id"))


def test_sign_in_is_recorded_with_its_post_and_leads_to_the_start(client: Client) -> None:
    user = person("ada", works_in=department("emergency"))
    response = client.post(SIGN_IN, {"username": "ada", "password": PASSWORD})
    assert response.status_code == 302
    assert response["Location"] == "/"
    event = Event.objects.get(kind="session.sign_in")
    assert (event.outcome, event.actor_id, event.hospital, event.department) == (
        "ok",
        user.pk,
        "northfield",
        "emergency",
    )


def test_failed_sign_in_of_a_known_person_names_the_account_but_nothing_typed(client: Client) -> None:
    user = person("ada")
    response = client.post(SIGN_IN, {"username": "ada", "password": "a wrong one 123"})
    assert response.status_code == 200
    assert b"do not match" in response.content
    event = Event.objects.get(kind="session.sign_in")
    assert (event.outcome, event.actor_id, event.details) == ("failed", user.pk, {"reason": "credentials"})


def test_failed_sign_in_of_nobody_is_recorded_without_what_was_typed(client: Client) -> None:
    sign_in(client, "my-password-by-mistake", "x")
    event = Event.objects.get(kind="session.sign_in")
    assert (event.outcome, event.actor_id) == ("failed", None)
    assert "my-password-by-mistake" not in str(event.details)


def test_known_and_unknown_people_get_the_same_refusal(client: Client) -> None:
    person("ada")
    known = client.post(SIGN_IN, {"username": "ada", "password": "wrong"}).content.decode()
    unknown = client.post(SIGN_IN, {"username": "bob", "password": "wrong"}).content.decode()
    message = "This user name and password do not match"
    assert message in known
    assert message in unknown


def test_no_evidence_no_session(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sign-in that cannot be recorded does not happen."""
    from fdrouter import evidence

    person("ada")
    monkeypatch.setattr(evidence, "_append", None)
    with pytest.raises(RuntimeError):
        sign_in(client, "ada", PASSWORD)
    monkeypatch.undo()
    assert client.get("/history").status_code == 302


def test_too_many_failures_pause_the_account_with_a_page_of_ours(client: Client) -> None:
    person("ada")
    codes = [sign_in(client, "ada", "wrong") for _ in range(9)]
    assert codes[0] == 200
    assert codes[-1] == 429
    response = client.post(SIGN_IN, {"username": "ada", "password": PASSWORD})
    assert response.status_code == 429
    assert "Sign-in is paused" in response.content.decode()
    assert Event.objects.filter(kind="session.sign_in", outcome="failed", details__reason="locked").exists()
    assert not Event.objects.filter(kind="session.sign_in", outcome="ok").exists()


def test_sign_out_is_recorded_and_needs_post(client: Client) -> None:
    user = person("ada")
    client.force_login(user)
    assert client.get("/sign-out").status_code == 405
    assert client.post("/sign-out").status_code == 302
    assert session_events() == [("session.sign_out", "ok", user.pk)]
    assert client.get("/history").status_code == 302


@pytest.mark.parametrize(
    ("target", "where"), [("/history", "/history"), ("https://evil.example/", "/"), ("//evil", "/")]
)
def test_after_sign_in_only_addresses_of_this_site(client: Client, target: str, where: str) -> None:
    person("ada")
    response = client.post(SIGN_IN, {"username": "ada", "password": PASSWORD, "next": target})
    assert response["Location"] == where


def test_a_form_without_its_token_is_refused_in_plain_words() -> None:
    response = Client(enforce_csrf_checks=True).post(SIGN_IN, {"username": "a", "password": "b"})
    assert response.status_code == 403
    assert "out of date" in response.content.decode()


def test_appearance_is_a_cookie_that_the_server_reads(client: Client) -> None:
    response = client.post("/theme", {"theme": "dark", "next": "/sign-in"})
    assert response["Location"] == "/sign-in"
    assert 'data-bs-theme="dark"' in client.get(SIGN_IN).content.decode()
    client.post("/theme", {"theme": "<script>", "next": "https://evil.example/"})
    assert client.cookies["theme"].value == "dark"


def test_a_person_without_a_post_gets_a_page_that_says_so(client: Client) -> None:
    user = person("lost", None)
    client.force_login(user)
    for name in ("federation:ask", "federation:history", "federation:budget", "federation:nodes"):
        response = client.get(reverse(name))
        assert response.status_code == 403
        assert "no active post" in response.content.decode()


def test_a_post_that_ended_closes_the_pages_at_once(client: Client) -> None:
    user = person("ada", Role.NURSE)
    client.force_login(user)
    assert client.get("/history").status_code == 200
    Membership.objects.filter(user=user).update(active=False)
    assert client.get("/history").status_code == 403


def test_pages_carry_a_policy_that_allows_nothing_inline(client: Client) -> None:
    response = client.get(SIGN_IN)
    assert "'unsafe" not in response["Content-Security-Policy"]
    page = response.content.decode()
    assert " style=" not in page
    assert "<script>" not in page
