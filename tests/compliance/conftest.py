"""The network of ``tests.compliance.network`` as fixtures."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from accounts.models import User
from tests.compliance import network as networks
from tests.compliance.network import Network, SignIn


@pytest.fixture(autouse=True)
def quick_passwords(settings: Any) -> None:
    """Nobody signs in with a password here, and a slow hash for each of the seven people costs seconds a test."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def network(db: None, quick_passwords: None) -> Network:
    return networks.busy()


@pytest.fixture
def as_user() -> SignIn:
    """A client that is signed in."""

    def enter(user: User) -> Client:
        client = Client()
        client.force_login(user)
        return client

    return enter
