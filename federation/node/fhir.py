"""One line of FHIR R4 Bulk Data to one trimmed record, or to the reason why not. Pure: no database, no files.

Source: HL7 FHIR R4 (4.0.1) and FHIR Bulk Data Access 2.0 (NDJSON, one resource a line). Only what search and charts
use is kept; names, addresses, telephone numbers and the people who treated the patient are dropped here.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import html
import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import msgspec

TAKEN_TYPES = (
    "Patient",
    "Encounter",
    "Condition",
    "MedicationRequest",
    "Observation",
    "AllergyIntolerance",
    "Procedure",
    "DocumentReference",
)
#: Types of a usual export that nothing here needs; other names are reported as unknown.
UNUSED_TYPES = frozenset(
    "Account Appointment Binary CarePlan CareTeam Claim ClinicalImpression Composition Consent Coverage Device "
    "DeviceUseStatement DiagnosticReport Endpoint ExplanationOfBenefit FamilyMemberHistory Goal Group "
    "HealthcareService ImagingStudy Immunization Location Media Medication MedicationAdministration MedicationDispense "
    "MedicationStatement NutritionOrder OperationOutcome Organization Practitioner PractitionerRole Provenance "
    "Questionnaire QuestionnaireResponse RelatedPerson RiskAssessment Schedule ServiceRequest Slot Specimen "
    "SupplyDelivery Task".split()
)
#: Observations of other categories (scores, surveys, activity) say little that a question asks for.
OBSERVATION_CATEGORIES = frozenset({"laboratory", "lab", "vital-signs", "social-history", "imaging", "exam"})
MAX_TEXT = 300
MAX_CODE = 80
MAX_NOTE = 20_000
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")
_DATE = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d))?)?")
_TAG = re.compile(r"<[^>]{0,2000}>")
_BLANKS = re.compile(r"[^\S\n]+")
#: Control characters (PostgreSQL refuses NUL) and lone surrogates, which no text of a record needs.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_DECODER = msgspec.json.Decoder()

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Skip:
    """Why a line was not taken: a word for the report, never contents."""

    reason: str


@dataclass(slots=True)
class Record:
    """One taken resource. ``patient`` is the source id of the patient it belongs to (its own for a Patient)."""

    resource_type: str
    source_id: str
    patient: str
    digest: bytes
    last_updated: datetime | None
    removed: bool = False
    code: str = ""
    text: str = ""
    date: date | None = None
    body: dict[str, Any] = field(default_factory=dict)
    note: str | None = None


class _Refused(Exception):
    """Carries the reason of a :class:`Skip` out of a reader."""


def parse_line(line: bytes) -> Record | Skip:
    """Reads one NDJSON line (without its line end; at most what the caller bounds it to)."""
    try:
        resource = _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            return Skip("not_utf8")
        return Skip("bad_json")
    except RecursionError:
        return Skip("bad_json")
    if not isinstance(resource, dict):
        return Skip("not_a_resource")
    try:
        return _record(resource, hashlib.sha256(line).digest())
    except _Refused as refused:
        return Skip(str(refused))


def _record(resource: Json, digest: bytes) -> Record:
    kind = resource.get("resourceType")
    if not isinstance(kind, str):
        raise _Refused("not_a_resource")
    if kind not in TAKEN_TYPES:
        raise _Refused("type_not_used" if kind in UNUSED_TYPES else "unknown_type")
    source_id = resource.get("id")
    if not isinstance(source_id, str) or not _ID.fullmatch(source_id):
        raise _Refused("bad_id")
    record = Record(
        resource_type=kind,
        source_id=source_id,
        patient=source_id if kind == "Patient" else _subject(resource),
        digest=digest,
        last_updated=instant(_dict(resource.get("meta")).get("lastUpdated")),
        removed=_entered_in_error(resource),
    )
    if not record.removed:
        _READERS[kind](resource, record)
    return record


def _subject(resource: Json) -> str:
    """The patient's source id from ``subject`` or ``patient``: ``Patient/x`` or an absolute URL that ends so."""
    reference = _dict(resource.get("subject") or resource.get("patient")).get("reference")
    if not isinstance(reference, str):
        raise _Refused("no_patient")
    parts = reference.split("/_history/")[0].split("/")
    if len(parts) < 2 or parts[-2] != "Patient" or not _ID.fullmatch(parts[-1]):
        raise _Refused("no_patient")
    return parts[-1]


