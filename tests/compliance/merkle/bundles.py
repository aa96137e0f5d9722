"""Export bundles made with the pure package alone, and a run of the verifier on them."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compliance import verify_audit
from compliance.merkle import hashing, notes, tiles
from compliance.merkle.notes import Checkpoint
from tests.compliance.merkle.keys import document, signer
from tests.compliance.merkle.stores import Store

LOG, WITNESSES = "coordinator", ("lakeside", "northfield", "stmary")
AT = 1_790_000_000
KEY, UNIT = "northfield/1", "nano_rdp"
PRIVATE_EVERY, ERASED, CHARGE_EVERY, AMOUNT = 10, 20, 5, 1000
SCOPE = {"key": KEY, "unit": UNIT, "cap": 500_000_000, "alpha": 12.0, "epsilon": 3.0, "delta": 1e-6}


Checked = Callable[..., tuple[int, str]]


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def record_key(index: int) -> bytes:
    return hashlib.sha256(f"record key {index}".encode()).digest()


def private_part(index: int) -> str:
    return canonical({"patient": f"MRN {index}", "name": "J\u00e4rvinen"})


def entry(index: int, word: str = "request.submit") -> dict[str, Any]:
    """A line of ``log.jsonl``: every tenth has a private part, every fifth a charge, and entry 20 is erased."""
    line: dict[str, Any] = {"index": index}
    commitment = None
    if index % PRIVATE_EVERY == 0:
        commitment = hmac.new(record_key(index), private_part(index).encode(), hashlib.sha256).hexdigest()
        erased = {"erased": True}
        shown = {"private": private_part(index), "key": base64.b64encode(record_key(index)).decode()}
        line |= erased if index == ERASED else shown
    moves = [{"key": KEY, "unit": UNIT, "amount": AMOUNT}] if index % CHARGE_EVERY == 0 else None
    leaf = {
        "at": f"2026-11-27T18:{index // 60 % 60:02}:{index % 60:02}.000000Z",
        "actor": 7,
        "commitment": commitment,
        "department": "cardiology",
        "details": {"bytes": index, "note": "\u00fc"} | ({"ledger": moves} if moves else {}),
        "hospital": "northfield",
        "kind": word,
        "outcome": "ok",
        "purpose": "TREAT",
        "seq": 3 * index + 5,
        "subject": None,
        "v": 1,
    }
    return line | {"leaf": canonical(leaf)}


@dataclass
class Bundle:
    """The members of a bundle, to be changed before it is checked. ``lines`` are those of ``log.jsonl``."""

    lines: list[dict[str, Any]]
    members: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        log = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in self.lines)
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in ({"log.jsonl": log} | self.members).items():
                text = json.dumps(content) if isinstance(content, dict) else content
                archive.writestr(name, text)
        return path

    def change(self, index: int, **values: Any) -> None:
        """Edits the entry at place ``index`` of the file."""
        leaf = json.loads(self.lines[index]["leaf"]) | values
        self.lines[index]["leaf"] = canonical(leaf)

    def renumber(self) -> None:
        for nth, line in enumerate(self.lines):
            line["index"] = nth

    def restore_hashes(self) -> None:
        """What somebody with the whole database would do: stored hashes that fit the changed entries."""
        self.members |= levels(store_of(self.lines))


def store_of(lines: list[dict[str, Any]]) -> Store:
    store = Store()
    store.grow([hashing.leaf_hash(line["leaf"].encode()) for line in lines])
    return store


def checkpoint(store: Store, size: int, *, witnesses: int = 2, generation: int = 1) -> str:
    note = notes.sign(Checkpoint(LOG, size, store.root(size)), signer(LOG, generation))
    for nth, name in enumerate(WITNESSES[:witnesses]):
        note = notes.cosign(note, signer(name), AT + nth)
    return note


def levels(store: Store) -> dict[str, bytes]:
    """``tiles/0`` and so on: all the hashes of a level, one after another."""
    found: dict[str, bytes] = {}
    for level, index in sorted(store.tiles):
        found[f"tiles/{level}"] = found.get(f"tiles/{level}", b"") + store.tiles[level, index]
    return found


def keys() -> dict[str, Any]:
    return {"origin": document(LOG), "witnesses": [document(name) for name in WITNESSES]}


def full(count: int, *, history: tuple[int, ...] = (), stored: bool = True) -> Bundle:
    """A full export of ``count`` entries, with earlier checkpoints of the sizes in ``history``."""
    lines = [entry(index) for index in range(count)]
    store = store_of(lines)
    used = AMOUNT * len(range(0, count, CHARGE_EVERY))
    members: dict[str, Any] = {
        "checkpoint.txt": checkpoint(store, count),
        "keys.json": keys(),
        "manifest.json": {"v": 1, "log": LOG, "kind": "full", "size": count},
        "ledger.json": {"scopes": [SCOPE | {"used": used}]},
    }
    members |= {f"history/{size:020}.txt": checkpoint(store, size, witnesses=0) for size in history}
    return Bundle(lines, members | (levels(store) if stored else {}))


def partial(count: int, chosen: list[int], *, bounds: list[int] | None = None) -> Bundle:
    """A partial export of the entries ``chosen``, each with its proof."""
    whole = full(count, stored=False)
    store = store_of(whole.lines)
    lines = []
    for index in chosen:
        proof = [base64.b64encode(one).decode() for one in tiles.inclusion(index, count, store.read)]
        lines.append(whole.lines[index] | {"proof": proof})
    manifest = {"v": 1, "log": LOG, "kind": "partial", "size": count, "range": bounds}
    return Bundle(lines, whole.members | {"manifest.json": manifest})


def raw(members: dict[str, bytes | str]) -> bytes:
    """A zip of these members alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def run(path: Path, *options: str) -> int:
    return verify_audit.main([str(path), *options])


def checker(folder: Path) -> Checked:
    """A function that gives exit code and output of the verifier on a bundle."""

    def check(bundle: Bundle, *options: str) -> tuple[int, str]:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            code = run(bundle.write(folder / "bundle.zip"), *options)
        return code, output.getvalue()

    return check


def first_finding(output: str) -> str:
    return output.partition("RESULT: NOT GOOD")[2].splitlines()[1].removeprefix("  - ")
