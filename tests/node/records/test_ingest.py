"""Taking in a folder: grouping, broken lines, increments, and runs that are cut short."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from fdrouter.errors import Conflict, InvalidParameter
from federation.node import ingest as intake
from federation.node import ndjson, store
from federation.node.demo_records.build import build_small
from federation.node.ingest import ingest
from federation.node.models import CareAssignment, IngestFile, IngestRun, Note, Patient, Resource
from tests.node.records import lines

pytestmark = pytest.mark.django_db


def contents() -> dict[str, Any]:
    """Everything an ingest leaves, without row numbers."""
    return {
        "patients": sorted(
            Patient.objects.values_list(
                "source_id", "reference", "birth_year", "sex", "lines", "codes", "vector", "stale"
            )
        ),
        "resources": sorted(
            (kind, number, patient, code, text, str(day), str(sorted(body.items())))
            for kind, number, patient, code, text, day, body in Resource.objects.values_list(
                "resource_type", "source_id", "patient__source_id", "code", "text", "date", "body"
            )
        ),
        "notes": sorted(Note.objects.values_list("resource__source_id", "patient__source_id", "text")),
        "care": sorted(CareAssignment.objects.values_list("patient__source_id", "department", "since")),
    }


def test_everything_of_a_patient_is_grouped_under_the_patient(tmp_path: Path) -> None:
    lines.write(tmp_path / "z.ndjson", [lines.patient("p1"), lines.patient("p2", born="1990")])
    lines.write(
        tmp_path / "a.ndjson",
        [
            lines.condition("c1", "p1", "Gout"),
            lines.note("d1", "p1", "Took colchicine for gout."),
            lines.encounter("e1", "p1", "Cardiology"),
            lines.encounter("e2", "p2", "", klass="EMER"),
            lines.lab("o1", "p2", 7.5, "2026-02-02"),
        ],
    )
    report = ingest(tmp_path)
    one, two = Patient.objects.get(source_id="p1"), Patient.objects.get(source_id="p2")
    assert report.taken["Condition"] == {"new": 1} and report.patients == 2 and not report.skipped
    assert "colchicine" in " ".join(one.lines) and "colchicine" not in " ".join(two.lines)
    assert one.codes == ["C-Gout"] and two.codes == ["4548-4"]
    assert {n.patient_id for n in Note.objects.all()} == {one.pk}
    care = set(CareAssignment.objects.values_list("patient__source_id", "department"))
    assert care == {("p1", "cardiology"), ("p2", "emergency")}
    assert one.reference.startswith("p-") and "p1" not in one.reference


def test_broken_lines_are_reported_with_their_places_and_never_stop_the_rest(tmp_path: Path) -> None:
    manifest = build_small(tmp_path, "northfield", broken=True)
    (tmp_path / "empty.ndjson").touch()
    (tmp_path / "image.ndjson").write_bytes(bytes(range(256)) * 40)
    report = ingest(tmp_path)
    reasons = {reason: found["count"] for reason, found in report.skipped.items()}
    assert reasons.pop("not_utf8") >= 2  # One line of the small cut, and the image's.
    reasons.pop("bad_json")
    assert reasons == {
        "no_patient": 1,
        "unknown_patient": 1,
        "unknown_type": 1,
        "bad_base64": 1,
        "not_a_resource": 1,
        "bad_id": 1,
    }
    assert report.skipped["unknown_type"]["places"] == ["broken.ndjson:5"]
    assert report.patients == manifest["patients"] == 90
    run = IngestRun.objects.get()
    assert run.state == "done" and run.skipped == report.skipped and run.taken == report.taken
    assert "Gout" not in str(run.skipped)


def test_an_unchanged_folder_is_not_read_again(tmp_path: Path) -> None:
    build_small(tmp_path, "northfield", broken=True)
    ingest(tmp_path)
    before = contents()
    report = ingest(tmp_path)
    assert report.files_read == 0 and report.lines == 0 and report.patients_indexed == 0
    assert contents() == before


def test_taking_in_the_same_lines_twice_changes_nothing(tmp_path: Path) -> None:
    build_small(tmp_path, "northfield")
    ingest(tmp_path)
    before = contents()
    IngestFile.objects.update(done=False, offset=0, line=0)
    report = ingest(tmp_path)
    assert contents() == before
    assert {outcome for counts in report.taken.values() for outcome in counts} <= {"unchanged", "superseded"}
    assert report.patients_indexed == 0


def test_a_changed_file_replaces_resources_by_id(tmp_path: Path) -> None:
    lines.write(tmp_path / "p.ndjson", [lines.patient("p1"), lines.patient("p2")])
    path = lines.write(
        tmp_path / "c.ndjson", [lines.condition("c1", "p1", "Gout"), lines.condition("c2", "p2", "Asthma")]
    )
    ingest(tmp_path)
    lines.write(path, [lines.condition("c1", "p1", "Migraine"), lines.condition("c2", "p2", "Asthma")])
    report = ingest(tmp_path)
    assert report.taken["Condition"] == {"changed": 1, "unchanged": 1}
    assert report.patients_indexed == 1
    assert "Migraine" in " ".join(Patient.objects.get(source_id="p1").lines)
    assert "Gout" not in " ".join(Patient.objects.get(source_id="p1").lines)
    assert Resource.objects.count() == 2


def test_a_resource_that_moves_to_another_patient_leaves_the_first(tmp_path: Path) -> None:
    lines.write(tmp_path / "p.ndjson", [lines.patient("p1"), lines.patient("p2")])
    path = lines.write(tmp_path / "d.ndjson", [lines.note("d1", "p1", "Saw a quokka.")])
    ingest(tmp_path)
    lines.write(path, [lines.note("d1", "p2", "Saw a quokka.")])
    ingest(tmp_path)
    told = {p.source_id: "quokka" in " ".join(p.lines) for p in Patient.objects.all()}
    assert told == {"p1": False, "p2": True}
    assert Note.objects.get().patient.source_id == "p2"


def test_of_versions_the_newest_stays_in_whatever_order_they_come(tmp_path: Path) -> None:
    def version(day: int, text: str) -> dict[str, Any]:
        return lines.condition("c1", "p1", text, meta={"lastUpdated": f"2026-05-{day:02d}T00:00:00Z"})

    lines.write(tmp_path / "a.ndjson", [lines.patient("p1"), version(3, "Third"), version(1, "First")])
    lines.write(tmp_path / "b.ndjson", [version(2, "Second")])
    report = ingest(tmp_path)
    assert report.taken["Condition"] == {"new": 1, "older": 2}
    assert Resource.objects.get().text == "Third"


def test_a_withdrawn_resource_is_taken_out(tmp_path: Path) -> None:
    lines.write(
        tmp_path / "a.ndjson",
        [lines.patient("p1"), lines.note("d1", "p1", "Saw a quokka."), lines.condition("c", "p1")],
    )
    ingest(tmp_path)
    gone = {**lines.note("d1", "p1", "x"), "status": "entered-in-error"}
    lines.write(tmp_path / "b.ndjson", [gone, {**gone, "id": "never-seen"}])
    report = ingest(tmp_path)
    assert report.taken["DocumentReference"] == {"removed": 1}
    assert report.skipped["removed_unknown"]["count"] == 1
    assert not Note.objects.exists() and "quokka" not in " ".join(Patient.objects.get().lines)


def test_of_observations_with_one_code_the_newest_is_kept(tmp_path: Path) -> None:
    days = ["2026-01-05", "2026-03-05", "2026-02-05"]
    rows = [lines.lab(f"o{i}", "p1", 5 + i, day) for i, day in enumerate(days)]
    lines.write(tmp_path / "a.ndjson", [lines.patient("p1"), rows[0], rows[1]])
    ingest(tmp_path)
    lines.write(tmp_path / "b.ndjson", [rows[2], lines.lab("x", "p1", 9, "2020-01-01", code="other")])
    report = ingest(tmp_path)
    assert report.taken["Observation"] == {"superseded": 1, "new": 1}
    assert set(Resource.objects.values_list("source_id", flat=True)) == {"o1", "x"}


def test_observations_are_bounded_a_patient(tmp_path: Path) -> None:
    rows = [lines.lab(f"o{i}", "p1", i, "2026-01-05", code=f"code-{i:03d}") for i in range(90)]
    lines.write(tmp_path / "a.ndjson", [lines.patient("p1"), *rows])
    report = ingest(tmp_path)
    assert Resource.objects.count() == report.observations == 60


def test_lines_of_a_patient_who_comes_later_are_taken_then(tmp_path: Path) -> None:
    lines.write(tmp_path / "a.ndjson", [lines.condition("c1", "p1"), b"{broken", lines.condition("c2", "p2")])
    assert ingest(tmp_path).skipped["unknown_patient"]["count"] == 2
    lines.write(tmp_path / "b.ndjson", [lines.patient("p1")])
    report = ingest(tmp_path)
    assert report.taken["Condition"]["new"] == 1
    assert report.skipped["unknown_patient"] == {"count": 1, "places": ["a.ndjson:3"]}
    assert "Condition: Gout" in " ".join(Patient.objects.get(source_id="p1").lines)
    assert ingest(tmp_path).files_read == 0


def test_patients_after_their_resources_in_one_run_are_counted_once(tmp_path: Path) -> None:
    lines.write(tmp_path / "a.ndjson", [lines.condition("c1", "p1"), lines.patient("p1"), lines.condition("c2", "p1")])
    report = ingest(tmp_path)
    assert report.taken == {"Patient": {"new": 1}, "Condition": {"new": 2}} and not report.skipped


def test_characters_that_the_database_refuses_do_not_stop_a_batch(tmp_path: Path) -> None:
    odd = b'{"resourceType":"Condition","id":"c1","subject":{"reference":"Patient/p1"},"code":{"text":"Go\\u0000ut"}}'
    lines.write(
        tmp_path / "a.ndjson",
        [lines.patient("p1", gender="x\u0000\u2028" * 9), odd, lines.note("d", "p1", "a\x00b\tc\\N")],
    )
    report = ingest(tmp_path)
    assert not report.skipped and Resource.objects.get(source_id="c1").text == "Go ut"
    assert Note.objects.get().text == "a b c\\N"


class _Stop(Exception):
    pass


class _StopAfter:
    """Raises in the middle of a run, as an operator's Ctrl-C would."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def begin(self, label: str, total: int) -> None:
        self.advance(0)

    def advance(self, amount: int) -> None:
        self.left -= 1
        if self.left <= 0:
            raise _Stop


