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

# Empties the tables that hold rows: nearly all are empty after a test, and a TRUNCATE of every one takes a hundred
# times as long. Writers that are still busy are waited for. Triggers that refuse a DELETE are put aside and put back
# as they were.
FLUSH = """
DO $$ DECLARE guard record; name text; filled boolean; dirty text[] := '{}'; BEGIN
  LOCK TABLE %(tables)s IN EXCLUSIVE MODE;
  FOREACH name IN ARRAY ARRAY[%(names)s] LOOP
    EXECUTE format('SELECT EXISTS (SELECT FROM %%s)', name) INTO filled;
    IF filled THEN dirty := dirty || name; END IF;
  END LOOP;
  CREATE TEMPORARY TABLE flush_guards ON COMMIT DROP AS
    SELECT tgrelid::regclass::text AS relation, tgname::text AS name, tgenabled AS enabled FROM pg_trigger
    WHERE NOT tgisinternal AND tgtype & 8 <> 0 AND tgenabled <> 'D' AND tgrelid = ANY(dirty::regclass[]);
  FOR guard IN SELECT * FROM flush_guards LOOP
    EXECUTE format('ALTER TABLE %%s DISABLE TRIGGER %%I', guard.relation, guard.name);
  END LOOP;
  FOREACH name IN ARRAY dirty LOOP EXECUTE format('DELETE FROM %%s', name); END LOOP;
  SET CONSTRAINTS ALL IMMEDIATE;
  FOR guard IN SELECT * FROM flush_guards LOOP
    EXECUTE format('ALTER TABLE %%s ENABLE %%s TRIGGER %%I', guard.relation,
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
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.stack)


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
    """Makes the flush between transactional tests cheap, and lets it pass the triggers that keep evidence append-only.

    Only the flush: it runs in a transaction of its own, so every statement of a test still meets the triggers.
    """
    from django.db import connection

    def sql_flush(style: Any, tables: list[str], *, reset_sequences: bool = False, **kwargs: Any) -> list[str]:
        assert not reset_sequences, "rows are deleted here, and no sequence is reset"
        if not tables:
            return []
        quoted = [connection.ops.quote_name(table) for table in tables]
        return [FLUSH % {"tables": ", ".join(quoted), "names": ", ".join(f"'{table}'" for table in quoted)}]

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
