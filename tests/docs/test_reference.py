"""The reference pages say what the code does: settings, queues, the API and the WebSocket."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from federation import consumers, selectors
from federation.api import openai
from federation.api.urls import urlpatterns
from federation.models import Kind

ROOT = Path(__file__).resolve().parents[2]
READERS = {"text", "boolean", "integer", "number", "words", "path", "secret", "key", "postgres"}


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def table_rows(text: str, columns: int) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [row for row in rows if len(row) == columns and not set("".join(row)) <= {"-", " "}]


# --- settings -----------------------------------------------------------------------------------------------------
def variables() -> dict[str, list[ast.expr]]:
    """Every variable that the settings read, with the reader's further arguments."""
    tree = ast.parse((ROOT / "fdrouter" / "settings.py").read_text(encoding="utf-8"))
    found: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in READERS:
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "env":
                first = node.args[0]
                assert isinstance(first, ast.Constant)
                found.setdefault(str(first.value), node.args[1:])
    return found


def documented() -> dict[str, str]:
    """Variable and default of each row."""
    rows = table_rows(page("settings.md"), 4)
    return {row[0].strip("`"): row[2].strip("`") for row in rows if row[0].startswith("`")}


def test_every_setting_is_documented_and_no_other() -> None:
    assert set(documented()) == set(variables())
    assert len(variables()) > 20


@pytest.mark.parametrize("name", sorted(variables()))
def test_the_documented_default_is_the_real_one(name: str) -> None:
    arguments, said = variables()[name], documented()[name]
    if not arguments:
        assert said in ("required", "none")
        return
    try:
        value = eval(compile(ast.Expression(arguments[0]), "settings", "eval"), {"__builtins__": {}})  # noqa: S307
    except NameError:  # built from another setting: the page says it in words, or names the path within the project
        source = ast.unparse(arguments[0])
        parts = re.findall(r"'([^']+)'", source)
        assert said in ("the node's id", "/".join(parts)) or "ROLE" in source
        return
    assert said == (str(value) if value != "" else "empty")


# --- queues -------------------------------------------------------------------------------------------------------
def test_every_task_and_its_queue_is_documented() -> None:
    from fdrouter.celery import app

    app.loader.import_default_modules()
    ours = {name for name in app.tasks if not name.startswith("celery.")}
    text = page("queues.md")
    queues = {row[0].strip("`"): row[2] for row in table_rows(text, 3) if row[0].startswith("`")}
    for name in ours:
        route: dict[str, Any] = app.amqp.router.route({}, name)
        queue = route["queue"].name
        assert f"`{name}`" in queues[queue], name
    assert {name for cell in queues.values() for name in re.findall(r"`([a-z.]+\.tasks\.[a-z_]+)`", cell)} == ours


def test_the_documented_beat_and_limits_are_the_real_ones() -> None:
    text = page("queues.md")
    for entry in settings.CELERY_BEAT_SCHEDULE.values():
        assert f"| `{entry['task']}` | beat, every {entry['schedule']:g} s |" in text
    assert f"{settings.CELERY_TASK_TIME_LIMIT} s" in text
    assert f"`visibility_timeout`, {settings.CELERY_BROKER_TRANSPORT_OPTIONS['visibility_timeout']} s" in text


# --- interfaces ---------------------------------------------------------------------------------------------------
def test_every_rest_address_is_documented() -> None:
    text = page("api.md")
    for pattern in urlpatterns:
        if pattern.name:
            route = re.sub(r"<uuid:\w+>", "{id}", str(pattern.pattern))
            assert f"`/api/{route}`" in text, route


def test_every_privacy_option_and_header_is_documented() -> None:
    text = page("api.md")
    for name in (*openai._PRIVACY_FIELDS, *openai._HEADERS):
        assert f"`{name}`" in text, name
    for kind in Kind.values:
        assert f"`{kind}`" in text


def test_every_error_is_documented_with_its_status() -> None:
    from fdrouter import api

    rows = {row[1].strip("`"): row[0] for row in table_rows(page("api.md"), 3) if re.fullmatch(r"\d{3}", row[0])}
    known = {error.code: str(status) for error, status in api.STATUS.items() if error.code != "conflict"}
    extra = {"internal_error": "500", "method_not_allowed": "405"}
    assert rows == known | extra


def test_limits_of_the_api_are_documented() -> None:
    assert f"{openai.MAX_BODY_BYTES // 1024} KiB" in page("api.md")
    assert str(selectors.SEARCHED_ROWS) in page("adr/0009-history-search-decrypts-the-latest-rows.md")


def test_the_websocket_page_names_every_message() -> None:
    text = page("websocket.md")
    source = (ROOT / "federation" / "consumers.py").read_text(encoding="utf-8")
    sent = set(re.findall(r'"type": "([a-z]+)"', source)) | set(re.findall(r'kind == "([a-z]+)"', source))
    assert sent == {"accepted", "progress", "delta", "done", "error", "ask", "cancel", "resume"}
    assert not [name for name in sent if f'"type": "{name}"' not in text]
    assert str(consumers.SIGNED_OUT) in text


# --- decisions ----------------------------------------------------------------------------------------------------
def test_decisions_are_numbered_and_have_their_parts() -> None:
    files = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [file.name[:4] for file in files] == [f"{number:04d}" for number in range(1, len(files) + 1)]
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert text.startswith(f"# {file.name[:4]} "), file.name
        assert [line for line in text.splitlines() if line.startswith("## ")] == [
            "## Context",
            "## Decision",
            "## Consequences",
        ], file.name


def test_links_between_pages_lead_somewhere() -> None:
    for file in (ROOT / "docs").rglob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", file.read_text(encoding="utf-8")):
            assert (file.parent / target).exists(), f"{file.name}: {target}"
