"""The demo's records: what the manifest says is what a node finds, and the odd ones are there to be protected."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from federation.node.demo_records import build, facts
from federation.node.demo_records.overlay import plant
from federation.node.demo_records.trim import trim
from federation.node.fhir import TAKEN_TYPES
from federation.node.ingest import ingest
from federation.node.models import Department, Note, Patient, Resource
from federation.node.search import top_patients


def test_the_questions_ask_for_planted_facts_of_large_enough_cohorts() -> None:
    planted = {fact.id: fact for fact in facts.planted_facts()}
    asked = facts.questions()
    assert len(asked) == 12 and {question.fact for question in asked} == set(planted)
    for fact in planted.values():
        assert fact.patients >= 100 and fact.department in Department.values
    for question in asked:
        told = f"{planted[question.fact].effect} {planted[question.fact].remedy}"
        assert all(any(word in told for word in words) for words in question.terms)
        assert question.department == planted[question.fact].department
    assert {fact.department for fact in planted.values()} == set(Department.values)


@pytest.mark.parametrize("hospital", facts.hospitals().values(), ids=lambda hospital: hospital.id)
def test_the_planted_counts_are_exact_and_the_canaries_single(hospital: facts.Hospital) -> None:
    patients = [f"x{number:03d}" for number in range(420)]
    resources, manifest = plant(hospital, facts.planted_facts(), facts.canaries(hospital.id), patients)
    notes: dict[str, list[str]] = {}
    for row in resources:
        if row["resourceType"] == "DocumentReference":
            text = base64.b64decode(row["content"][0]["attachment"]["data"]).decode()
            notes.setdefault(row["subject"]["reference"].removeprefix("Patient/"), []).append(text)
    every = [(patient, text) for patient, texts in notes.items() for text in texts]
    for fact in facts.planted_facts():
        mine = [text for _, text in every if text.lower().startswith(fact.treatment)]
        told = manifest["facts"][fact.id]
        assert len(mine) == told["patients"] == fact.patients == len(set(told["members"]))
        assert sum(fact.effect in text for text in mine) == told["with_effect"]
        assert sum(fact.remedy in text for text in mine) == told["resolved"]
    for canary in manifest["canaries"]:
        holders = {patient for patient, text in every if any(word in text for word in canary["words"])}
        assert holders == {canary["patient"]}
        assert canary["patient"] in manifest["facts"][canary["fact"]]["members"]
    assert len({row["id"] for row in resources}) == len(resources)


@pytest.mark.django_db
def test_the_manifest_of_the_small_cut_holds_in_the_database(tmp_path: Path) -> None:
    manifest = build.build_small(tmp_path, "northfield")
    ingest(tmp_path)
    assert Patient.objects.count() == manifest["patients"] == 90
    for fact in manifest["facts"].values():
        orders = Resource.objects.filter(resource_type="MedicationRequest", text__iexact=fact["treatment"])
        assert set(orders.values_list("patient__source_id", flat=True)) == set(fact["members"])
        effects = Resource.objects.filter(resource_type="Condition", text__iexact=fact["effect"])
        assert effects.values("patient").distinct().count() == fact["with_effect"]
        resolved = Note.objects.filter(text__contains=fact["remedy"])
        assert resolved.values("patient").distinct().count() == fact["resolved"]
    assert manifest["facts"]["velorapine"]["patients"] == 72


@pytest.mark.django_db
def test_a_cohort_question_retrieves_its_cohort_and_the_canary_in_it(tmp_path: Path) -> None:
    manifest = build.build_small(tmp_path, "northfield")
    ingest(tmp_path)
    question = next(question for question in facts.questions() if question.fact == "velorapine")
    hits = top_patients(question.text, [1], limit=64)
    sources = dict(Patient.objects.values_list("reference", "source_id"))
    assert len(hits) == 64
    assert {sources[hit.reference] for hit in hits} <= set(manifest["facts"]["velorapine"]["members"])
    canary = manifest["canaries"][0]
    told = [hit for hit in hits if sources[hit.reference] == canary["patient"]]
    # It is in the model's context, so that a test of the answers means something.
    assert told and any(word in told[0].excerpt for word in canary["words"])
    others = " ".join(hit.excerpt for hit in hits if hit is not told[0])
    assert not any(word.lower() in others.lower() for word in canary["words"])


def test_the_small_cut_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        build.build_small(tmp_path / name, "hillcrest", broken=True)
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert first == second


def _row(kind: str, number: str, **more: Any) -> dict[str, Any]:
    row = {"resourceType": kind, "id": number, "meta": {"lastUpdated": "2026-01-01T00:00:00Z"}}
    return row | {"subject": {"reference": "Patient/pt-1"}, "encounter": {"reference": "Encounter/e-1"}} | more


def test_trimming_drops_names_and_repeats_and_keeps_hospitals_apart(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    shift = base64.b64encode(b"Shift note\nNurse: Jo Quill\nFall risk low.").decode()
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in TAKEN_TYPES}
    person = {"name": [{"family": "Quill"}], "telecom": [{"value": "555"}], "address": [{"city": "Quillham"}]}
    rows["Patient"] = [{"resourceType": "Patient", "id": "pt-1", "birthDate": "1960-01-01", **person}]
    rows["Condition"] = [_row("Condition", "c-1", code={"text": "Gout"}, recorder={"display": "Jo Quill"})]
    laboratory = [{"coding": [{"code": "laboratory"}]}]
    rows["Observation"] = [
        _row(
            "Observation",
            f"o-{i}",
            category=laboratory,
            code={"coding": [{"code": "x"}]},
            effectiveDateTime=f"2026-0{i}-01",
        )
        for i in range(1, 8)
    ]
    document = {
        "type": {"text": "Nurse Note"},
        "content": [{"attachment": {"data": shift}}],
        "author": [{"display": "Quill"}],
    }
    rows["DocumentReference"] = [
        _row("DocumentReference", f"d-{i}", date=f"2026-0{i}-01", **document) for i in range(1, 6)
    ]
    for kind, resources in rows.items():
        (source / f"{kind}.ndjson").write_text("".join(json.dumps(row) + "\n" for row in resources))
    assert trim(source, target, "nf") == 1
    every = [json.loads(line) for path in target.iterdir() for line in path.read_text().splitlines()]
    texts = json.dumps(every) + "".join(
        base64.b64decode(row["content"][0]["attachment"]["data"]).decode() for row in every if "content" in row
    )
    assert "Quill" not in texts and "Fall risk low" in texts
    assert all(row["id"].startswith("nf-") for row in every)
    assert {row["subject"]["reference"] for row in every if "subject" in row} == {"Patient/nf-pt-1"}
    assert [row["id"] for row in every if row["resourceType"] == "Observation"] == ["nf-o-5", "nf-o-6", "nf-o-7"]
    assert sum(row["resourceType"] == "DocumentReference" for row in every) == 2


@pytest.mark.django_db
def test_an_overlay_that_is_made_anew_withdraws_what_it_no_longer_holds(tmp_path: Path) -> None:
    build.build_small(tmp_path, "northfield")
    ingest(tmp_path)
    kept = [row for row in _overlay(tmp_path) if not row["id"].endswith("0")]
    gone = {row["id"] for row in _overlay(tmp_path)} - {row["id"] for row in kept}
    assert gone
    build._finish(tmp_path, kept, {}, {})
    report = ingest(tmp_path)
    assert sum(counts.get("removed", 0) for counts in report.taken.values()) == len(gone)
    assert not Resource.objects.filter(source_id__in=gone).exists()
    build._finish(tmp_path, kept, {}, {})
    assert ingest(tmp_path).files_read == 0


def _overlay(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(folder.glob("overlay.*.ndjson"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


@pytest.mark.django_db
def test_the_commands_make_take_in_and_report(tmp_path: Path) -> None:
    made, taken = io.StringIO(), io.StringIO()
    call_command(
        "make_demo_records", "--output", tmp_path, "--hospital", "lakeside", "--small", "--broken", stdout=made
    )
    assert "lakeside: 90 patients, 2 planted facts (cohorts of 30 to 72), 1 odd records" in made.getvalue()
    call_command("ingest_records", "--data-path", tmp_path, stdout=taken)
    assert "90 patients on record" in taken.getvalue() and "unknown_type: 1 (broken.ndjson:5)" in taken.getvalue()
    with pytest.raises(CommandError, match="not a folder"):
        call_command("ingest_records", "--data-path", tmp_path / "nothing")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(CommandError, match="another folder"):
        call_command("make_demo_records", "--output", tmp_path / "other", "--hospital", "lakeside", "--small")
    with pytest.raises(CommandError, match="patients must be"):
        call_command("make_demo_records", "--output", tmp_path, "--hospital", "lakeside", "--patients", "3")


def test_without_the_simulator_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "SIMULATOR", "no-such-command")
    with pytest.raises(build.RecordsFailed, match="extra 'demo'"):
        build.build(tmp_path / "x", "northfield", patients=400)


@pytest.mark.parametrize("make", [build.build_small, lambda path, name: build.build(path, name, patients=400)])
def test_a_folder_that_was_not_made_here_is_never_touched(tmp_path: Path, make: Callable[[Path, str], object]) -> None:
    (tmp_path / "deep").mkdir()
    kept = [tmp_path / "Patient.ndjson", tmp_path / "thesis.txt", tmp_path / "deep" / "letter.txt"]
    for path in kept:
        path.write_text("mine")
    with pytest.raises(build.RecordsFailed, match="another folder"):
        make(tmp_path, "northfield")
    assert [path.read_text() for path in kept] == ["mine"] * 3
    assert len(list(tmp_path.iterdir())) == 3


def test_making_a_folder_again_replaces_its_own_files_only(tmp_path: Path) -> None:
    build.build_small(tmp_path, "northfield", broken=True)
    (tmp_path / "notes.txt").write_text("mine")
    build.build_small(tmp_path, "lakeside")
    assert (tmp_path / "notes.txt").read_text() == "mine" and not (tmp_path / "broken.ndjson").exists()
    patients = (tmp_path / "Patient.ndjson").read_text().splitlines()
    assert all(json.loads(line)["id"].startswith("ls-") for line in patients)
