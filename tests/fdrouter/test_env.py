"""Every reader of the environment: good values, and a sentence that names the variable for bad ones."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured

from fdrouter import env

KEY = base64.b64encode(bytes(32)).decode()


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("X", raising=False)
    monkeypatch.delenv("X_FILE", raising=False)


@pytest.mark.parametrize(
    ("read", "value", "expected"),
    [
        (lambda: env.text("X"), "a", "a"),
        (lambda: env.text("X", choices=("a", "b")), "b", "b"),
        (lambda: env.boolean("X", False), "True", True),
        (lambda: env.boolean("X", True), "False", False),
        (lambda: env.integer("X", 1), "0", 0),
        (lambda: env.number("X", 1.0), "0.5", 0.5),
        (lambda: env.words("X"), " a, ,b,", ["a", "b"]),
        (lambda: env.path("X"), "/srv", Path("/srv")),
        (lambda: env.secret("X"), "s", "s"),
        (lambda: env.key("X"), KEY, bytes(32)),
    ],
)
def test_values(read: Callable[[], Any], value: str, expected: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X", value)
    assert read() == expected


def test_defaults() -> None:
    assert env.text("X", "d") == "d"
    assert env.boolean("X", True) is True
    assert env.integer("X", 7) == 7
    assert env.number("X", 0.5) == 0.5
    assert env.words("X", "a,b") == ["a", "b"]
    assert env.path("X") is None
    assert env.path("X", Path("d")) == Path("d")


@pytest.mark.parametrize(
    ("read", "value"),
    [
        (lambda: env.text("X"), None),
        (lambda: env.text("X", choices=("a", "b")), "c"),
        (lambda: env.text("X", choices=("a", "b")), ""),
        (lambda: env.boolean("X", False), "true"),
        (lambda: env.boolean("X", False), "1"),
        (lambda: env.boolean("X", False), ""),
        (lambda: env.integer("X", 1), "1.5"),
        (lambda: env.integer("X", 1), ""),
        (lambda: env.integer("X", 1), "-1"),
        (lambda: env.integer("X", 100, minimum=60), "59"),
        (lambda: env.number("X", 1.0), "nan"),
        (lambda: env.number("X", 1.0), "inf"),
        (lambda: env.number("X", 1.0), "-0.1"),
        (lambda: env.number("X", 1.0), "many"),
        (lambda: env.secret("X"), None),
        (lambda: env.secret("X"), ""),
        (lambda: env.key("X"), "not base64!"),
        (lambda: env.key("X"), "schlüssel"),
        (lambda: env.key("X"), base64.b64encode(bytes(16)).decode()),
        (lambda: env.postgres("X"), "mysql://localhost/fdrouter"),
        (lambda: env.postgres("X"), "postgresql://localhost:many/fdrouter"),
    ],
)
def test_a_bad_value_stops_the_start_and_names_the_variable(
    read: Callable[[], Any], value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if value is not None:
        monkeypatch.setenv("X", value)
    with pytest.raises(ImproperlyConfigured, match="^X ") as refused:
        read()
    assert not value or len(value) < 5 or value not in str(refused.value), "a secret's value is never repeated"


def test_a_secret_file_wins_over_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "secret"
    file.write_text("from the file\n")
    monkeypatch.setenv("X", "from the variable")
    monkeypatch.setenv("X_FILE", str(file))
    assert env.secret("X") == "from the file"


@pytest.mark.parametrize("contents", [None, b"", b" \n", b"\xff\xfe\xff"], ids=["missing", "empty", "blank", "binary"])
def test_a_secret_file_must_hold_a_secret(
    contents: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never falls back to the variable: the wrong secret is worse than no start."""
    file = tmp_path / "secret"
    if contents is not None:
        file.write_bytes(contents)
    monkeypatch.setenv("X", "from the variable")
    monkeypatch.setenv("X_FILE", str(file))
    with pytest.raises(ImproperlyConfigured, match="^X_FILE "):
        env.secret("X")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "postgresql://u%40x:p%3Aw@db.example:5433/fdr?sslmode=require",
            ("fdr", "u@x", "p:w", "db.example", "5433", {"sslmode": "require"}),
        ),
        ("postgresql://postgres:@/fdr?host=/run/pg", ("fdr", "postgres", "", "/run/pg", "", {})),
        ("postgres:///?host=/run/pg&port=6000", ("postgres", "", "", "/run/pg", "6000", {})),
    ],
)
def test_database_urls(url: str, expected: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X", url)
    found = env.postgres("X")
    assert tuple(found[name] for name in ("NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS")) == expected
