"""More of a budget, asked on the budget page or over the API, decided in the portal."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from accounts.models import Role, User
from privacy.models import GrantState, QuotaGrant
from tests.accounts import people

pytestmark = pytest.mark.django_db
WISH = {"target": "department", "epsilon": "1.5", "reason": "a difficult afternoon"}


@pytest.fixture
def ada() -> User:
    return people.person("ada", works_in=people.department("research"))


@pytest.fixture
def olivia() -> User:
    return people.person("olivia", Role.PRIVACY_OFFICER)


def client_of(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def test_from_wish_to_budget(ada: User, olivia: User) -> None:
    asker, officer = client_of(ada), client_of(olivia)
    page = asker.post("/budget/more", WISH, follow=True)
    assert b"sent to the privacy officer" in page.content and b"a difficult afternoon" in page.content
    (wish,) = QuotaGrant.objects.all()
    waiting = officer.get("/portal/grants").content
    assert b"a difficult afternoon" in waiting and b"Approve" in waiting
    done = officer.post("/portal/grants", {"grant": str(wish.pk), "decision": "approve"}, follow=True)
    assert b"Approved" in done.content and b"Nothing waits" in done.content
    assert "3.5 left" in asker.get("/budget").content.decode()
    again = officer.post("/portal/grants", {"grant": str(wish.pk), "decision": "deny"}, follow=True)
    assert b"has been decided" in again.content


@pytest.mark.parametrize("changes", [{"epsilon": "x"}, {"epsilon": "-1"}, {"reason": ""}, {"target": "block"}, {}])
def test_a_bad_wish_is_told_and_stays_unasked(ada: User, changes: dict[str, str]) -> None:
    client = client_of(ada)
    page = client.post("/budget/more", WISH | changes if changes else {}, follow=True)
    assert b"note-error" in page.content and not QuotaGrant.objects.exists()


def test_only_officers_decide(ada: User, olivia: User) -> None:
    client_of(ada).post("/budget/more", WISH)
    (wish,) = QuotaGrant.objects.all()
    decision = {"grant": str(wish.pk), "decision": "approve"}
    elsewhere = people.person("lara", Role.PRIVACY_OFFICER, at=people.hospital("lakeside", "Lakeside"))
    for user in (ada, elsewhere, people.person("aron", Role.AUDITOR)):
        assert client_of(user).post("/portal/grants", decision).status_code == 404
    assert client_of(olivia).post("/portal/grants", {"grant": "nonsense"}).status_code == 404
    assert client_of(olivia).post("/portal/grants", {"grant": str(olivia.pk)}).status_code == 404
    wish.refresh_from_db()
    assert wish.state == GrantState.REQUESTED


def call(user: User, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    return getattr(client_of(user), method)(f"/api/{path}", body, content_type="application/json")


def test_the_api_does_the_same(ada: User, olivia: User) -> None:
    made = call(ada, "post", "budget/grants", WISH | {"epsilon": 2.0})
    assert made.status_code == 201 and made.json()["state"] == "requested"
    assert call(ada, "post", "budget/grants", WISH).status_code == 409
    assert [row["epsilon"] for row in call(olivia, "get", "budget/grants").json()] == [2.0]
    pk = made.json()["id"]
    assert call(ada, "post", f"budget/grants/{pk}", {"approve": True}).status_code == 404
    assert call(olivia, "post", f"budget/grants/{pk}", {}).status_code == 400
    assert call(olivia, "post", f"budget/grants/{pk}", {"approve": True}).json()["state"] == "approved"
    left = {row["scope"]: row["left"] for row in call(ada, "get", "budget").json() if row["unit"] == "epsilon"}
    assert left["department"] == 4.0
    assert Client().get("/api/budget/grants").status_code == 401
