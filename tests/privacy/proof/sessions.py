"""Database sessions that are ended from outside in the middle of their work, and the history of what a budget held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.db import DatabaseError, connection

_JOURNAL = """
CREATE TABLE proof_journal (at timestamptz, scope_id bigint, before bigint, after bigint);
CREATE FUNCTION proof_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO proof_journal VALUES (now(), NEW.id, OLD.used, NEW.used); RETURN NEW; END $$;
CREATE TRIGGER proof_note AFTER UPDATE OF used ON privacy_scope FOR EACH ROW EXECUTE FUNCTION proof_note();
"""
_NO_JOURNAL = "DROP TRIGGER IF EXISTS proof_note ON privacy_scope; DROP FUNCTION IF EXISTS proof_note; "
_NO_JOURNAL += "DROP TABLE IF EXISTS proof_journal"


def terminate(backend: int) -> None:
    """Ends the session with this process id, from a connection of its own, and waits until it is gone."""
    other = connection.copy()
    try:
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s, 10000)", [backend])
    finally:
        other.close()


def own_backend() -> int:
    connection.ensure_connection()
    assert connection.connection is not None
    return int(connection.connection.info.backend_pid)


def ended_after(statements: int, action: Callable[[], Any]) -> bool:
    """Runs ``action`` and ends its session after so many statements; 0 is before the first one.

    Returns whether the session was ended: False once the action has fewer statements. The commit comes after the last.
    """
    seen, backend, ended = 0, own_backend(), False

    def count(execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        nonlocal seen, ended
        found = execute(sql, params, many, context) if statements else None
        seen += 1
        if seen == max(1, statements):
            terminate(backend)
            ended = True
        return found if statements else execute(sql, params, many, context)

    try:
        with connection.execute_wrapper(count):
            action()
    except DatabaseError:
        if not ended:
            raise
    finally:
        connection.close()
    return ended


@contextmanager
def journal() -> Iterator[None]:
    """Notes every change of ``used`` of every scope, in the transaction that makes it."""
    try:
        with connection.cursor() as cursor:
            cursor.execute(_JOURNAL)
        yield
    finally:
        with connection.cursor() as cursor:
            cursor.execute(_NO_JOURNAL)


def falls() -> list[tuple[datetime, int, int]]:
    """When, of which scope and by how much ``used`` fell since the journal began."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT at, scope_id, before - after FROM proof_journal WHERE after < before ORDER BY at")
        return [(at, int(scope), int(amount)) for at, scope, amount in cursor.fetchall()]
