#!/usr/bin/env python3
"""Checks an exported evidence log offline: ``python3 verify_audit.py bundle.zip``.

Needs Python 3.9 or later and the package ``cryptography`` with ML-DSA; no network, no database, nothing of the system
that made the export. ``docs/audit-export.md`` describes the bundle, and ``--help`` the options.
Exit code 0: everything that was checked is as signed. 1: something is not. 2: the bundle cannot be read.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import math
import operator
import pathlib
import re
import sys
import time
import zipfile
import zlib
from typing import Any, NamedTuple

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa
except ImportError:
    sys.stdout.write("RESULT: NOT CHECKED. This needs the Python package cryptography, in a version with ML-DSA.\n")
    sys.exit(2)

UNREADABLE: tuple[type[Exception], ...] = (OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError)
UNREADABLE += (AttributeError, ArithmeticError, zipfile.BadZipFile, zlib.error)
SHOWN = 20  # findings that are printed; the rest is counted
ED25519_NOTE, ED25519_COSIGNATURE = b"\x01", b"\x04"  # types of C2SP signed-note
MLDSA_NOTE, MLDSA_COSIGNATURE = b"\xfffdrouter/ml-dsa-65", b"\xfffdrouter/ml-dsa-65/cosignature"


class Unreadable(ValueError):
    """The bundle is not one, or what was asked for cannot be answered from it."""


def say(text: str) -> None:
    sys.stdout.write(text + "\n")


def raw(text: Any) -> bytes:
    """The bytes of base64 in its one spelling."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("not canonical base64")
    return data


# --- the tree (RFC 6962, section 2.1) -------------------------------------------------------------------------------
def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


class Tree:
    """The roots of complete subtrees from left to right, with their sizes: enough to go on and to tell the root."""

    def __init__(self, hashes: Any = ()) -> None:
        self.parts: list[tuple[int, bytes]] = []
        for value in hashes:
            self.add(value)

    def add(self, value: bytes) -> None:
        size = 1
        while self.parts and self.parts[-1][0] == size:
            value, size = node_hash(self.parts.pop()[1], value), size * 2
        self.parts.append((size, value))

    def root(self) -> bytes:
        found = self.parts[-1][1] if self.parts else hashlib.sha256(b"").digest()
        for _, left in reversed(self.parts[:-1]):
            found = node_hash(left, found)
        return found


def climb(index: int, size: int, leaf: bytes, proof: list[bytes]) -> bytes:
    """The root to which an inclusion proof leads (IndexError: it is too short)."""
    if size == 1:
        return b"" if proof else leaf
    half = 1 << (size - 1).bit_length() - 1
    if index < half:
        return node_hash(climb(index, half, leaf, proof[:-1]), proof[-1])
    return node_hash(proof[-1], climb(index - half, size - half, leaf, proof[:-1]))


# --- checkpoints (C2SP signed-note, tlog-checkpoint, tlog-cosignature) ----------------------------------------------
class Key(NamedTuple):
    name: str
    ed25519: bytes
    mldsa65: bytes

    def id(self, kind: bytes) -> bytes:
        """The four bytes by which a signature line names this key and the type of the signature."""
        public = self.ed25519 if kind in (ED25519_NOTE, ED25519_COSIGNATURE) else self.mldsa65
        return hashlib.sha256(self.name.encode() + b"\n" + kind + public).digest()[:4]

    def holds(self, kind: bytes, signature: bytes, message: bytes) -> bool:
        """Whether the signature of this type is the key's."""
        try:
            if kind in (ED25519_NOTE, ED25519_COSIGNATURE):
                ed25519.Ed25519PublicKey.from_public_bytes(self.ed25519).verify(signature, message)
            else:
                mldsa.MLDSA65PublicKey.from_public_bytes(self.mldsa65).verify(signature, message, kind[1:])
        except (InvalidSignature, ValueError):
            return False
        return True


