"""An entry of the log as one line for a SIEM: CEF, OCSF, OTLP/JSON or syslog. Ids and figures, no contents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings

from compliance.fhir import codes
from compliance.models import Event

PRODUCT = "fdrouter"
OCSF_VERSION = "1.6.0"
MAX_DETAILS_BYTES = 4096
"""Longer details are told by size and digest: a datagram holds no more than 64 KiB."""

_FACILITY = 13  # log audit
_STRUCTURED = "event@32473"  # RFC 5612: the enterprise number for what has none
# By the outcome's code: CEF 0-10, OCSF severity and status, OTLP severity number and text, syslog severity.
_CEF = {"0": 2, "4": 5, "8": 8, None: 3}
_OCSF = {"0": (1, 1), "4": (2, 2), "8": (4, 2), None: (1, 0)}
_OTLP = {"0": (9, "INFO"), "4": (13, "WARN"), "8": (17, "ERROR"), None: (10, "INFO2")}
_SYSLOG = {"0": 6, "4": 4, "8": 3, None: 5}
_ACTIVITIES = {"C": 1, "R": 2, "U": 3, "D": 4}


@dataclass(frozen=True, slots=True)
class Entry:
    """An event with its place in the log's tree: gapless from 0, so a receiver sees what it lacks or has twice."""

    index: int
    event: Event

    @property
    def code(self) -> str | None:
        return codes.outcome_code(self.event.outcome)

    @property
    def milliseconds(self) -> int:
        return _microseconds(self.event.at) // 1000

    def fields(self) -> dict[str, Any]:
        """What every format tells; what is not known is left out."""
        event = self.event
        told = {
            "index": self.index,
            "seq": event.seq,
            "kind": event.kind,
            "outcome": event.outcome,
            "actor": event.actor_id,
            "subject": str(event.subject) if event.subject else None,
            "hospital": event.hospital,
            "department": event.department,
            "purpose": event.purpose,
            "details": _details(event.details) or None,
        }
        return {name: value for name, value in told.items() if value is not None}


def _microseconds(at: datetime) -> int:
    since = at.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds


def _details(details: Mapping[str, Any]) -> dict[str, Any]:
    text = _json(details)
    if len(text.encode()) <= MAX_DETAILS_BYTES:
        return dict(details)
    return {"details_bytes": len(text.encode()), "details_sha256": hashlib.sha256(text.encode()).hexdigest()}


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def _host() -> str:
    return urlsplit(settings.BASE_URL).hostname or "localhost"


def _version() -> str:
    return str(settings.SPECTACULAR_SETTINGS["VERSION"])


# --- CEF (ArcSight Common Event Format, version 0) ------------------------------------------------------------------
def cef(entry: Entry) -> str:
    """``CEF:0|vendor|product|version|class|name|severity|extension``."""
    event, told = entry.event, entry.fields()
    header = [PRODUCT, PRODUCT, _version(), event.kind, event.kind, str(_CEF[entry.code])]
    extension: dict[str, Any] = {
        "rt": entry.milliseconds,
        "externalId": entry.index,
        "outcome": event.outcome,
        "dvchost": _host(),
        "suid": told.get("actor"),
        "cn1Label": "seq",
        "cn1": event.seq,
    }
    for n, name in enumerate(("subject", "hospital", "department", "purpose", "details"), start=1):
        if name in told:
            value = told[name] if isinstance(told[name], str) else _json(told[name])
            extension |= {f"cs{n}Label": name, f"cs{n}": value}
    pairs = (f"{name}={_extension(value)}" for name, value in extension.items() if value is not None)
    return f"CEF:0|{'|'.join(map(_header, header))}|{' '.join(pairs)}"