def _entered_in_error(resource: Json) -> bool:
    """The source withdrew the resource (``status`` or ``verificationStatus``)."""
    coded = _codings(resource.get("verificationStatus"))
    return resource.get("status") == "entered-in-error" or any(c.get("code") == "entered-in-error" for c in coded)


def clean(value: object, limit: int = MAX_TEXT) -> str:
    """Text without control characters, blanks folded, at most ``limit`` characters; anything but text is empty."""
    if not isinstance(value, str):
        return ""
    return _BLANKS.sub(" ", _UNPRINTABLE.sub(" ", value[: limit * 2])).strip()[:limit]


def day(value: object) -> date | None:
    """The date of a FHIR date or dateTime; a missing month or day counts as the first; nonsense as none."""
    match = _DATE.match(value) if isinstance(value, str) else None
    if not match:
        return None
    try:
        return date(int(match[1]), int(match[2] or 1), int(match[3] or 1))
    except ValueError:
        return None


def instant(value: object) -> datetime | None:
    """A FHIR instant as an aware time, or none."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _dict(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def _dicts(value: object) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _codings(concept: object) -> list[Json]:
    return _dicts(_dict(concept).get("coding"))


def _label(concept: object) -> str:
    """A CodeableConcept in words: its text, or the first display."""
    texts = [_dict(concept).get("text"), *(coding.get("display") for coding in _codings(concept))]
    return next((text for text in map(clean, texts) if text), "")


def _code(concept: object) -> str:
    """The first code of a CodeableConcept, without its system: clinicians search by ``I10``, not by URL."""
    return next((code for coding in _codings(concept) if (code := clean(coding.get("code"), MAX_CODE))), "")


def _first_label(concepts: object) -> str:
    return next((label for concept in _dicts(concepts) if (label := _label(concept))), "")


def _put(record: Record, **values: object) -> None:
    """Keeps the values that say something."""
    record.body.update({name: value for name, value in values.items() if value not in (None, "", [])})


def _iso(value: object) -> str:
    found = day(value)
    return found.isoformat() if found else ""


def _coded(resource: Json, record: Record, concept: object) -> None:
    record.code, record.text = _code(concept), _label(concept)
    if not record.text and not record.code:
        raise _Refused("no_code")


def _patient(resource: Json, record: Record) -> None:
    born = day(resource.get("birthDate"))
    gender = clean(resource.get("gender"), 8)
    _put(record, birth_year=born.year if born else None, sex=gender)


def _encounter(resource: Json, record: Record) -> None:
    period = _dict(resource.get("period"))
    record.date = day(period.get("start"))
    record.code = clean(_dict(resource.get("class")).get("code"), MAX_CODE)
    record.text = _label(resource.get("serviceType"))
    _put(record, reason=_first_label(resource.get("reasonCode")), end=_iso(period.get("end")))


def _condition(resource: Json, record: Record) -> None:
    _coded(resource, record, resource.get("code"))
    record.date = day(resource.get("onsetDateTime")) or day(resource.get("recordedDate"))
    _put(
        record,
        status=_code(resource.get("clinicalStatus")),
        severity=_label(resource.get("severity")),
        ended=_iso(resource.get("abatementDateTime")),
    )


def _medication(resource: Json, record: Record) -> None:
    concept = resource.get("medicationCodeableConcept")
    if concept is None:
        reference = _dict(resource.get("medicationReference"))
        concept = {"text": reference.get("display")}
    _coded(resource, record, concept)
    record.date = day(resource.get("authoredOn"))
    dosage = next(iter(_dicts(resource.get("dosageInstruction"))), {})
    _put(record, dose=clean(dosage.get("text"), 120), status=clean(resource.get("status"), 20))


def _value(resource: Json) -> str:
    """An observed value in words, from the kinds of value that FHIR allows and search can use."""
    quantity = _dict(resource.get("valueQuantity"))
    amount = quantity.get("value")
    if isinstance(amount, int | float) and not isinstance(amount, bool):
        return f"{amount:g} {clean(quantity.get('unit') or quantity.get('code'), 30)}".strip()
    if isinstance(whole := resource.get("valueInteger"), int):
        return str(whole)
    return _label(resource.get("valueCodeableConcept")) or clean(resource.get("valueString"), 120)


def _observation(resource: Json, record: Record) -> None:
    categories = {
        clean(coding.get("code"), MAX_CODE).lower()
        for category in _dicts(resource.get("category"))
        for coding in _codings(category)
    }
    if categories and not categories & OBSERVATION_CATEGORIES:
        raise _Refused("observation_not_used")
    _coded(resource, record, resource.get("code"))
    period = _dict(resource.get("effectivePeriod"))
    record.date = day(resource.get("effectiveDateTime")) or day(period.get("start")) or day(resource.get("issued"))
    parts = [
        f"{_label(part.get('code'))} {value}"
        for part in _dicts(resource.get("component"))[:8]
        if (value := _value(part))
    ]
    value = _value(resource) or "; ".join(parts)[:MAX_TEXT]
    if not value:
        raise _Refused("no_value")
    _put(
        record,
        value=value,
        flag=_first_label(resource.get("interpretation")),
        lab=True if categories & {"laboratory", "lab"} else None,
    )


def _allergy(resource: Json, record: Record) -> None:
    _coded(resource, record, resource.get("code"))
    record.date = day(resource.get("recordedDate")) or day(resource.get("onsetDateTime"))
    reactions = [
        label
        for reaction in _dicts(resource.get("reaction"))[:4]
        for concept in _dicts(reaction.get("manifestation"))[:4]
        if (label := _label(concept))
    ]
    _put(record, reactions=reactions)


def _procedure(resource: Json, record: Record) -> None:
    _coded(resource, record, resource.get("code"))
    record.text = record.text.replace("_", " ")
    period = _dict(resource.get("performedPeriod"))
    record.date = day(resource.get("performedDateTime")) or day(period.get("start"))
    _put(record, outcome=_label(resource.get("outcome")), reason=_first_label(resource.get("reasonCode")))


def _document(resource: Json, record: Record) -> None:
    record.code, record.text = _code(resource.get("type")), _label(resource.get("type"))
    record.date = day(resource.get("date")) or day(_dict(_dict(resource.get("context")).get("period")).get("start"))
    attachments = [_dict(content.get("attachment")) for content in _dicts(resource.get("content"))]
    if not attachments:
        raise _Refused("note_missing")
    texts = [item for item in attachments if str(item.get("contentType", "text/plain")).startswith("text/")]
    if not texts:
        raise _Refused("note_not_text")
    attachment = texts[0]
    if not isinstance(attachment.get("data"), str):
        raise _Refused("note_elsewhere" if attachment.get("url") else "note_missing")
    record.note = _note(attachment["data"], str(attachment.get("contentType", "")))
    if not record.note:
        raise _Refused("note_empty")


def _note(data: str, content_type: str) -> str:
    """Decodes an attachment to text; the charset is UTF-8 unless the content type names another that is known."""
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise _Refused("bad_base64") from None
    named = re.search(r"charset=\"?([\w\-]+)", content_type)
    try:
        text = raw.decode(named[1] if named else "utf-8")
    except (UnicodeError, LookupError):
        raise _Refused("note_not_decodable") from None
    if "html" in content_type:
        text = html.unescape(_TAG.sub(" ", text))
    return clean(text.replace("\r\n", "\n").replace("\r", "\n"), MAX_NOTE)


_READERS = {
    "Patient": _patient,
    "Encounter": _encounter,
    "Condition": _condition,
    "MedicationRequest": _medication,
    "Observation": _observation,
    "AllergyIntolerance": _allergy,
    "Procedure": _procedure,
    "DocumentReference": _document,
}