def test_a_run_cut_short_anywhere_is_completed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "CHUNK", 150)
    build_small(tmp_path, "northfield", broken=True)
    ingest(tmp_path)
    whole = contents()
    Patient.objects.all().delete()
    IngestFile.objects.all().delete()
    cuts = 0
    for steps in range(3, 60, 4):
        try:
            ingest(tmp_path, _StopAfter(steps))
        except _Stop:
            cuts += 1
    assert cuts > 3
    ingest(tmp_path)
    assert contents() == whole
    assert IngestRun.objects.filter(state="failed", reason="_Stop").count() == cuts


_KILLED = """
import os, signal, sys
import django
django.setup()
from pathlib import Path
from federation.node import ingest
ingest.CHUNK = 150
class Killer:
    left = int(sys.argv[2])
    def begin(self, label, total): pass
    def advance(self, amount):
        Killer.left -= 1
        if Killer.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
ingest.ingest(Path(sys.argv[1]), Killer())
"""


@pytest.mark.django_db(transaction=True)
def test_a_killed_process_leaves_a_run_that_the_next_one_completes(tmp_path: Path) -> None:
    build_small(tmp_path, "northfield")
    where = connection.settings_dict
    url = f"postgresql://{where['USER']}:{where['PASSWORD']}@/{where['NAME']}?host={where['HOST']}"
    url += f"&port={where['PORT']}" if where["PORT"] else ""
    for steps in ("4", "9"):
        command = [sys.executable, "-c", _KILLED, str(tmp_path), steps]
        child = subprocess.run(command, env={**os.environ, "DATABASE_URL": url}, capture_output=True, timeout=60)
        assert child.returncode == -signal.SIGKILL, child.stderr.decode()[-500:]
    assert 0 < Resource.objects.count() < 1000
    assert IngestRun.objects.filter(state="running").count() == 1
    report = ingest(tmp_path)
    assert report.patients == 90 and not Patient.objects.filter(stale=True).exists()
    assert set(IngestRun.objects.values_list("state", "reason")) == {("failed", "killed"), ("done", "")}
    resumed = contents()
    Patient.objects.all().delete()
    IngestFile.objects.all().delete()
    ingest(tmp_path)
    assert contents() == resumed


