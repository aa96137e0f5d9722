"""What every test shares: real embedded servers, no network beyond this machine, and marks by folder."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests import embedded

if TYPE_CHECKING:
    from tests.flows.harness import Network

TESTS = Path(__file__).parent

# Triggers that refuse TRUNCATE, put aside and put back as they were.
DISARM = """
DO $$ DECLARE guard record; BEGIN
  CREATE TEMPORARY TABLE flush_guards ON COMMIT DROP AS
    SELECT tgrelid::regclass::text AS relation, tgname::text AS name, tgenabled AS enabled FROM pg_trigger
    WHERE NOT tgisinternal AND tgtype & 32 <> 0 AND tgenabled <> 'D';
  FOR guard IN SELECT * FROM flush_guards LOOP
    EXECUTE format('ALTER TABLE %s DISABLE TRIGGER %I', guard.relation, guard.name);
  END LOOP;
END $$"""
REARM = """
DO $$ DECLARE guard record; BEGIN
  FOR guard IN SELECT * FROM flush_guards LOOP
    EXECUTE format('ALTER TABLE %s ENABLE %s TRIGGER %I', guard.relation,
                   CASE guard.enabled WHEN 'A' THEN 'ALWAYS' WHEN 'R' THEN 'REPLICA' ELSE '' END, guard.name);
  END LOOP;
END $$"""


def pytest_configure(config: pytest.Config) -> None:
    if not config.option.collectonly:
        embedded.start()


def pytest_unconfigure(config: pytest.Config) -> None:
    embedded.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if (TESTS / "flows") in item.path.parents:
            item.add_marker(pytest.mark.flow)


@pytest.fixture(autouse=True, scope="session")
def loopback_only() -> Iterator[None]:
    """Fails a test that would leave this machine."""
    genuine = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(str(address[0])):
            raise AssertionError(f"a test tried to reach {address[0]}")
        genuine(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        yield


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings: None) -> Iterator[None]:
    """Lets the flush between transactional tests pass the triggers that keep evidence append-only.

    Only the flush: it runs in a transaction of its own, so every statement of a test still meets the triggers.
    """
    from django.db import connection

    genuine = connection.ops.sql_flush

    def sql_flush(*args: Any, **kwargs: Any) -> list[str]:
        statements = genuine(*args, **kwargs)
        return [DISARM, *statements, REARM] if statements else statements

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection.ops, "sql_flush", sql_flush)
        yield


@pytest.fixture(scope="session")
def network() -> Iterator[Network]:
    """Two hospitals, report worker included, started once a run for flow and engine tests.

    A test that takes a part down puts it back (``Network.without``).
    """
    from tests.flows import harness

    folder = embedded.ROOT / str(os.getpid()) / "network"
    overrides = {"FDROUTER_LEASE_SECONDS": "4"}
    with harness.network(folder, nodes=2, reports=True, overrides=overrides) as running:
        yield running


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("localhost", "")
