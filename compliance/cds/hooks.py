"""CDS Hooks 2.0 as a launcher: one card with a link to the Ask page, and what became of it, as evidence.

Nothing of a call but its hook is read: neither the patient's context nor anything prefetched is used, kept or logged.
EHRs sign each call with a JSON Web Token, whose keys are configured here; none is fetched. Without keys every call is
refused, unless the site says that it is a sandbox.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import jwt
from django.conf import settings
from django.core.cache import cache
from django.db import transaction

from compliance.models import Event
from fdrouter.errors import InvalidParameter, NotFound, Unauthenticated
from fdrouter.evidence import Event as Evidence
from fdrouter.evidence import record

VERSION = "2.0"
SERVICE = "fdrouter-ask"
HOOKS = ("patient-view", "order-select")
OUTCOMES = ("accepted", "overridden")
REASONS = {
    "not-needed": "Not needed now",
    "asked-already": "Asked already",
    "not-trusted": "I do not trust such answers",
    "no-time": "No time",
}
REASON_SYSTEM = "urn:fdrouter:cds-override-reason"
ALGORITHMS = ("ES256", "ES384", "RS256", "RS384", "EdDSA")
MAX_LIFE_SECONDS = 600
LEEWAY_SECONDS = 30
MAX_FEEDBACK = 50
_REQUIRED = ("iss", "aud", "exp", "iat", "jti")


@dataclass(frozen=True, slots=True)
class Client:
    """An EHR whose calls are taken. ``hospital`` is the one that its evidence belongs to; empty: the network's."""

    issuer: str
    hospital: str
    keys: dict[str, jwt.PyJWK]


SANDBOX = Client("sandbox", "", {})


# --- who calls ----------------------------------------------------------------------------------------------------
def authenticate(authorization: str, audience: str) -> Client:
    """The EHR that signed this call of ``audience``, an absolute address.

    Raises:
        Unauthenticated: no or a wrong token, an unknown issuer, or nothing is configured.
    """
    known = clients()
    scheme, _, token = authorization.partition(" ")
    if not known:
        if settings.CDS_SANDBOX:
            return SANDBOX
        raise Unauthenticated("This site takes no calls of CDS clients.")
    try:
        client = known[str(jwt.decode(token.strip(), options={"verify_signature": False})["iss"])]
        header = jwt.get_unverified_header(token.strip())
        key = client.keys[str(header["kid"])]
        claims = jwt.decode(
            token.strip(),
            key,
            algorithms=[key.algorithm_name],
            audience=audience,
            issuer=client.issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": list(_REQUIRED)},
        )
        if scheme.lower() != "bearer" or float(claims["exp"]) - float(claims["iat"]) > MAX_LIFE_SECONDS:
            raise ValueError("not a short-lived bearer token")
    except (jwt.PyJWTError, KeyError, TypeError, ValueError):
        raise Unauthenticated("Sign the call with a key that this site knows.") from None
    used = hashlib.sha256(f"{client.issuer}\n{claims['jti']}".encode()).hexdigest()
    if not cache.add(f"cds-jti-{used}", True, MAX_LIFE_SECONDS + 2 * LEEWAY_SECONDS):
        raise Unauthenticated("This token was used before.")
    return client


def clients() -> dict[str, Client]:
    """The configured EHRs by issuer; the file is read again when it changes."""
    path = settings.CDS_CLIENTS_FILE
    return _read(path, path.stat().st_mtime_ns) if path is not None else {}


@lru_cache(maxsize=2)
def _read(path: Path, modified_ns: int) -> dict[str, Client]:
    """``[{"issuer", "hospital", "jwks": {"keys": [...]}}]``. Keys of other algorithms than :data:`ALGORITHMS` are none.

    Raises:
        ValueError, KeyError: the file is no such list; the call fails, and nobody is let in.
    """
    found = {}
    for row in json.loads(path.read_text(encoding="utf-8")):
        keys = {str(key["kid"]): jwt.PyJWK.from_dict(key, key.get("alg")) for key in row["jwks"]["keys"]}
        good = {name: key for name, key in keys.items() if key.algorithm_name in ALGORITHMS}
        found[str(row["issuer"])] = Client(str(row["issuer"]), str(row.get("hospital") or ""), good)
    return found


