"""One line of Bulk Data to one record, or to the reason why not."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from federation.node.fhir import MAX_NOTE, TAKEN_TYPES, Record, Skip, day, instant, parse_line
from tests.node.records import lines


def taken(resource: dict[str, Any]) -> Record:
    found = parse_line(lines.dump(resource))
    assert isinstance(found, Record), found
    return found


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"resourceType": "Patient", ', "bad_json"),
        (b"\xff\xfe\x00\x01", "not_utf8"),
        ('{"resourceType": "Patient", "id": "a", "gender": "männlich"}'.encode("latin-1"), "not_utf8"),
        (b"\x00\x00", "bad_json"),
        (b"[" * 100_000, "bad_json"),
        (b'{"resourceType": "Patient", "id": "a", "x": NaN}', "bad_json"),
        (b'{"resourceType": "Patient", "id": "a", "x": "\\ud800"}', "bad_json"),
        (b"[1]", "not_a_resource"),
        (b'"Patient"', "not_a_resource"),
        (b'{"id": "a"}', "not_a_resource"),
        (b'{"resourceType": "Starship", "id": "a"}', "unknown_type"),
        (b'{"resourceType": "Practitioner", "id": "a"}', "type_not_used"),
        (b'{"resourceType": "Patient"}', "bad_id"),
        (b'{"resourceType": "Patient", "id": 7}', "bad_id"),
        (b'{"resourceType": "Patient", "id": "../../etc"}', "bad_id"),
        (lines.dump(lines.patient("a" * 65)), "bad_id"),
        (b'{"resourceType": "Condition", "id": "a", "code": {"text": "Gout"}}', "no_patient"),
        (lines.dump(lines.condition("a", "b", subject={"reference": "Group/b"})), "no_patient"),
        (lines.dump(lines.condition("a", "b", code={})), "no_code"),
        (lines.dump(lines.lab("a", "b", 1, "2026", valueQuantity={"unit": "%"})), "no_value"),
        (
            lines.dump(lines.lab("a", "b", 1, "2026", category=[{"coding": [{"code": "survey"}]}])),
            "observation_not_used",
        ),
        (lines.dump(lines.note("a", "b", "x", data="%%%")), "bad_base64"),
        (lines.dump(lines.note("a", "b", "x", data="/w==")), "note_not_decodable"),
        (lines.dump(lines.note("a", "b", "x", contentType="text/plain; charset=rot13")), "note_not_decodable"),
        (lines.dump(lines.note("a", "b", "x", contentType="application/pdf")), "note_not_text"),
        (lines.dump(lines.note("a", "b", "x", data=None, url="Binary/1")), "note_elsewhere"),
        (lines.dump(lines.note("a", "b", "x", data=None)), "note_missing"),
        (lines.dump(lines.note("a", "b", " \n ")), "note_empty"),
    ],
)
def test_a_line_that_is_not_taken_has_its_reason(line: bytes, reason: str) -> None:
    assert parse_line(line) == Skip(reason)


def test_names_addresses_and_clinicians_are_not_kept() -> None:
    found = taken(
        lines.patient(
            "p1", name=[{"family": "Quillfeather"}], address=[{"city": "Quillham"}], telecom=[{"value": "555"}]
        )
    )
    seen = taken(lines.condition("c1", "p1", recorder={"display": "Dr Quillfeather"}, asserter={"display": "Quill"}))
    assert found.body == {"birth_year": 1960, "sex": "female"}
    assert "Quill" not in json.dumps([found.body, seen.body]) + found.text + seen.text


def test_a_patient_is_found_in_relative_absolute_and_versioned_references() -> None:
    for reference in ("Patient/p1", "https://ehr.example/fhir/Patient/p1", "Patient/p1/_history/3"):
        assert taken(lines.condition("c", "x", subject={"reference": reference})).patient == "p1"
    allergy = {"resourceType": "AllergyIntolerance", "id": "a", "patient": {"reference": "Patient/p1"}}
    assert taken(allergy | {"code": {"text": "Aspirin"}}).patient == "p1"


def test_partial_dates_count_from_the_first_and_nonsense_as_none() -> None:
    assert day("2026") == date(2026, 1, 1)
    assert day("2026-05") == date(2026, 5, 1)
    assert day("2026-05-06T23:00:00+02:00") == date(2026, 5, 6)
    assert day("2026-13-45") is day("soon") is day(None) is day("0000-01-01") is None
    assert instant("2026-01-01T00:00:00Z") == instant("2026-01-01T01:00:00+01:00")
    assert instant("yesterday") is instant("0001-01-01T00:00:00+14:00") is None


def test_values_of_every_kind_become_words() -> None:
    assert taken(lines.lab("o", "p", 6.10, "2026")).body["value"] == "6.1 %"
    panel: dict[str, Any] = {
        "valueQuantity": None,
        "component": [
            {"code": {"text": "Systolic"}, "valueQuantity": {"value": 120, "unit": "mmHg"}},
            {"code": {"text": "Diastolic"}, "valueQuantity": {"value": 80, "unit": "mmHg"}},
        ],
    }
    assert taken(lines.lab("o", "p", 0, "2026", **panel)).body["value"] == "Systolic 120 mmHg; Diastolic 80 mmHg"
    smoker: dict[str, Any] = {"valueQuantity": None, "valueCodeableConcept": {"text": "Never smoked"}}
    assert taken(lines.lab("o", "p", 0, "2026", **smoker)).body["value"] == "Never smoked"


def test_a_note_is_decoded_cleaned_and_bounded() -> None:
    assert taken(lines.note("d", "p", "Line one\r\nLine\x00 two")).note == "Line one\nLine two"
    assert taken(lines.note("d", "p", "<p>Dry&nbsp;cough</p>", contentType="text/html")).note == "Dry\xa0cough".replace(
        "\xa0", " "
    )
    assert len(taken(lines.note("d", "p", "long " * MAX_NOTE)).note or "") <= MAX_NOTE


def test_a_withdrawn_resource_is_a_removal_even_without_contents() -> None:
    assert taken({**lines.condition("c", "p"), "status": "entered-in-error", "code": None}).removed
    withdrawn: dict[str, Any] = {"verificationStatus": {"coding": [{"code": "entered-in-error"}]}}
    assert taken(lines.condition("c", "p", **withdrawn)).removed


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_fields = st.sampled_from(
    "id meta subject patient code category class serviceType period reasonCode valueQuantity component status content "
    "clinicalStatus verificationStatus dosageInstruction medicationReference reaction birthDate gender type date "
    "medicationCodeableConcept interpretation performedPeriod outcome effectiveDateTime severity".split()
)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_no_bytes_raise(line: bytes) -> None:
    assert isinstance(parse_line(line), Record | Skip)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(TAKEN_TYPES), st.dictionaries(_fields, _json, max_size=6))
def test_no_shape_of_a_resource_raises(kind: str, fields: dict[str, Any]) -> None:
    base = {"id": "a", "subject": {"reference": "Patient/p"}, "code": {"text": "x"}}
    line = json.dumps({"resourceType": kind} | base | fields).encode()
    found = parse_line(line)
    if isinstance(found, Record):
        stored = json.dumps(found.body) + found.text + found.code + (found.note or "")
        assert "\x00" not in stored
        stored.encode()  # No lone surrogate, which the database would refuse.
