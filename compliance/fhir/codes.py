"""Which codes an event has: FHIR R4's audit value sets, DICOM's event ids (PS3.16, CID 400, 401), IHE BALP's subtypes.

Search goes the same way back: a code names the kinds of events that carry it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fdrouter import errors

AUDIT_TYPE = "http://terminology.hl7.org/CodeSystem/audit-event-type"
DCM = "http://dicom.nema.org/resources/ontology/DCM"
INTERACTION = "http://hl7.org/fhir/restful-interaction"
AUTHZ = "https://profiles.ihe.net/ITI/BALP/CodeSystem/AuthZsubType"
ACT_REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
EVENT_KIND = "urn:fdrouter:event-kind"
"""Every event's own kind, as one more subtype: the exact way to search."""

Code = tuple[str, str, str]
"""System, code, display."""

REST: Code = (AUDIT_TYPE, "rest", "RESTful Operation")
ACTIVITY: Code = (DCM, "110100", "Application Activity")
EXPORT: Code = (DCM, "110106", "Export")
ALERT: Code = (DCM, "110113", "Security Alert")
SIGN_IN: Code = (DCM, "110114", "User Authentication")

LOGIN: Code = (DCM, "110122", "Login")
LOGOUT: Code = (DCM, "110123", "Logout")
OVERRIDE: Code = (DCM, "110127", "Emergency Override Started")
SECURITY_SETTING: Code = (DCM, "110129", "Security Configuration")
BY_ROLE: Code = (AUTHZ, "AuthZ-Role", "Authorization Decision using only Roles")
READ: Code = (INTERACTION, "read", "read")
SEARCH: Code = (INTERACTION, "search", "search")
SEARCH_TYPE: Code = (INTERACTION, "search-type", "search-type")


@dataclass(frozen=True, slots=True)
class Shape:
    """Type, first subtype and action (C, R, U, D or E; R4 ``audit-event-action``) of a kind of events."""

    type: Code
    subtype: Code | None = None
    action: str = "E"


ORDINARY = Shape(ACTIVITY)
SHAPES: dict[str, Shape] = {
    "session.sign_in": Shape(SIGN_IN, LOGIN),
    "session.sign_out": Shape(SIGN_IN, LOGOUT),
    "policy.decision": Shape(ALERT, BY_ROLE),
    "request.submit": Shape(REST, SEARCH),
    "fhir.search": Shape(REST, SEARCH_TYPE),
    "fhir.read": Shape(REST, READ, "R"),
    "limits.apply": Shape(ALERT, SECURITY_SETTING, "U"),
    "ledger.mismatch": Shape(ALERT),
    "events.export": Shape(EXPORT, action="R"),
    "events.stream": Shape(EXPORT, action="R"),
    "charges.export": Shape(EXPORT, action="R"),
    "log.export": Shape(EXPORT, action="R"),
    "registry.export": Shape(EXPORT, action="R"),
    "report.download": Shape(EXPORT, action="R"),
    "log.erase": Shape(ACTIVITY, action="D"),
    "answer.review": Shape(ACTIVITY, action="U"),
}
_BY_ENDING = {"export": Shape(EXPORT, action="R"), "download": Shape(EXPORT, action="R")}
_BY_BEGINNING = {"break_glass": Shape(ALERT, OVERRIDE)}

PURPOSES = {
    "TREAT": "treatment",
    "ETREAT": "Emergency Treatment",
    "BTG": "break the glass",
    "HOPERAT": "healthcare operations",
    "HQUALIMP": "health quality improvement",
    "HSYSADMIN": "health system administration",
    "HRESCH": "healthcare research",
    "CLINTRCH": "clinical trial research",
    "HPAYMT": "healthcare payment",
    "PATRQT": "patient requested",
    "HTEST": "test health data",
}

OUTCOMES = {"0": "Success", "4": "Minor failure", "8": "Serious failure"}
SUCCEEDED = frozenset(
    "ok allowed requested approved accepted edited rejected overridden shown granted finished started".split()
)
SERIOUS = frozenset({"denied", "incident", "interrupted", "node_failed", "node_timeout", "dependency_unavailable"})
_CODES = {error.code for error in vars(errors).values() if isinstance(error, type) and hasattr(error, "code")}
MINOR = frozenset({"failed", "refused", "expired"} | _CODES) - SERIOUS


def shape_of(kind: str) -> Shape:
    """The codes of a kind; kinds that nobody has listed are application activity, exports by their ending."""
    first, _, last = kind.partition(".")
    return SHAPES.get(kind) or _BY_BEGINNING.get(first) or _BY_ENDING.get(last, ORDINARY)


def outcome_code(outcome: str) -> str | None:
    """0, 4 or 8 of R4's ``audit-event-outcome``; ``None`` for a word that says neither success nor failure."""
    if outcome in SUCCEEDED:
        return "0"
    return "8" if outcome in SERIOUS else "4" if outcome in MINOR else None


def outcomes_of(code: str) -> frozenset[str]:
    """The outcomes that have this code; empty for a code that no event has."""
    return {"0": SUCCEEDED, "4": MINOR, "8": SERIOUS}.get(code, frozenset())


def kinds_with_type(system: str | None, code: str, known: Iterable[str]) -> list[str]:
    """The kinds among ``known`` whose type is this code, of any system where none is given."""
    return [kind for kind in known if _is(shape_of(kind).type, system, code)]


def kinds_with_subtype(system: str | None, code: str, known: Iterable[str]) -> list[str]:
    """The kinds among ``known`` that have this subtype; each kind is a subtype of itself."""
    found = []
    for kind in known:
        subtype = shape_of(kind).subtype
        own = (EVENT_KIND, kind, kind)
        if _is(own, system, code) or (subtype is not None and _is(subtype, system, code)):
            found.append(kind)
    return found


def _is(coded: Code, system: str | None, code: str) -> bool:
    return coded[1] == code and (system is None or coded[0] == system)