# --- what is offered ----------------------------------------------------------------------------------------------
def discovery() -> dict[str, Any]:
    """``GET /cds-services``. Nothing is asked to be prefetched: nothing would be read."""
    described = "A link to the page where hospitals' records are asked under differential privacy."
    return {
        "services": [
            {"id": SERVICE, "hook": hook, "title": "Ask the network's records", "description": described}
            for hook in HOOKS
        ]
    }


def card(client: Client, body: Any, ask_address: str) -> dict[str, Any]:
    """The answer to a call: one card with a link. That it was shown is on record, without any of the call's context.

    Raises:
        InvalidParameter: the body is no call of a hook that is offered.
    """
    hook = body.get("hook") if isinstance(body, dict) else None
    if hook not in HOOKS:
        raise InvalidParameter("This service is for the hooks that its discovery names.", field="hook")
    _uuid(body.get("hookInstance"), "hookInstance")
    made = uuid.uuid4()
    with transaction.atomic():
        _record(client, "cds.card", "shown", made, hook=hook)
    return {"cards": [_card(made, ask_address)]}


def _card(made: uuid.UUID, ask_address: str) -> dict[str, Any]:
    return {
        "uuid": str(made),
        "summary": "Ask what other patients' records say, without seeing any of them",
        "detail": "Answers are made by software, some by a language model. Check them before you act. "
        "Nothing about this patient was sent or is in the link.",
        "indicator": "info",
        "source": {"label": "fdrouter", "url": settings.BASE_URL},
        "links": [{"label": "Open the Ask page", "url": ask_address, "type": "absolute"}],
        "overrideReasons": [
            {"code": code, "system": REASON_SYSTEM, "display": words} for code, words in REASONS.items()
        ],
    }


def feedback(client: Client, body: Any) -> int:
    """Records what became of cards; returns how many were new. What a person wrote beside it is not read.

    Raises:
        InvalidParameter: the body is no feedback.
        NotFound: a card is none that was shown to this EHR.
    """
    rows = body.get("feedback") if isinstance(body, dict) else None
    if not isinstance(rows, list) or not 0 < len(rows) <= MAX_FEEDBACK:
        raise InvalidParameter("Send a list of feedback.", field="feedback")
    read = [_feedback(row) for row in rows]
    with transaction.atomic():
        return sum(_keep(client, *found) for found in read)


def _feedback(row: Any) -> tuple[uuid.UUID, str, str]:
    if not isinstance(row, dict) or row.get("outcome") not in OUTCOMES:
        raise InvalidParameter("Say accepted or overridden.", field="outcome")
    reason = row.get("overrideReason")
    coded = reason.get("reason") if isinstance(reason, dict) else None
    code = coded.get("code") if isinstance(coded, dict) and coded.get("system") == REASON_SYSTEM else None
    return _uuid(row.get("card"), "card"), str(row["outcome"]), code if code in REASONS else ""


def _keep(client: Client, made: uuid.UUID, outcome: str, reason: str) -> bool:
    told = Event.objects.filter(subject=made, details__client=client.issuer)
    if not told.filter(kind="cds.card").exists():
        raise NotFound("No such card was shown.")
    if told.filter(kind="cds.feedback", outcome=outcome).exists():  # the same once more
        return False
    _record(client, "cds.feedback", outcome, made, **({"reason": reason} if reason else {}))
    return True


def _uuid(value: Any, field: str) -> uuid.UUID:
    try:
        return uuid.UUID(value)
    except (ValueError, TypeError, AttributeError):
        raise InvalidParameter("Give a UUID.", field=field) from None


def _record(client: Client, kind: str, outcome: str, made: uuid.UUID, **details: str) -> None:
    told = {"client": client.issuer, **details}
    record(Evidence(kind=kind, outcome=outcome, subject=made, hospital=client.hospital or None, details=told))
