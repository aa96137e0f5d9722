"""No way for contents into a log line, whoever writes it."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from fdrouter.logs import JsonFormatter, WithoutTicks

PROMPT = "Maria Gonzalez, born 1961, is on warfarin"


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What every logger writes through our formatter."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.setLevel(level)
    root.removeHandler(handler)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def fail() -> None:
    prompt = PROMPT
    raise ValueError(f"cannot read {prompt}")


def test_a_line_is_one_json_object_with_its_fields(written: io.StringIO) -> None:
    logging.getLogger("federation.dispatch").warning("claim failed", extra={"count": 3, "node": "northfield"})
    (line,) = lines(written)
    assert line | {"at": ""} == {
        "at": "",
        "level": "WARNING",
        "logger": "federation.dispatch",
        "message": "claim failed",
        "count": 3,
        "node": "northfield",
    }


def test_an_exception_is_named_and_placed_but_not_quoted(written: io.StringIO) -> None:
    try:
        fail()
    except ValueError:
        logging.getLogger("federation.dispatch").exception("request failed", extra={"request_id": "42"})
    (line,) = lines(written)
    assert line["exception"] == "ValueError"
    assert line["where"][-1].endswith(":fail")
    assert line["request_id"] == "42"
    assert "Maria" not in written.getvalue()


def test_chained_exceptions_are_not_quoted_either(written: io.StringIO) -> None:
    try:
        try:
            fail()
        except ValueError as error:
            raise RuntimeError(PROMPT) from error
    except RuntimeError:
        logging.getLogger("federation").exception("request failed")
    assert "Maria" not in written.getvalue()


@pytest.mark.parametrize("name", ["prompt", "answer", "messages", "patient", "text", "exc", "detail", "sql", "stack"])
def test_fields_that_nobody_allowed_are_dropped(name: str, written: io.StringIO) -> None:
    logging.getLogger("federation").info("hello", extra={name: PROMPT})
    assert "Maria" not in written.getvalue()
    assert name not in lines(written)[0]


def test_stack_dumps_are_dropped(written: io.StringIO) -> None:
    logging.getLogger("federation").info("hello", stack_info=True)
    assert "test_stack_dumps" not in written.getvalue()


def test_a_library_that_puts_the_exception_into_its_message_is_cut_short(written: io.StringIO) -> None:
    """As Celery does: the text of the exception is an argument of the message."""
    try:
        fail()
    except ValueError as error:
        logging.getLogger("celery.app.trace").error(
            "Task %(name)s[%(id)s] raised unexpected: %(exc)s",
            {"name": "federation.tasks.dispatch", "id": "1", "exc": repr(error)},
            exc_info=True,
        )
    assert "Maria" not in written.getvalue()
    assert lines(written)[0]["exception"] == "ValueError"


async def test_asyncio_tells_of_a_lost_task_without_its_exception_text(written: io.StringIO) -> None:
    async def work() -> None:
        fail()

    task = asyncio.get_running_loop().create_task(work())
    await asyncio.sleep(0.01)
    del task
    gc.collect()
    await asyncio.sleep(0)
    assert "Maria" not in written.getvalue()
    assert [line["message"] for line in lines(written) if line["logger"] == "asyncio" and line["level"] == "ERROR"] == [
        "Task exception was never retrieved"
    ]


async def test_asyncio_tells_of_a_failed_callback_without_its_arguments(written: io.StringIO) -> None:
    asyncio.get_running_loop().call_soon(_callback, "Maria on warfarin")
    await asyncio.sleep(0.01)
    assert "Maria" not in written.getvalue()
    assert any(line.get("exception") == "ZeroDivisionError" for line in lines(written))


def _callback(_: str) -> None:
    raise ZeroDivisionError


def test_a_library_without_an_exception_may_say_what_it_likes(written: io.StringIO) -> None:
    logging.getLogger("uvicorn.error").info("Uvicorn running on %s", "http://127.0.0.1:8080")
    assert lines(written)[0]["message"] == "Uvicorn running on http://127.0.0.1:8080"


def test_arguments_that_do_not_fit_are_not_printed_by_logging_itself() -> None:
    record = logging.LogRecord("federation", logging.INFO, "f.py", 1, "took %d ms", (PROMPT,), None)
    assert json.loads(JsonFormatter().format(record))["message"] == "took %d ms"


def test_a_line_stays_one_line(written: io.StringIO) -> None:
    logging.getLogger("federation").info("hello", extra={"reason": 'a\nb"}\u2028{"level": "forged"}'})
    assert len(written.getvalue().split("\n")) == 2


def test_what_runs_every_second_is_told_only_when_it_fails() -> None:
    def line(level: int, name: str) -> logging.LogRecord:
        arguments = ({"name": name, "id": "1"},)
        return logging.LogRecord("celery.app.trace", level, "", 0, "Task %(name)s[%(id)s] succeeded", arguments, None)

    kept = WithoutTicks().filter
    assert not kept(line(logging.INFO, "compliance.tasks.tend_log"))
    assert kept(line(logging.ERROR, "compliance.tasks.tend_log"))
    assert kept(line(logging.INFO, "compliance.tasks.render_report"))
    assert kept(logging.LogRecord("x", logging.INFO, "", 0, "plain %s", ("word",), None))
