"""The offline verifier on signatures, cosignatures and earlier checkpoints: forks, replays and other keys."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from compliance.merkle import notes
from compliance.merkle.notes import Checkpoint
from tests.compliance.merkle import bundles
from tests.compliance.merkle.bundles import LOG, Bundle, Checked, entry, first_finding, full, partial
from tests.compliance.merkle.keys import document, signer

COUNT = 100


@pytest.fixture
def check(tmp_path: Path) -> Checked:
    return bundles.checker(tmp_path)


def kept(tmp_path: Path, size: int, word: str = "request.submit") -> str:
    """A file with the checkpoint over the first ``size`` entries of a log whose entry 42 has this kind."""
    lines = [entry(index, word if index == 42 else "request.submit") for index in range(size)]
    path = tmp_path / f"kept-{size}-{word}.txt"
    path.write_text(bundles.checkpoint(bundles.store_of(lines), size), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("size", [1, 64, 99, 100])
def test_an_earlier_checkpoint_that_agrees(size: int, check: Checked, tmp_path: Path) -> None:
    code, output = check(full(COUNT), "--previous", kept(tmp_path, size))
    assert code == 0, output


def test_a_fork_is_noticed_by_an_earlier_checkpoint(check: Checked, tmp_path: Path) -> None:
    """Another history, signed with the log's own keys: the bundle is in order, but not with what was kept."""
    options = [part for size in (40, 60, 80) for part in ("--previous", kept(tmp_path, size, "request.cancel"))]
    code, output = check(full(COUNT), *options)
    assert code == 1
    assert first_finding(output) == (
        "The log has another history: its first 60 entries are not those once signed; "
        "the first different one is between 40 and 59."
    )


@pytest.mark.parametrize("bundle", [full(COUNT), partial(COUNT, [3])], ids=["full", "partial"])
def test_a_fork_of_the_same_size_is_noticed(bundle: Bundle, check: Checked, tmp_path: Path) -> None:
    code, output = check(bundle, "--previous", kept(tmp_path, COUNT, "request.cancel"))
    assert code == 1
    assert first_finding(output) == "The log has two histories: 100 entries were signed with two different roots."


def test_a_replayed_checkpoint_is_noticed(check: Checked, tmp_path: Path) -> None:
    """An old bundle in the place of a new one, and an old checkpoint under new entries."""
    code, output = check(full(80), "--previous", kept(tmp_path, COUNT))
    assert code == 1
    assert first_finding(output) == "The checkpoint is an old one: 100 entries were signed before it."
    bundle = full(COUNT)
    bundle.members["checkpoint.txt"] = full(80).members["checkpoint.txt"]
    code, output = check(bundle)
    assert code == 1
    assert first_finding(output) == "Entry 80 is not covered: the checkpoint is over 80 entries."


def test_an_earlier_checkpoint_of_somebody_else_is_none(check: Checked, tmp_path: Path) -> None:
    path = tmp_path / "other.txt"
    path.write_text(bundles.checkpoint(bundles.store_of([entry(0)]), 1, generation=2), encoding="utf-8")
    code, output = check(full(COUNT), "--previous", str(path))
    assert code == 1
    assert "An earlier checkpoint (size 1) is not signed by this log." in output


def test_a_partial_export_cannot_be_compared(check: Checked, tmp_path: Path) -> None:
    code, output = check(partial(COUNT, [3]), "--previous", kept(tmp_path, 50))
    assert code == 2
    assert "Ask for a full one." in output


@pytest.mark.parametrize("line", [0, 1])
def test_a_missing_signature_is_noticed(line: int, check: Checked) -> None:
    bundle = full(COUNT)
    head, tail = bundle.members["checkpoint.txt"].split("\n\n")
    signatures = tail.splitlines(keepends=True)
    del signatures[line]
    bundle.members["checkpoint.txt"] = head + "\n\n" + "".join(signatures)
    code, output = check(bundle)
    assert code == 1
    assert "The checkpoint is not signed by the log" in output
    assert "GOOD." not in output.replace("NOT GOOD.", "")


