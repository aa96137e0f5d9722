"""A PostgreSQL of the run's own, with the project's tables, that commits durably; and Django on it."""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fdrouter.demo.processes import Fleet
from fdrouter.demo.services import Postgres


@contextmanager
def database(name: str) -> Iterator[Postgres]:
    """Starts the server, makes the database and sets Django up on it; takes everything away afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="fdrouter-log-"))
    postgres, fleet = Postgres(folder / "pg", folder / "postgres.log", {}), Fleet(folder / "processes.json")
    try:
        postgres.initialise()
        fleet.wait_healthy(fleet.start(postgres.part()).part.name)
        postgres.ensure_databases([name])
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "fdrouter.settings",
            "FDROUTER_ROLE": "all",
            "FDROUTER_SECRET_KEY": "bench",
            "FDROUTER_DATA_KEY": base64.b64encode(os.urandom(32)).decode(),
            "FDROUTER_IDENTITY_DIR": str(folder / "identity"),
            "FDROUTER_LOG_LEVEL": "ERROR",
            "DATABASE_URL": postgres.url(name),
            "REDIS_URL": "redis://127.0.0.1:1/0",
        }
        import django
        from django.core.management import call_command

        django.setup()
        call_command("migrate", verbosity=0)
        _identity(folder)
        yield postgres
    finally:
        fleet.stop_all()
        shutil.rmtree(folder, ignore_errors=True)


def _identity(folder: Path) -> None:
    from federation import identity

    identity.create_ca(folder / "ca")
    identity.issue(folder / "ca", folder / "identity", "coordinator", server=False)
