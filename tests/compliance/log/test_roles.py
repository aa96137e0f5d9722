"""The application's role appends through the functions, works as before, and changes nothing of the log."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from io import StringIO
from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.db import connection, transaction

from compliance import log
from compliance.models import Checkpoint, Event, Leaf
from federation.identity import Identity
from tests.accounts import people
from tests.compliance.log.test_guards import UPDATES
from tests.compliance.log.writing import event, write
from tests.federation import desk

ROLE = "log test app"
FORBIDDEN = (
    *(f"UPDATE {table} SET {change}" for table, change in UPDATES.items()),
    *(f"DELETE FROM {table}" for table in UPDATES),
    *(f"TRUNCATE {table} CASCADE" for table in UPDATES),
    *(f"ALTER TABLE {table} DISABLE TRIGGER ALL" for table in UPDATES),
    *(f"DROP TABLE {table} CASCADE" for table in UPDATES),
    "INSERT INTO compliance_event (at, kind, outcome, details) VALUES (now(), 'x', 'ok', '{}')",
    "INSERT INTO compliance_pending VALUES (1)",
    "INSERT INTO compliance_leaf VALUES (0, 1, 'x')",
    "INSERT INTO compliance_tile VALUES (0, 9, sha256('x'))",
    "INSERT INTO compliance_checkpoint VALUES (9, sha256('x'), '', now())",
    "SELECT setval('compliance_event_seq_seq', 1)",
    "DROP TRIGGER compliance_event_append_only ON compliance_event",
    "DROP TRIGGER privacy_entry_in_log ON privacy_entry",
    "CREATE OR REPLACE FUNCTION log_await() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "CREATE FUNCTION public.now() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "SET session_replication_role = replica",
)


@pytest.fixture
def app(transactional_db: None) -> Iterator[psycopg.Connection[Any]]:
    """A connection that signed in as the role."""
    with connection.cursor() as cursor:
        cursor.execute(f'CREATE ROLE "{ROLE}" LOGIN')
    try:
        call_command("log", "grants", ROLE, stdout=StringIO())
        with psycopg.connect(settings.DATABASE_URL, user=ROLE, autocommit=True) as connected:
            assert connected.execute("SELECT current_user").fetchone() == (ROLE,)
            yield connected
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f'DROP OWNED BY "{ROLE}"; DROP ROLE "{ROLE}"')


def test_it_can_append_and_read_and_nothing_else(app: psycopg.Connection[Any]) -> None:
    write(3)
    log.sequence()
    append = """SELECT log_append('[{"kind": "x", "outcome": "ok", "details": {}}]'::jsonb)"""
    assert app.execute(append).fetchone() is not None
    count = "SELECT count(*) FROM compliance_event"
    assert app.execute(count).fetchone() == (4,)
    allowed = []
    for statement in FORBIDDEN:
        try:
            app.execute(statement)
            allowed.append(statement)
        except psycopg.errors.InsufficientPrivilege:
            pass
    assert not allowed
    assert app.execute(count).fetchone() == (4,) and Leaf.objects.count() == 3


def test_the_application_works_as_this_role(app: psycopg.Connection[Any], own: Identity) -> None:
    """Requests, the ledger, sequencing, checkpoints and erasure, all as the role."""
    ada = people.person("ada")
    item = desk.prepared(ada, desk.cohort())
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f'SET LOCAL ROLE "{ROLE}"')
        desk.admit(item)
        attempt = desk.claim(item.id)[item.id]
        desk.finish(desk.End(item.id, attempt))
        log.append([event(private={"patient": "p"})])
        log.sequence()
        log.checkpoint(force=True)
        assert log.erase([Event.objects.exclude(sealed=None).get().pk], reason="Art. 17")
        cursor.execute("SELECT current_user")
        assert cursor.fetchone() == (ROLE,)
    kinds = set(Event.objects.values_list("kind", flat=True))
    assert {"request.submit", "request.finish", "ledger.entries", "log.erase"} <= kinds
    assert Checkpoint.objects.get().size == Leaf.objects.count() == Event.objects.count() - 1


def test_functions_of_the_owner_are_for_this_role_alone(app: psycopg.Connection[Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_proc WHERE prosecdef AND has_function_privilege('public', oid, 'EXECUTE')"
        )
        assert cursor.fetchone() == (0,)
        cursor.execute(
            "SELECT proname FROM pg_proc WHERE prosecdef"
            " AND coalesce(proconfig, '{}')::text NOT LIKE '%search_path=public, pg_temp%'"
        )
        assert cursor.fetchall() == [], "each with a fixed search path"


@pytest.mark.django_db
def test_a_role_that_no_grant_binds_is_refused() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user")
        owner = cursor.fetchone()[0]
    for role in (owner, f"no such role {uuid.uuid4()}"):
        with pytest.raises(CommandError, match="role"):
            call_command("log", "grants", role, stdout=StringIO())
    with pytest.raises(CommandError, match="name the role"):
        call_command("log", "grants", stdout=StringIO())