class Checkpoint:
    """A note: what it says, and who signed it."""

    def __init__(self, text: str) -> None:
        try:
            head, gap, tail = text.rpartition("\n\n")
            self.origin, size, root = head.split("\n")
            self.size, self.root, self.body = int(size), raw(root), head + "\n"
            lines = [line.split(" ") for line in tail[:-1].split("\n")]
            self.lines = [(name, raw(data)) for dash, name, data in lines if dash == "\u2014"]
            good = gap and tail[-1:] == "\n" and re.fullmatch("0|[1-9][0-9]{0,18}", size) and len(self.root) == 32
        except ValueError:
            good = False
        if not good:
            raise Unreadable("A checkpoint is malformed.")

    def _signature(self, key: Key, kind: bytes) -> bytes:
        """The key's one signature of this type; empty if there is none, or more than one."""
        found = [data[4:] for name, data in self.lines if name == key.name and data[:4] == key.id(kind)]
        return found[0] if len(found) == 1 else b""

    def signed_by(self, key: Key) -> bool:
        """Whether it carries both signatures of the log."""
        kinds, body = (ED25519_NOTE, MLDSA_NOTE), self.body.encode()
        return self.origin == key.name and all(key.holds(kind, self._signature(key, kind), body) for kind in kinds)

    def cosigned_by(self, key: Key) -> int | None:
        """When the witness cosigned it; 0: it did not; None: a cosignature in its name is wrong."""
        classical, safe = self._signature(key, ED25519_COSIGNATURE), self._signature(key, MLDSA_COSIGNATURE)
        if not classical and not safe:
            return 0
        at, name, origin = int.from_bytes(safe[:8], "big"), key.name.encode(), self.origin.encode()
        timed = f"cosignature/v1\ntime {at}\n{self.body}".encode()
        message = b"subtree/v1\n\x00" + bytes([len(name)]) + name + safe[:8] + bytes([len(origin)]) + origin
        message += bytes(8) + self.size.to_bytes(8, "big") + self.root
        good = key.holds(ED25519_COSIGNATURE, classical[8:], timed) and key.holds(MLDSA_COSIGNATURE, safe[8:], message)
        return at if good and classical[:8] == safe[:8] and 0 < at < 253402300800 else None  # the year 10000


