"""The import rules: the contracts of pyproject.toml, and allow-lists that they cannot say."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

PACKAGES = ("fdrouter", "accounts", "privacy", "federation", "compliance")
APPS = PACKAGES[1:]
# What an app may use of the project package: errors, the evidence port, primitives and readers; and from modules that
# are interfaces (views, API classes, consumers) the helpers that render problems and pages.
SHARED = {"fdrouter.errors", "fdrouter.evidence", "fdrouter.crypto", "fdrouter.env", "fdrouter.postgresql.liveness"}
SHARED_BY_INTERFACES = SHARED | {"fdrouter.api", "fdrouter.context"}
INTERFACES = {"views", "pages", "api", "consumers", "urls", "middleware", "context"}
PURE = ("privacy.dp", "federation.planning", "federation.secagg")
PURE_STANDARD = {"django", "rest_framework", "celery", "channels", "redis", "psycopg", "aiohttp", "httpx", "torch"}
ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)


def modules_of(package: str) -> list[str]:
    return sorted(m for m in graph().modules if m == package or m.startswith(f"{package}."))


def is_interface(module: str) -> bool:
    return bool(INTERFACES.intersection(module.split(".")[1:]))


def test_contracts_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("app", APPS)
def test_apps_use_only_the_shared_part_of_the_project_package(app: str) -> None:
    broken = [
        f"{module} imports {imported}"
        for module in modules_of(app)
        for imported in graph().find_modules_directly_imported_by(module)
        if imported.partition(".")[0] == "fdrouter"
        and imported not in (SHARED_BY_INTERFACES if is_interface(module) else SHARED)
    ]
    assert not broken


@pytest.mark.parametrize("package", PURE)
def test_pure_packages_know_only_themselves(package: str) -> None:
    broken = [
        f"{module} imports {imported}"
        for module in modules_of(package)
        for imported in graph().find_modules_directly_imported_by(module)
        if (imported.partition(".")[0] in PACKAGES or imported.partition(".")[0] in PURE_STANDARD)
        and not imported.startswith(package)
        and imported != "fdrouter.errors"
    ]
    assert not broken


def test_the_shared_part_depends_on_no_app() -> None:
    for shared in SHARED:
        imported = graph().find_modules_directly_imported_by(shared)
        assert not [name for name in imported if name.partition(".")[0] in APPS], shared


def test_the_graph_sees_the_code() -> None:
    """An empty graph would make every rule above hold."""
    assert "fdrouter.errors" in graph().find_modules_directly_imported_by("privacy.dp.accounting")
    assert len(modules_of("federation")) > 20
