"""What the application's database role may do to the log: append. ``compliance/sql/roles.sql`` says it."""

from __future__ import annotations

from pathlib import Path

from django.db import connection, transaction

from fdrouter.errors import InvalidParameter

SQL = Path(__file__).resolve().parent.parent / "sql" / "roles.sql"
PLACEHOLDER = "fdrouter_app"


def grant(role: str) -> None:
    """Grants and revokes for a role that exists; run by the owner of the tables, again after each migration.

    Raises:
        InvalidParameter: no such role, or one that no grant binds: a superuser, or the owner itself.
    """
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT rolsuper OR pg_has_role(rolname, current_user, 'MEMBER') FROM pg_roles WHERE rolname = %s", [role]
        )
        found = cursor.fetchone()
        if found is None:
            raise InvalidParameter("There is no such database role.", field="role")
        if found[0]:
            raise InvalidParameter(
                "This role owns the tables or is a superuser: nothing is kept from it.", field="role"
            )
        cursor.execute(SQL.read_text(encoding="utf-8").replace(PLACEHOLDER, connection.ops.quote_name(role)))