# --- the audit ------------------------------------------------------------------------------------------------------
class Audit:
    """One bundle. ``found`` holds what is wrong: the entry's index (None: the whole log), and a sentence."""

    def __init__(self, bundle: zipfile.ZipFile, keys: Any, previous: list[str]) -> None:
        self.bundle, self.names = bundle, bundle.namelist()
        self.found: list[tuple[int | None, str]] = []
        manifest, scopes = json.loads(self.member("manifest.json")), json.loads(self.member("ledger.json"))["scopes"]
        keys = keys or json.loads(self.member("keys.json"))
        known = [keys["origin"], *keys["witnesses"]]
        self.key, *self.witnesses = [Key(one["name"], raw(one["ed25519"]), raw(one["mldsa65"])) for one in known]
        self.checkpoint = Checkpoint(self.member("checkpoint.txt"))
        kept = [self.member(name) for name in self.names if re.fullmatch(r"history/[^/]+\.txt", name)]
        self.full = manifest["kind"] == "full"
        self.bounds = [0, self.checkpoint.size - 1] if self.full else manifest.get("range")
        self.earlier = [Checkpoint(text) for text in (kept if self.full else []) + previous]
        if not self.full and any(one.size < self.checkpoint.size for one in self.earlier):
            raise Unreadable("A partial export cannot be compared with earlier checkpoints. Ask for a full one.")
        self.tree, self.stored, self.stored_good = Tree(), b"", False
        self.good_size, self.bad_size = 0, 0  # of earlier checkpoints: the last that agrees, the first that does not
        self.differing: list[tuple[int, bytes]] = []
        self.counts = {"entries": 0, "committed": 0, "opened": 0, "erased": 0, "charges": 0}
        self.totals: dict[tuple[str, str], tuple[int, int | None]] = {}
        self.scopes = {(one["key"], one["unit"]): one for one in scopes}

    def member(self, name: str) -> str:
        if self.names.count(name) != 1:
            raise Unreadable(f"The bundle has no {name}, or more than one.")
        return self.bundle.read(name).decode()

    def wrong(self, index: int | None, text: str) -> None:
        self.found.append((index, text))

    # --- signatures
    def signatures(self) -> None:
        point = self.checkpoint
        say(f"Log {point.origin}: {point.size} entries, root {point.root.hex()}.")
        if not point.signed_by(self.key):
            self.wrong(None, "The checkpoint is not signed by the log: one of its two signatures is missing or wrong.")
        told = []
        for witness in self.witnesses:
            at = point.cosigned_by(witness)
            if at is None:
                self.wrong(None, f"A cosignature in the name of {witness.name} is wrong.")
            elif at:
                told.append(f"{witness.name} ({time.strftime('%Y-%m-%d %H:%M', time.gmtime(at))} UTC)")
        say(f"Cosigned by {len(told)} of {len(self.witnesses)} witnesses{': ' if told else '.'}{', '.join(told)}")
        for one in self.earlier:
            if not one.signed_by(self.key):
                self.wrong(None, f"An earlier checkpoint (size {one.size}) is not signed by this log.")
            elif one.size > point.size:
                self.wrong(None, f"The checkpoint is an old one: {one.size} entries were signed before it.")
            elif one.size == point.size and one.root != point.root:
                self.wrong(None, f"The log has two histories: {one.size} entries were signed with two different roots.")

    # --- stored hashes: with them a changed entry can be named, not only noticed
    def stored_hashes(self) -> None:
        levels: list[bytes] = []
        while self.full and f"tiles/{len(levels)}" in self.names and self.checkpoint.size >> 8 * len(levels):
            count = self.checkpoint.size >> 8 * len(levels)
            levels.append(self.bundle.read(f"tiles/{len(levels)}")[: 32 * count])
        edge: list[bytes] = []
        for level in levels:
            places = [level[at : at + 32] for at in range(len(level) // 8192 * 8192, len(level), 32)] + edge
            edge = [Tree(places).root()] if places else []
        self.stored = levels[0] if levels else b""
        self.stored_good = bool(edge) and edge[0] == self.checkpoint.root
        for depth in range(len(levels) - 1, 0, -1):
            for nth in range(len(levels[depth]) // 32):
                tile = levels[depth - 1][8192 * nth : 8192 * nth + 8192]
                if Tree(tile[at : at + 32] for at in range(0, len(tile), 32)).root() != levels[depth][32 * nth :][:32]:
                    low, high = nth * 256**depth, (nth + 1) * 256**depth - 1
                    self.wrong(low, f"A stored hash over entries {low} to {high} is not the one above it.")

    # --- entries
    def entries(self) -> None:
        sizes: dict[int, list[Checkpoint]] = {}
        for one in self.earlier:
            if one.size < self.checkpoint.size and one.signed_by(self.key):
                sizes.setdefault(one.size, []).append(one)
        expected = self.bounds[0] if self.bounds else 0
        with self.bundle.open("log.jsonl") as file:
            for number, text in enumerate(file, start=1):
                try:
                    line = json.loads(text)
                    index, leaf = line["index"], json.loads(line["leaf"])
                    one_spelling = json.dumps(leaf, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
                    if type(index) is not int or index < 0 or leaf["v"] != 1 or one_spelling != line["leaf"]:
                        raise ValueError("not an entry")
                    value, commitment = leaf_hash(line["leaf"].encode()), leaf["commitment"]
                    moves = leaf["details"].get("ledger", [])
                except UNREADABLE:
                    self.wrong(expected, f"Line {number} of log.jsonl, where entry {expected} belongs, is no entry.")
                    continue
                self.place(index, expected)
                self.counts["entries"] += 1
                self.entry(index, value, line)
                self.private(index, commitment, line)
                self.charges(index, moves)
                expected = max(expected, index + 1)
                for one in sizes.pop(self.counts["entries"], []) if self.full else []:
                    self.compare(one, self.tree.root())
        if self.bounds and expected <= self.bounds[1]:
            self.wrong(expected, f"Entries {expected} to {self.bounds[1]} are missing at the end.")

    def place(self, index: int, expected: int) -> None:
        if index >= self.checkpoint.size:
            self.wrong(index, f"Entry {index} is not covered: the checkpoint is over {self.checkpoint.size} entries.")
        elif index < expected:
            self.wrong(index, f"Entry {index} comes again or out of order, after entry {expected - 1}.")
        elif self.bounds and index > expected:
            missing = f"Entries {expected} to {index - 1} are" if index - 1 > expected else f"Entry {expected} is"
            self.wrong(expected, f"{missing} missing.")

    def entry(self, index: int, value: bytes, line: Any) -> None:
        if self.full:
            self.tree.add(value)
            if self.stored[32 * index : 32 * index + 32] not in (b"", value):
                self.differing.append((index, value))
            return
        try:
            good = climb(index, self.checkpoint.size, value, [raw(one) for one in line["proof"]])
        except UNREADABLE:
            good = b""
        if good != self.checkpoint.root:
            self.wrong(index, f"Entry {index} was changed or never in the log: its proof does not lead to the root.")

    def compare(self, earlier: Checkpoint, root: bytes) -> None:
        if earlier.root == root:
            self.good_size = earlier.size
        elif not self.bad_size:  # later ones differ because this one does
            self.bad_size = earlier.size
            text = f"The log has another history: its first {earlier.size} entries are not those once signed"
            self.wrong(None, f"{text}; the first different one is between {self.good_size} and {earlier.size - 1}.")

    def whole(self) -> None:
        """After all entries: the root, and which of an entry and its stored hash is the wrong one."""
        point, good = self.checkpoint, not self.full or self.tree.root() == self.checkpoint.root
        for index, value in self.differing[:5]:  # the rest would say the same
            at = self.stored.find(value) if self.stored_good else -1
            if good:
                text = f"The stored hash of entry {index} was changed; the entry itself is as signed."
            elif at >= 0 and at % 32 == 0:
                text = f"Entry {index} holds what was signed as entry {at // 32}: one was moved, taken out or added."
            else:
                text = f"Entry {index} was changed: it does not have the hash with which it was put into the log."
            self.wrong(index, text)
        if not good:
            span = f"; the first wrong entry is between {self.good_size} and {(self.bad_size or point.size) - 1}"
            self.wrong(None, f"The entries do not lead to the signed root{'' if self.found else span}.")

    # --- private parts
    def private(self, index: int, commitment: Any, line: Any) -> None:
        """The part that may name a patient is not in the log itself, only its commitment under a key of its own."""
        part, key, erased = line.get("private"), line.get("key"), line.get("erased", False)
        self.counts["committed"] += commitment is not None
        if part is None and key is None:
            self.counts["erased"] += erased is True
            if erased and commitment is None:
                self.wrong(index, f"Entry {index} is said to be erased, but never had a private part.")
            return
        try:
            good = hmac.new(raw(key), part.encode(), hashlib.sha256).hexdigest() == commitment
        except UNREADABLE:
            good = False
        self.counts["opened"] += good
        if erased:
            self.wrong(index, f"Entry {index} is said to be erased, but its private part or key is still there.")
        elif not good:
            self.wrong(index, f"The private part of entry {index} is not the one that was committed to.")

    # --- the privacy ledger
    def charges(self, index: int, moves: Any) -> None:
        try:
            for move in moves:
                place, amount = (move["key"], move["unit"]), move["amount"]
                scope, total = self.scopes[place], self.totals.get(place, (0, None))[0] + operator.index(amount)
                self.totals[place] = (total, index)
                self.counts["charges"] += 1
                if self.full and scope.get("alpha") is not None and not 0 <= total <= scope["cap"]:
                    self.wrong(index, f"Entry {index} takes {place[0]} to {total}; the limit is {scope['cap']}.")
        except UNREADABLE:
            self.wrong(index, f"Entry {index} has a charge that is malformed or to a budget that ledger.json lacks.")

    def recomputed(self) -> None:
        told = "" if self.full else " Totals can only be recomputed from a full export."
        say(f"Ledger: {self.counts['charges']} charges to {len(self.scopes)} budgets, added up from the entries.{told}")
        for (key, unit), scope in sorted(self.scopes.items()) if self.full else []:
            total, last = self.totals.get((key, unit), (0, None))
            if total != scope["used"]:
                text = f"ledger.json says {scope['used']} {unit} were used of {key}; the entries add up to {total}"
                self.wrong(last, f"{text} ({'no entry charges it' if last is None else f'last charge: entry {last}'}).")
            told, alpha, delta = f"  {key}: {total} of {scope['cap']} {unit}", scope.get("alpha"), scope.get("delta")
            if total and unit == "nano_rdp" and alpha:  # Canonne, Kamath and Steinke 2020, proposition 12
                spent = max(0, total * 1e-9 + math.log1p(-1 / alpha) - math.log(alpha * delta) / (alpha - 1))
                told += f"; epsilon at most {math.ceil(spent * 1e4) / 1e4} at delta {delta:g}"
                if spent > scope["epsilon"] * (1 + 1e-9):
                    self.wrong(last, f"{key} has spent epsilon {spent:.4f}; its limit is {scope['epsilon']}.")
            say(told + ".")

    # --- the result
    def result(self, trusted: bool) -> int:
        count, ordered = self.counts, sorted(self.found, key=lambda one: (one[0] is None, one[0] or 0))
        part = f"a {'range' if self.bounds else 'selection'} of the log, and other entries are not in it"
        say(f"Read {count['entries']} entries ({'the whole log' if self.full else part}).")
        away = count["committed"] - count["opened"] - count["erased"]
        say(f"Private parts: {count['opened']} as committed, {count['erased']} erased, {away} not in this export.")
        if not trusted:
            say("The keys came with the bundle. Compare these fingerprints with what the parties told you themselves:")
        for key in [self.key, *self.witnesses]:
            say(f"  {key.name}: {hashlib.sha256(key.ed25519 + key.mldsa65).hexdigest()}")
        good = "RESULT: GOOD. Both signatures of the log hold, and everything that was checked is as it was signed."
        say(f"RESULT: NOT GOOD. {len(ordered)} findings, the first entry first (up to {SHOWN}):" if ordered else good)
        for _, text in ordered[:SHOWN]:
            say(f"  - {text}")
        return 1 if ordered else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Checks an exported evidence log offline.")
    parser.add_argument("bundle")
    parser.add_argument("--keys", help="keys that you trust, in the format of keys.json")
    parser.add_argument("--previous", action="append", default=[], help="a checkpoint that you kept")
    asked = parser.parse_args(arguments)
    try:
        keys = json.loads(pathlib.Path(asked.keys).read_text(encoding="utf-8")) if asked.keys else None
        previous = [pathlib.Path(name).read_text(encoding="utf-8") for name in asked.previous]
        with zipfile.ZipFile(asked.bundle) as bundle:
            audit = Audit(bundle, keys, previous)
            audit.signatures()
            audit.stored_hashes()
            audit.entries()
            audit.whole()
            audit.recomputed()
            return audit.result(trusted=keys is not None)
    except UNREADABLE as error:
        why = error if isinstance(error, Unreadable) else f"The bundle cannot be read ({type(error).__name__})."
        say(f"RESULT: NOT CHECKED. {why}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