@pytest.mark.django_db(transaction=True)
def test_two_ingests_do_not_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "LOCK_SECONDS", 0.3)
    lines.write(tmp_path / "a.ndjson", [lines.patient("p1")])
    outcome: list[type[BaseException] | None] = []

    def second() -> None:
        try:
            ingest(tmp_path)
            outcome.append(None)
        except Conflict:
            outcome.append(Conflict)
        finally:
            connection.close()

    with intake.exclusive(intake.Report()):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert outcome == [Conflict]
    assert ingest(tmp_path).patients == 1


def test_a_folder_that_is_not_there_is_an_error_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(InvalidParameter):
        ingest(tmp_path / "nothing")
    assert not IngestRun.objects.exists()


def test_a_file_that_vanishes_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines.write(tmp_path / "a.ndjson", [lines.patient("p1")])
    found = [tmp_path / "gone.ndjson", tmp_path / "a.ndjson"]
    monkeypatch.setattr(ndjson, "find_files", lambda folder: found)
    report = ingest(tmp_path)
    assert report.skipped == {"file_unreadable": {"count": 1, "places": ["gone.ndjson"]}} and report.patients == 1


def test_a_later_line_of_the_same_batch_wins(tmp_path: Path) -> None:
    rows = [lines.condition("c1", "p1", text) for text in ("One", "Two", "Three")]
    lines.write(tmp_path / "a.ndjson", [lines.patient("p1", born="1950"), lines.patient("p1", born="1951"), *rows])
    report = ingest(tmp_path)
    assert report.taken["Condition"] == {store.NEW: 1, store.CHANGED: 2}
    assert Resource.objects.get().text == "Three" and Patient.objects.get().birth_year == 1951
