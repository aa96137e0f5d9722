"""Structured log lines. A line carries ids, sizes and digests; contents have no way in.

Exception *texts* can hold contents (a database error quotes the row), so only the exception's type and where it was
raised are written.
"""

from __future__ import annotations

import json
import logging
import re
import traceback
from typing import Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# Packages whose messages are written with ids alone. Other libraries put the text of an exception into a message.
_OURS = frozenset({"fdrouter", "accounts", "privacy", "federation", "compliance"})
_FILLED_IN = re.compile(r"""[:<({\["'\n]""")
# Fields a caller may attach with ``extra=``; anything else is dropped rather than trusted.
ALLOWED = frozenset(
    "request_id node attempt kind state reason status count milliseconds bytes user_id hospital queue check part "
    "batch scope port pid report_id run_id code".split()
)


class WithoutTicks(logging.Filter):
    """Drops Celery's two lines a run about tasks that run every second; their warnings and errors stay."""

    TASKS = frozenset({"compliance.tasks.tend_log"})

    def filter(self, record: logging.LogRecord) -> bool:
        told = record.args if isinstance(record.args, dict) else {}
        return record.levelno > logging.INFO or told.get("name") not in self.TASKS


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        for name, value in vars(record).items():
            if name not in _STANDARD and name in ALLOWED:
                line[name] = value if isinstance(value, int | float | bool) else str(value)
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
            frames = traceback.extract_tb(record.exc_info[2])
            line["where"] = [f"{frame.filename}:{frame.lineno}:{frame.name}" for frame in frames[-6:]]
        return json.dumps(line, ensure_ascii=False)


def _message(record: logging.LogRecord) -> str:
    """The record's text; of another library's report of an exception, its first words, before anything filled in."""
    raised = record.exc_info is not None and record.exc_info[0] is not None
    if raised and record.name.partition(".")[0] not in _OURS:
        return _FILLED_IN.split(str(record.msg), maxsplit=1)[0].strip()
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):  # arguments that do not fit: ``logging`` would print them
        return str(record.msg)
