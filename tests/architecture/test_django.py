"""Models and migrations agree, and the system checks find nothing, for every role."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import call_command

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.django_db
def test_no_migration_is_missing() -> None:
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


@pytest.mark.parametrize("role", ["coordinator", "node", "all"])
def test_system_checks(role: str, tmp_path: Path) -> None:
    environment = os.environ | {"FDROUTER_ROLE": role, "DJANGO_SETTINGS_MODULE": "fdrouter.settings"}
    (tmp_path / "keys.json").touch()  # an identity is there; nothing reads it here
    environment |= {"FDROUTER_NODE_ID": "northfield", "FDROUTER_IDENTITY_DIR": str(tmp_path)} if role == "node" else {}
    command = [sys.executable, "manage.py", "check", "--fail-level", "WARNING"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
