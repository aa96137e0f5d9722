"""An export is checked by the verifier that comes with it; a second accountant's totals are the ledger's."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
import zipfile
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from compliance import log
from compliance.log import bundle
from compliance.models import Event, Leaf
from fdrouter import evidence
from fdrouter.errors import Conflict, InvalidParameter
from federation.identity import Identity
from privacy import ledger
from privacy.models import Scope, Unit
from tests.compliance.log.writing import event, without_guards, write
from tests.privacy.ledger import books

pytestmark = pytest.mark.django_db


def checked(file: Path, *options: str) -> tuple[int, str]:
    """What the bundle's own verifier says, in a process that knows nothing of the project."""
    with zipfile.ZipFile(file) as archive:
        verifier = file.with_suffix(".py")
        verifier.write_bytes(archive.read("verify_audit.py"))
    done = subprocess.run(
        [sys.executable, "-I", str(verifier), str(file), *options], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def changed(file: Path, member: str, old: str, new: str) -> Path:
    other = file.with_name("changed.zip")
    with zipfile.ZipFile(file) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name == member:
                assert old.encode() in data
                data = data.replace(old.encode(), new.encode(), 1)
            target.writestr(name, data)
    return other


@pytest.fixture
def spent(own: Identity) -> Scope:
    """A block that paid for one release and half of another, a quota beside it, and a log of 300 entries and more."""
    block, quota = books.block(1000, key="block:northfield:1"), books.quota(10_000)
    first, second = books.request((block, 400), (quota, 70)), books.request((block, 300), (quota, 30))
    assert ledger.reserve(first) and ledger.reserve(second)
    write(300)
    log.tend()
    assert ledger.settle(second.id, spent=100)
    block.refresh_from_db()
    return block


def test_a_full_export_is_good_and_its_totals_are_the_ledgers(spent: Scope, tmp_path: Path) -> None:
    made = bundle.export(tmp_path / "all.zip")
    code, said = checked(tmp_path / "all.zip")
    assert code == 0, said
    assert made.kind == "full" and made.size == made.last + 1 == Event.objects.count()
    assert f"block:northfield:1: {spent.used} of 1000 nano_rdp" in said
    assert "Read 304 entries" in said and spent.used == 500
    exported = Event.objects.latest("seq")
    assert (exported.kind, Leaf.objects.get(event=exported.pk).index) == ("log.export", made.last)


def test_every_movement_of_a_privacy_budget_is_in_the_log(spent: Scope) -> None:
    told = [move for row in Event.objects.filter(kind="ledger.entries") for move in row.details["ledger"]]
    assert [move["amount"] for move in told if move["key"] == spent.key] == [400, 300, -200]
    assert {move["why"] for move in told} == {"reserve", "refund"} and all(uuid.UUID(m["reservation"]) for m in told)
    requests = books.quota(10, unit=Unit.REQUESTS)
    before = Event.objects.count()
    assert ledger.reserve(books.request((requests, 1)))
    assert Event.objects.count() == before  # an allowance of requests is no privacy


def test_movements_after_the_checkpoint_are_not_in_the_export(spent: Scope, tmp_path: Path, monkeypatch: Any) -> None:
    log.tend()
    log.checkpoint(force=True)
    monkeypatch.setattr(bundle, "sequence", lambda: 0)  # what follows stays beyond the last checkpoint
    assert ledger.reserve(books.request((spent, 33)))
    bundle.export(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as archive:
        scopes = json.loads(archive.read("ledger.json"))["scopes"]
    assert next(scope["used"] for scope in scopes if scope["key"] == spent.key) == 500
    assert checked(tmp_path / "all.zip")[0] == 0


@pytest.mark.parametrize(
    ("member", "old", "new", "says"),
    [
        ("log.jsonl", '\\"nth\\":77}', '\\"nth\\":78}', "Entry 79 was changed"),
        ("ledger.json", '"used": 500', '"used": 499', "499 nano_rdp were used"),
        ("checkpoint.txt", "\n304\n", "\n303\n", "not signed by the log"),
    ],
)
def test_a_changed_export_is_found(member: str, old: str, new: str, says: str, spent: Scope, tmp_path: Path) -> None:
    bundle.export(tmp_path / "all.zip")
    code, said = checked(changed(tmp_path / "all.zip", member, old, new))
    assert code == 1 and says in said, said


def test_a_changed_database_shows_in_the_export(spent: Scope, tmp_path: Path) -> None:
    seq = Leaf.objects.get(index=100).event
    without_guards(f"UPDATE compliance_event SET outcome = 'denied' WHERE seq = {seq}")
    bundle.export(tmp_path / "all.zip")
    code, said = checked(tmp_path / "all.zip")
    assert code == 1 and "Entry 100 was changed" in said, said


def test_a_partial_export_proves_each_entry(spent: Scope, tmp_path: Path) -> None:
    made = bundle.export(tmp_path / "some.zip", first=10, last=20)
    assert (made.kind, made.first, made.last) == ("partial", 10, 20)
    code, said = checked(tmp_path / "some.zip")
    assert code == 0 and "Read 11 entries" in said, said
    code, said = checked(changed(tmp_path / "some.zip", "log.jsonl", "request.submit", "request.finish"))
    assert code == 1 and "Entry 10 was changed" in said


@pytest.mark.parametrize(("first", "last"), [(0, 1000), (5, 4), (-1, 3)])
def test_entries_that_are_not_there_cannot_be_exported(first: int, last: int, own: Identity, tmp_path: Path) -> None:
    write(5)
    with pytest.raises(InvalidParameter):
        bundle.export(tmp_path / "some.zip", first=first, last=last)


def test_private_parts_only_where_asked_for_and_not_erased(own: Identity, tmp_path: Path) -> None:
    secret = {"patient": "Maria Gonzalez"}
    evidence.record(event(1, private=secret), event(2, private=secret))
    log.tend()
    log.erase([Leaf.objects.get(index=0).event], reason="Art. 17")
    bundle.export(tmp_path / "plain.zip")
    bundle.export(tmp_path / "private.zip", private=True)
    texts = {}
    for name in ("plain", "private"):
        with zipfile.ZipFile(tmp_path / f"{name}.zip") as archive:
            texts[name] = archive.read("log.jsonl").decode()
    assert "Gonzalez" not in texts["plain"] and texts["private"].count("Gonzalez") == 1
    code, said = checked(tmp_path / "plain.zip")
    assert code == 0 and "0 as committed, 1 erased, 1 not in this export" in said, said
    code, said = checked(tmp_path / "private.zip")
    assert code == 0 and "1 as committed, 1 erased, 0 not in this export" in said, said


def test_an_earlier_checkpoint_that_was_kept_agrees(spent: Scope, tmp_path: Path) -> None:
    bundle.export(tmp_path / "first.zip")
    with zipfile.ZipFile(tmp_path / "first.zip") as archive:
        (tmp_path / "kept.txt").write_bytes(archive.read("checkpoint.txt"))
    write(50)
    call_command("log", "export", file=tmp_path / "second.zip", verbosity=0)
    code, said = checked(tmp_path / "second.zip", "--previous", str(tmp_path / "kept.txt"))
    assert code == 0, said


def test_without_an_identity_nothing_can_be_exported(settings: Any, tmp_path: Path) -> None:
    settings.IDENTITY_DIR = tmp_path
    write(1)
    with pytest.raises(Conflict):
        bundle.export(tmp_path / "all.zip")