def _header(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\r", " ").replace("\n", " ")


def _extension(value: Any) -> str:
    return str(value).replace("\\", "\\\\").replace("=", "\\=").replace("\r", "\\r").replace("\n", "\\n")


# --- OCSF ---------------------------------------------------------------------------------------------------------
def ocsf(entry: Entry) -> str:
    """Authentication (3002) for sessions, API Activity (6003) for everything else."""
    event, told = entry.event, entry.fields()
    severity, status = _OCSF[entry.code]
    session = event.kind in ("session.sign_in", "session.sign_out")
    category, kind = (3, 3002) if session else (6, 6003)
    activity = (1 if event.kind == "session.sign_in" else 2) if session else _activity(event.kind)
    user = {"uid": str(event.actor_id)} if event.actor_id is not None else {"name": "unknown", "type_id": 0}
    found: dict[str, Any] = {
        "category_uid": category,
        "class_uid": kind,
        "activity_id": activity,
        "type_uid": kind * 100 + activity,
        "severity_id": severity,
        "status_id": status,
        "status_detail": event.outcome,
        "time": entry.milliseconds,
        "message": event.kind,
        "metadata": {
            "version": OCSF_VERSION,
            "product": {"name": PRODUCT, "vendor_name": PRODUCT, "version": _version()},
            "uid": str(entry.index),
            "event_code": event.kind,
            "sequence": entry.index,
        },
        "unmapped": {
            name: told[name] for name in ("seq", "hospital", "department", "purpose", "details") if name in told
        },
    }
    if session:
        found |= {"user": user, "service": {"name": PRODUCT}}
    else:
        # A system's own doing has no user: OCSF asks for one of several names of the actor.
        actor = {"user": user} if event.actor_id is not None else {"app_name": PRODUCT}
        found |= {"actor": actor, "api": {"operation": event.kind}, "src_endpoint": {"name": _host()}}
        if event.subject:
            found["resources"] = [{"uid": str(event.subject)}]
    return _json(found)


def _activity(kind: str) -> int:
    """1 to 4 for create, read, update, delete; 99 is "other"."""
    return _ACTIVITIES.get(codes.shape_of(kind).action, 99)


# --- OpenTelemetry ------------------------------------------------------------------------------------------------
def otlp(entry: Entry) -> str:
    """One ``LogsData`` of OTLP/JSON with one record, as the collector's file receiver reads it."""
    number, word = _OTLP[entry.code]
    told = entry.fields()
    record = {
        "timeUnixNano": str(_microseconds(entry.event.at) * 1000),
        "severityNumber": number,
        "severityText": word,
        "body": {"stringValue": entry.event.kind},
        "attributes": [_attribute(f"{PRODUCT}.{name}", value) for name, value in told.items()],
    }
    resource = [_attribute("service.name", PRODUCT), _attribute("host.name", _host())]
    scope = {"name": "compliance.log", "version": _version()}
    logs = {"resource": {"attributes": resource}, "scopeLogs": [{"scope": scope, "logRecords": [record]}]}
    return _json({"resourceLogs": [logs]})


def _attribute(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, int):
        return {"key": name, "value": {"intValue": str(value)}}
    return {"key": name, "value": {"stringValue": value if isinstance(value, str) else _json(value)}}


# --- syslog -------------------------------------------------------------------------------------------------------
def syslog(entry: Entry) -> str:
    """RFC 5424, facility 13 (audit); the fields are structured data."""
    priority = _FACILITY * 8 + _SYSLOG[entry.code]
    at = entry.event.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    told = {name: value if isinstance(value, str) else _json(value) for name, value in entry.fields().items()}
    data = " ".join(f'{name}="{_parameter(value)}"' for name, value in told.items())
    kind = entry.event.kind[:32]
    return f"<{priority}>1 {at} {_host()} {PRODUCT} - {kind} [{_STRUCTURED} {data}] {kind} {entry.event.outcome}"


def _parameter(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
    return escaped.replace("\r", " ").replace("\n", " ")


FORMATS: Mapping[str, Callable[[Entry], str]] = {"cef": cef, "ocsf": ocsf, "otlp-json": otlp, "syslog": syslog}