def test_a_checkpoint_made_up_for_changed_entries_is_not_signed(check: Checked) -> None:
    bundle = full(COUNT)
    bundle.change(42, outcome="denied")
    bundle.restore_hashes()
    store = bundles.store_of(bundle.lines)
    head, tail = bundle.members["checkpoint.txt"].split("\n\n")
    bundle.members["checkpoint.txt"] = Checkpoint(LOG, COUNT, store.root()).body() + "\n" + tail
    code, output = check(bundle)
    assert code == 1
    assert "The checkpoint is not signed by the log" in output
    assert output.count("A cosignature in the name of") == 2


def test_keys_that_came_with_the_bundle_can_be_replaced_by_trusted_ones(check: Checked, tmp_path: Path) -> None:
    bundle = full(COUNT)
    bundle.change(42, outcome="denied")
    bundle.restore_hashes()
    store = bundles.store_of(bundle.lines)
    bundle.members["checkpoint.txt"] = notes.sign(Checkpoint(LOG, COUNT, store.root()), signer(LOG, 2))
    bundle.members["keys.json"] = {"origin": document(LOG, 2), "witnesses": []}
    code, output = check(bundle)
    assert code == 0
    assert "The keys came with the bundle." in output
    path = tmp_path / "trusted.json"
    path.write_text(json.dumps(bundles.keys()), encoding="utf-8")
    code, output = check(bundle, "--keys", str(path))
    assert code == 1
    assert "The checkpoint is not signed by the log" in output
    assert check(full(COUNT), "--keys", str(path))[0] == 0


def test_a_wrong_cosignature_is_noticed(check: Checked) -> None:
    bundle = full(COUNT)
    other = bundles.checkpoint(bundles.store_of(bundle.lines), 50).splitlines(keepends=True)
    mine = bundle.members["checkpoint.txt"].splitlines(keepends=True)
    bundle.members["checkpoint.txt"] = "".join([*mine[:6], other[6], *mine[7:]])
    code, output = check(bundle)
    assert code == 1
    assert first_finding(output) == "A cosignature in the name of lakeside is wrong."
    assert "Cosigned by 1 of 3 witnesses: northfield" in output


def lines(bundle: Bundle) -> list[str]:
    """The checkpoint line by line: the body in four, two of the log, two of lakeside, two of northfield."""
    return str(bundle.members["checkpoint.txt"]).splitlines(keepends=True)


def test_a_signature_twice_is_none(check: Checked) -> None:
    bundle = full(COUNT)
    bundle.members["checkpoint.txt"] = "".join([*lines(bundle), lines(bundle)[4]])
    code, output = check(bundle)
    assert code == 1
    assert "The checkpoint is not signed by the log" in output


@pytest.mark.parametrize("line", [6, 7])
def test_the_time_of_a_cosignature_cannot_be_changed(line: int, check: Checked) -> None:
    bundle = full(COUNT)
    changed = lines(bundle)
    raw = base64.b64decode(changed[line].split(" ")[2])
    raw = raw[:4] + (bundles.AT - 1000).to_bytes(8, "big") + raw[12:]
    changed[line] = f"\u2014 lakeside {base64.b64encode(raw).decode()}\n"
    bundle.members["checkpoint.txt"] = "".join(changed)
    code, output = check(bundle)
    assert code == 1
    assert first_finding(output) == "A cosignature in the name of lakeside is wrong."


def test_a_checkpoint_of_another_log_is_none_though_the_key_signed_it(check: Checked) -> None:
    bundle, key = full(COUNT), signer(LOG)
    body = Checkpoint("other", COUNT, bundles.store_of(bundle.lines).root()).body()
    classical = notes._line(key.key, notes.ED25519_NOTE, key.ed25519.sign(body.encode()))
    signature = key.mldsa65.sign(body.encode(), notes.MLDSA65_NOTE[1:])
    bundle.members["checkpoint.txt"] = f"{body}\n{classical}{notes._line(key.key, notes.MLDSA65_NOTE, signature)}"
    code, output = check(bundle)
    assert code == 1
    assert first_finding(output).startswith("The checkpoint is not signed by the log")


def test_a_checkpoint_whose_last_line_does_not_end_is_unreadable(check: Checked) -> None:
    bundle = full(COUNT)
    bundle.members["checkpoint.txt"] += "x"
    assert check(bundle)[0] == 2
