"""The offline verifier: a good bundle is good, and each kind of tampering is named with its entry."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dp_accounting.rdp import compute_epsilon

from compliance import verify_audit
from tests.compliance.merkle import bundles
from tests.compliance.merkle.bundles import AMOUNT, LOG, Checked, entry, first_finding, full, partial, run
from tests.compliance.merkle.keys import signer

SOURCE = Path(verify_audit.__file__)
COUNT = 100


@pytest.fixture
def check(tmp_path: Path) -> Checked:
    return bundles.checker(tmp_path)


# --- good bundles ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [1, 2, 21, 255, 256, 257, 700])
@pytest.mark.parametrize("stored", [True, False])
def test_a_full_export_is_good(count: int, stored: bool, check: Checked) -> None:
    sizes = tuple({1, count // 2, count - 1} - {0})
    code, output = check(full(count, history=sizes, stored=stored))
    assert code == 0, output
    assert "RESULT: GOOD" in output
    assert f"{count} entries" in output
    assert "Cosigned by 2 of 3 witnesses: lakeside (" in output


def test_an_empty_log_is_good(check: Checked) -> None:
    assert check(full(0))[0] == 0


def test_what_is_told(check: Checked) -> None:
    _, output = check(full(COUNT))
    assert "Private parts: 9 as committed, 1 erased, 0 not in this export." in output
    told = re.search(
        rf"northfield/1: {20 * AMOUNT} of 500000000 nano_rdp; epsilon at most ([0-9.]+) at delta 1e-06", output
    )
    assert told
    epsilon, _ = compute_epsilon([12.0], [20 * AMOUNT * 1e-9], 1e-6)
    assert epsilon <= float(told[1]) <= epsilon + 1e-4
    key = signer(LOG).key
    assert hashlib.sha256(key.ed25519.public_bytes_raw() + key.mldsa65.public_bytes_raw()).hexdigest() in output


@pytest.mark.parametrize("chosen", [[0], [99], [3, 20, 50, 51], list(range(40, 61))])
def test_a_partial_export_is_good(chosen: list[int], check: Checked) -> None:
    code, output = check(partial(COUNT, chosen))
    assert code == 0, output
    assert f"Read {len(chosen)} entries (a selection" in output
    assert "other entries are not in it" in output


def test_a_private_part_may_stay_away(check: Checked) -> None:
    bundle = full(COUNT)
    del bundle.lines[10]["private"], bundle.lines[10]["key"]
    code, output = check(bundle)
    assert code == 0
    assert "8 as committed, 1 erased, 1 not in this export" in output


# --- entries --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("count", [COUNT, 700])
@pytest.mark.parametrize("index", [0, 1, 42, 99])
def test_an_edited_entry_is_named(count: int, index: int, check: Checked) -> None:
    bundle = full(count)
    bundle.change(index, outcome="denied")
    code, output = check(bundle)
    assert code == 1
    assert first_finding(output) == (
        f"Entry {index} was changed: it does not have the hash with which it was put into the log."
    )


def test_an_edit_that_adapts_the_stored_hashes_is_put_between_two_checkpoints(check: Checked) -> None:
    bundle = full(COUNT, history=(10, 40, 50, 90))
    bundle.change(42, outcome="denied")
    bundle.restore_hashes()
    code, output = check(bundle)
    assert code == 1
    assert "first 50 entries are not those once signed; the first different one is between 40 and 49." in output
    assert "do not lead to the signed root" in output


@pytest.mark.parametrize("stored", [True, False])
def test_without_any_help_the_change_is_noticed_all_the_same(stored: bool, check: Checked) -> None:
    bundle = full(COUNT, stored=stored)
    bundle.change(42, outcome="denied")
    if stored:
        bundle.restore_hashes()
    code, output = check(bundle)
    assert code == 1
    assert "The entries do not lead to the signed root; the first wrong entry is between 0 and 99." in output


def test_a_deleted_tail_is_named(check: Checked) -> None:
    bundle = full(COUNT)
    del bundle.lines[90:]
    code, output = check(bundle)
    assert code == 1
    assert "Entries 90 to 99 are missing at the end." in output


def test_a_deleted_middle_is_named(check: Checked) -> None:
    bundle = full(COUNT)
    del bundle.lines[50:53]
    code, output = check(bundle)
    assert code == 1
    assert first_finding(output) == "Entries 50 to 52 are missing."
    bundle = full(COUNT)
    del bundle.lines[50]
    assert first_finding(check(bundle)[1]) == "Entry 50 is missing."


def test_a_deleted_middle_with_new_numbers_is_named(check: Checked) -> None:
    bundle = full(COUNT)
    del bundle.lines[50]
    bundle.renumber()
    code, output = check(bundle)
    assert code == 1
    assert first_finding(output).startswith("Entry 50 holds what was signed as entry 51")


def test_an_inserted_entry_is_named(check: Checked) -> None:
    bundle = full(COUNT)
    bundle.lines.insert(50, entry(50, "request.cancel"))
    bundle.renumber()
    code, output = check(bundle)
    assert code == 1
    assert first_finding(output).startswith("Entry 50 was changed")
    assert "Entry 51 holds what was signed as entry 50" in output
    assert "Entry 100 is not covered: the checkpoint is over 100 entries." in output


def test_reordered_entries_are_named(check: Checked) -> None:
    bundle = full(COUNT)
    bundle.lines[30], bundle.lines[31] = bundle.lines[31], bundle.lines[30]
    code, output = check(bundle)
    assert code == 1
    assert "Entry 30 comes again or out of order, after entry 31." in output
    bundle.renumber()
    code, output = check(bundle)
    assert code == 1
    assert first_finding(output).startswith("Entry 30 holds what was signed as entry 31")


def test_a_repeated_entry_is_named(check: Checked) -> None:
    bundle = full(COUNT)
    bundle.lines.insert(31, dict(bundle.lines[30]))
    code, output = check(bundle)
    assert code == 1
    assert first_finding(output) == "Entry 30 comes again or out of order, after entry 30."


def test_a_changed_stored_hash_is_named(check: Checked) -> None:
    bundle = full(COUNT)
    stored = bundle.members["tiles/0"]
    bundle.members["tiles/0"] = stored[: 32 * 42] + bytes(32) + stored[32 * 43 :]
    code, output = check(bundle)
    assert code == 1
    assert first_finding(output) == "The stored hash of entry 42 was changed; the entry itself is as signed."


@pytest.mark.parametrize(("level", "place", "span"), [(0, 42, "0 to 255"), (1, 1, "256 to 511")])
def test_a_changed_stored_hash_of_a_full_tile_is_named(level: int, place: int, span: str, check: Checked) -> None:
    bundle = full(700)
    name = f"tiles/{level}"
    stored = bundle.members[name]
    bundle.members[name] = stored[: 32 * place] + bytes(32) + stored[32 * place + 32 :]
    code, output = check(bundle)
    assert code == 1
    assert first_finding(output) == f"A stored hash over entries {span} is not the one above it."


@pytest.mark.parametrize(
    "line", ["{", "[]", "7", '{"index": 42}', '{"index": "42", "leaf": "{}"}', '{"index": 42, "leaf": "{}"}']
)
def test_a_line_that_is_no_entry_is_named(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = full(COUNT)
    lines = [json.dumps(one) for one in bundle.lines]
    lines[42] = line
    bundle.members["log.jsonl"] = "\n".join(lines)
    assert run(bundle.write(tmp_path / "bundle.zip")) == 1
    assert "Line 43 of log.jsonl, where entry 42 belongs, is no entry." in capsys.readouterr().out


def test_another_spelling_of_the_same_entry_is_none(check: Checked) -> None:
    bundle = full(COUNT)
    bundle.lines[42]["leaf"] = bundle.lines[42]["leaf"].replace('"v":1', '"v":2,"v":1')
    code, output = check(bundle)
    assert code == 1
    assert "where entry 42 belongs" in output


# --- partial exports ------------------------------------------------------------------------------------------------
def test_an_edited_entry_of_a_partial_export_is_named(check: Checked) -> None:
    bundle = partial(COUNT, [3, 50, 51])
    bundle.change(1, outcome="denied")
    code, output = check(bundle)
    assert code == 1
    assert first_finding(output).startswith("Entry 50 was changed or never in the log")


@pytest.mark.parametrize(
    "damage",
    [
        lambda proof: proof[1:],
        lambda proof: [*proof, proof[0]],
        lambda proof: [proof[0], *proof],
        lambda _: None,
        lambda _: ["x"],
        lambda _: [],
    ],
)
def test_a_damaged_proof_is_named(damage: Any, check: Checked) -> None:
    bundle = partial(COUNT, [3, 50, 51])
    bundle.lines[1]["proof"] = damage(bundle.lines[1]["proof"])
    code, output = check(bundle)
    assert code == 1
    assert first_finding(output).startswith("Entry 50 was changed or never in the log")


def test_a_proof_of_another_place_is_none(check: Checked) -> None:
    bundle = partial(COUNT, [50])
    bundle.lines[0]["index"] = 51
    assert check(bundle)[0] == 1


def test_a_gap_in_a_range_is_named(check: Checked) -> None:
    chosen = [*range(40, 50), *range(52, 61)]
    code, output = check(partial(COUNT, chosen, bounds=[40, 60]))
    assert code == 1
    assert first_finding(output) == "Entries 50 to 51 are missing."
    code, output = check(partial(COUNT, list(range(40, 58)), bounds=[40, 60]))
    assert code == 1
    assert first_finding(output) == "Entries 58 to 60 are missing at the end."
    assert check(partial(COUNT, list(range(40, 61)), bounds=[40, 60]))[0] == 0


# --- private parts --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("change", [{"private": "{}"}, {"key": "AAAA"}, {"key": "!"}, {"key": None}, {"private": 7}])
def test_a_changed_private_part_is_named(change: dict[str, Any], check: Checked) -> None:
    bundle = full(COUNT)
    bundle.lines[30] |= change
    code, output = check(bundle)
    assert code == 1
    assert first_finding(output) == "The private part of entry 30 is not the one that was committed to."


def test_a_private_part_that_was_never_committed_is_named(check: Checked) -> None:
    bundle = full(COUNT)
    bundle.lines[31] |= {name: bundle.lines[30][name] for name in ("private", "key")}
    code, output = check(bundle)
    assert code == 1
    assert first_finding(output) == "The private part of entry 31 is not the one that was committed to."


def test_an_erased_entry_whose_key_is_still_there_is_named(check: Checked) -> None:
    bundle = full(COUNT)
    bundle.lines[30]["erased"] = True
    code, output = check(bundle)
    assert code == 1
    assert first_finding(output).startswith("Entry 30 is said to be erased, but")


def test_an_entry_without_a_private_part_cannot_be_erased(check: Checked) -> None:
    bundle = full(COUNT)
    bundle.lines[31]["erased"] = True
    code, output = check(bundle)
    assert code == 1
    assert first_finding(output) == "Entry 31 is said to be erased, but never had a private part."


# --- the ledger -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("by", [1, -1])
def test_a_total_that_is_off_by_one_is_named(by: int, check: Checked) -> None:
    bundle = full(COUNT)
    bundle.members["ledger.json"]["scopes"][0]["used"] += by
    code, output = check(bundle)
    assert code == 1
    assert first_finding(output) == (
        f"ledger.json says {20 * AMOUNT + by} nano_rdp were used of northfield/1; the entries add up to {20 * AMOUNT} "
        "(last charge: entry 95)."
    )


def test_a_total_without_charges_is_named(check: Checked) -> None:
    bundle = full(COUNT)
    bundle.members["ledger.json"]["scopes"].append(bundles.SCOPE | {"key": "lakeside/1", "used": 1})
    code, output = check(bundle)
    assert code == 1
    assert "lakeside/1; the entries add up to 0 (no entry charges it)." in output


def test_a_charge_to_a_budget_that_is_not_listed_is_named(check: Checked) -> None:
    bundle = full(COUNT)
    bundle.members["ledger.json"]["scopes"] = []
    code, output = check(bundle)
    assert code == 1
    assert first_finding(output) == "Entry 0 has a charge that is malformed or to a budget that ledger.json lacks."


def test_the_charge_that_overspends_is_named(check: Checked) -> None:
    bundle = full(COUNT)
    bundle.members["ledger.json"]["scopes"][0]["cap"] = 10 * AMOUNT
    code, output = check(bundle)
    assert code == 1
    assert first_finding(output) == f"Entry 50 takes northfield/1 to {11 * AMOUNT}; the limit is {10 * AMOUNT}."


def test_an_epsilon_above_the_limit_is_named(check: Checked) -> None:
    bundle = full(COUNT)
    bundle.members["ledger.json"]["scopes"][0]["epsilon"] = 0.5
    code, output = check(bundle)
    assert code == 1
    assert "northfield/1 has spent epsilon 0.94" in output


# --- unreadable bundles ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("missing", ["log.jsonl", "checkpoint.txt", "keys.json", "manifest.json", "ledger.json"])
def test_a_bundle_without_a_member_is_unreadable(
    missing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = full(5)
    members = {name: json.dumps(one) if isinstance(one, dict) else one for name, one in bundle.members.items()}
    members["log.jsonl"] = "".join(json.dumps(line) + "\n" for line in bundle.lines)
    del members[missing]
    path = tmp_path / "bundle.zip"
    path.write_bytes(bundles.raw(members))
    assert run(path) == 2
    assert "RESULT: NOT CHECKED." in capsys.readouterr().out


@pytest.mark.parametrize("name", ["checkpoint.txt", "keys.json", "manifest.json", "ledger.json"])
@pytest.mark.parametrize("content", ["", "{", "[]", "null", "7", '{"scopes": 3}', '{"kind": []}', "a\n1\nb\n\n"])
def test_nonsense_is_unreadable(name: str, content: str, check: Checked) -> None:
    bundle = full(5)
    bundle.members[name] = content
    code, output = check(bundle)
    assert code == 2 or (name, code) == (
        "manifest.json",
        1,
    )  # a bundle that is not full is a partial one without proofs
    assert "RESULT: NOT" in output


def test_what_is_no_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bundle.zip"
    assert run(path) == 2
    path.write_bytes(b"PK nonsense")
    assert run(path) == 2
    good = full(5).write(path).read_bytes()
    path.write_bytes(good[: len(good) // 2])
    assert run(path) == 2
    middle = good.index(b"coordinator")
    path.write_bytes(good[:middle] + b"C" + good[middle + 1 :])
    assert run(path) == 2
    assert capsys.readouterr().out.count("RESULT: NOT CHECKED.") == 4


# --- outside the project --------------------------------------------------------------------------------------------
def test_it_runs_alone(tmp_path: Path) -> None:
    """A copy in a folder of its own, with nothing of the project on the path."""
    script = tmp_path / "verify_audit.py"
    script.write_bytes(SOURCE.read_bytes())
    bundle = full(COUNT)
    bundle.write(tmp_path / "good.zip")
    bundle.change(42, outcome="denied")
    bundle.write(tmp_path / "bad.zip")

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "verify_audit.py", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env={"LANG": "C"})

    good, bad, none = python("good.zip"), python("bad.zip"), python("no.zip")
    assert (good.returncode, bad.returncode, none.returncode) == (0, 1, 2), good.stderr + bad.stderr + none.stderr
    assert "RESULT: GOOD" in good.stdout and "Entry 42 was changed" in bad.stdout
    assert not good.stderr + bad.stderr + none.stderr


def test_it_is_short_and_imports_nothing_but_the_standard_library_and_cryptography() -> None:
    text = SOURCE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    tree = ast.parse(text, feature_version=(3, 9))
    names = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert names <= sys.stdlib_module_names | {"cryptography"}
