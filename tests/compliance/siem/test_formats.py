"""One entry as a line of each format: escaped, complete, and without contents."""

from __future__ import annotations

import json
import re
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from compliance.models import Event
from compliance.siem import FORMATS, MAX_DETAILS_BYTES, Entry

AT = datetime(2026, 11, 27, 10, 30, 15, 250_001, tzinfo=UTC)
SUBJECT = uuid.UUID("00000000-0000-0000-0000-000000000007")
NASTY = 'a|b=c\\d\n"e"]'


def entry(kind: str = "policy.decision", outcome: str = "denied", **more: Any) -> Entry:
    values: dict[str, Any] = {"actor_id": 7, "subject": SUBJECT, "hospital": "northfield", "purpose": "TREAT"}
    values |= {"details": {"policies": [NASTY]}, "sealed": b"contents"}
    return Entry(41, Event(seq=40, at=AT, kind=kind, outcome=outcome, **values | more))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["policy.decision", "session.sign_in", "something.new"])
def test_every_format_is_one_line_with_place_actor_and_subject(form: str, kind: str) -> None:
    line = FORMATS[form](entry(kind))
    assert "\n" not in line and "\r" not in line
    for told in ("41", "7", str(SUBJECT) if kind != "session.sign_in" or form != "ocsf" else "7", "northfield"):
        assert told in line
    assert "contents" not in line
    assert FORMATS[form](entry(kind, actor_id=None, subject=None, hospital=None, purpose=None, details={}))


def test_cef_escapes_header_and_extension() -> None:
    line = FORMATS["cef"](entry(kind="odd|kind", details={"a=b": "x\ny"}))
    header = re.split(r"(?<!\\)\|", line)
    assert header[:3] == ["CEF:0", "fdrouter", "fdrouter"]
    assert header[4:7] == ["odd\\|kind", "odd\\|kind", "8"]
    assert "rt=1795775415250" in header[7]
    assert '{"a\\=b":"x\\\\ny"}' in header[7]


def test_ocsf_has_what_its_classes_require() -> None:
    for kind, expected in (("session.sign_in", 3002), ("session.sign_out", 3002), ("fhir.search", 6003)):
        found = json.loads(FORMATS["ocsf"](entry(kind, "ok")))
        required = {"activity_id", "category_uid", "class_uid", "metadata", "severity_id", "time", "type_uid"}
        assert required <= set(found)
        assert found["class_uid"] == expected
        assert found["category_uid"] == expected // 1000
        assert found["type_uid"] == expected * 100 + found["activity_id"]
        assert found["metadata"]["version"] and found["metadata"]["product"]["name"]
        assert found["time"] == 1795775415250
        assert {"user"} <= set(found) if expected == 3002 else {"actor", "api", "src_endpoint"} <= set(found)
    assert json.loads(FORMATS["ocsf"](entry(actor_id=None)))["actor"] == {"app_name": "fdrouter"}
    assert json.loads(FORMATS["ocsf"](entry()))["severity_id"] == 4


def test_otlp_is_logs_data_with_one_record() -> None:
    found = json.loads(FORMATS["otlp-json"](entry()))
    (resource,) = found["resourceLogs"]
    ((record,),) = [scope["logRecords"] for scope in resource["scopeLogs"]]
    assert record["timeUnixNano"] == "1795775415250001000"
    assert (record["severityNumber"], record["body"]) == (17, {"stringValue": "policy.decision"})
    attributes = {item["key"]: item["value"] for item in record["attributes"]}
    assert attributes["fdrouter.index"] == {"intValue": "41"}
    assert json.loads(attributes["fdrouter.details"]["stringValue"]) == {"policies": [NASTY]}


def test_syslog_is_rfc_5424_with_escaped_structured_data() -> None:
    line = FORMATS["syslog"](entry())
    head = r"<107>1 2026-11-27T10:30:15\.250001Z \S+ fdrouter - policy\.decision \[event@32473 (.*)\] policy"
    found = re.match(head, line)
    assert found is not None
    parameters = re.findall(r'(\w+)="((?:[^"\\\]]|\\.)*)"', found[1])
    told = {name: re.sub(r"\\(.)", r"\1", value) for name, value in parameters}
    assert told["index"] == "41"
    assert json.loads(told["details"]) == {"policies": [NASTY]}


def test_long_details_are_told_by_size_and_digest() -> None:
    line = FORMATS["ocsf"](entry(details={"events": list(range(MAX_DETAILS_BYTES))}))
    told = json.loads(line)["unmapped"]["details"]
    assert set(told) == {"details_bytes", "details_sha256"}
    assert len(line) < 2000
