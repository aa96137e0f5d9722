"""Signed checkpoints: C2SP's formats, and everything that is no signature of this log or this witness."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st

from compliance.merkle import notes, proofs, tiles
from compliance.merkle.hashing import EMPTY_ROOT
from compliance.merkle.notes import Checkpoint, Key, NoteInvalid, Signer
from tests.compliance.merkle.keys import signer
from tests.compliance.merkle.stores import filled

LOG, WITNESS, STRANGER = "coordinator", "northfield", "stranger"
AT = 1_679_315_147
ROOT = bytes(range(32))
POINT = Checkpoint(LOG, 20_852_163, ROOT)


@pytest.fixture
def note() -> str:
    return notes.sign(POINT, signer(LOG))


@pytest.fixture
def cosigned(note: str) -> str:
    return notes.cosign(note, signer(WITNESS), AT)


def lines(note: str) -> list[str]:
    return note.split("\n\n")[1].splitlines(keepends=True)


def with_lines(note: str, signatures: list[str]) -> str:
    return note.split("\n\n")[0] + "\n\n" + "".join(signatures)


# --- formats --------------------------------------------------------------------------------------------------------
def test_the_key_and_signature_of_go_s_note_package() -> None:
    """The example of golang.org/x/mod/sumdb/note, with its published private key."""
    secret = base64.b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")
    private = ed25519.Ed25519PrivateKey.from_private_bytes(secret[1:])
    text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    public = private.public_key().public_bytes_raw()
    assert base64.b64encode(b"\x01" + public) == b"ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    key_id = notes.key_id("PeterNeumann", notes.ED25519_NOTE, public)
    assert key_id.hex() == "c74f20a3"
    wanted = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    assert base64.b64encode(key_id + private.sign(text.encode())).decode() == wanted


def test_the_lines_of_a_note(note: str) -> None:
    assert note.startswith("coordinator\n20852163\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n\n\u2014 coordinator ")
    classical, quantum_safe = (base64.b64decode(line.split(" ")[2]) for line in lines(note))
    key = signer(LOG).key
    assert classical[:4] == notes.key_id(LOG, b"\x01", key.ed25519.public_bytes_raw())
    key.ed25519.verify(classical[4:], POINT.body().encode())
    assert quantum_safe[:4] == notes.key_id(LOG, b"\xfffdrouter/ml-dsa-65", key.mldsa65.public_bytes_raw())
    key.mldsa65.verify(quantum_safe[4:], POINT.body().encode(), b"fdrouter/ml-dsa-65")


def test_the_lines_of_a_cosignature(cosigned: str) -> None:
    classical, quantum_safe = (base64.b64decode(line.split(" ")[2]) for line in lines(cosigned)[2:])
    key = signer(WITNESS).key
    assert classical[:4] == notes.key_id(WITNESS, b"\x04", key.ed25519.public_bytes_raw())
    assert classical[4:12] == quantum_safe[4:12] == AT.to_bytes(8, "big")
    key.ed25519.verify(classical[12:], f"cosignature/v1\ntime {AT}\n{POINT.body()}".encode())
    message = b"subtree/v1\n\0" + b"\x0anorthfield" + AT.to_bytes(8, "big") + b"\x0bcoordinator"
    message += (0).to_bytes(8, "big") + POINT.size.to_bytes(8, "big") + ROOT
    key.mldsa65.verify(quantum_safe[12:], message, b"fdrouter/ml-dsa-65/cosignature")


def test_round_trip(note: str, cosigned: str) -> None:
    assert notes.open_checkpoint(note, signer(LOG).key) == POINT
    assert notes.open_checkpoint(cosigned, signer(LOG).key) == POINT
    assert notes.read_checkpoint(cosigned) == POINT
    assert notes.cosigned_by(note, signer(WITNESS).key) is None
    assert notes.cosigned_by(cosigned, signer(WITNESS).key) == AT


def test_many_witnesses_and_a_later_cosignature(note: str) -> None:
    names = [f"hospital-{nth}" for nth in range(20)]
    for nth, name in enumerate(names):
        note = notes.cosign(note, signer(name), AT + nth)
    assert [notes.cosigned_by(note, signer(name).key) for name in names] == [AT + nth for nth in range(20)]
    again = notes.cosign(note, signer(names[3]), AT + 99)
    assert notes.cosigned_by(again, signer(names[3]).key) == AT + 99
    assert len(lines(again)) == len(lines(note)) == 42
    assert notes.open_checkpoint(again, signer(LOG).key) == POINT


def test_lines_of_unknown_keys_are_ignored(note: str) -> None:
    found = with_lines(note, [f"\u2014 example.com/a {base64.b64encode(b'1234567').decode()}\n", *lines(note)])
    assert notes.open_checkpoint(found, signer(LOG).key) == POINT


def test_a_log_may_witness_itself(note: str) -> None:
    """One name and one pair of keys: the types keep the four signatures apart."""
    found = notes.cosign(note, signer(LOG), AT)
    assert notes.open_checkpoint(found, signer(LOG).key) == POINT
    assert notes.cosigned_by(found, signer(LOG).key) == AT
    own = lines(found)
    assert notes.cosigned_by(with_lines(note, own[:2]), signer(LOG).key) is None
    with pytest.raises(NoteInvalid):
        notes.open_checkpoint(with_lines(note, own[2:]), signer(LOG).key)


def of_another_log() -> str:
    """A checkpoint of the log ``other`` with both signatures of this one."""
    key, body = signer(LOG), Checkpoint("other", POINT.size, ROOT).body()
    classical = notes._line(key.key, notes.ED25519_NOTE, key.ed25519.sign(body.encode()))
    signature = key.mldsa65.sign(body.encode(), notes.MLDSA65_NOTE[1:])
    return f"{body}\n{classical}{notes._line(key.key, notes.MLDSA65_NOTE, signature)}"


# --- refusals -------------------------------------------------------------------------------------------------------
def refused(note: str, key: Key | None = None) -> None:
    with pytest.raises(NoteInvalid):
        notes.open_checkpoint(note, key or signer(LOG).key)


@pytest.mark.parametrize("missing", [0, 1])
def test_one_signature_is_none(missing: int, note: str, cosigned: str) -> None:
    kept = lines(note)
    del kept[missing]
    refused(with_lines(note, kept))
    kept = lines(cosigned)
    del kept[2 + missing]
    assert notes.cosigned_by(with_lines(cosigned, kept), signer(WITNESS).key) is None


@pytest.mark.parametrize("swapped", [0, 1])
def test_a_signature_of_another_checkpoint_is_none(swapped: int, note: str, cosigned: str) -> None:
    other = notes.sign(Checkpoint(LOG, POINT.size + 1, ROOT), signer(LOG))
    kept = lines(note)
    kept[swapped] = lines(other)[swapped]
    refused(with_lines(note, kept))
    kept = lines(cosigned)
    kept[2 + swapped] = lines(notes.cosign(other, signer(WITNESS), AT))[2 + swapped]
    assert notes.cosigned_by(with_lines(cosigned, kept), signer(WITNESS).key) is None


def test_cosignatures_of_two_times_are_none(note: str, cosigned: str) -> None:
    later = notes.cosign(note, signer(WITNESS), AT + 1)
    kept = [*lines(cosigned)[:3], lines(later)[3]]
    assert notes.cosigned_by(with_lines(note, kept), signer(WITNESS).key) is None


def test_the_time_of_neither_cosignature_can_be_changed(note: str, cosigned: str) -> None:
    for nth in (2, 3):
        kept = lines(cosigned)
        name, data = kept[nth].split(" ")[1:]
        raw = base64.b64decode(data)
        raw = raw[:4] + (AT + 1).to_bytes(8, "big") + raw[12:]
        kept[nth] = f"\u2014 {name} {base64.b64encode(raw).decode()}\n"
        assert notes.cosigned_by(with_lines(note, kept), signer(WITNESS).key) is None


def test_a_checkpoint_of_another_log_is_none_though_the_key_signed_it() -> None:
    refused(of_another_log())


def test_a_signature_twice_is_none(note: str, cosigned: str) -> None:
    refused(with_lines(note, [*lines(note), lines(note)[0]]))
    assert notes.cosigned_by(with_lines(note, [*lines(cosigned), lines(cosigned)[2]]), signer(WITNESS).key) is None


def test_other_keys_and_names(note: str, cosigned: str) -> None:
    refused(note, signer(LOG, 2).key)
    refused(note, signer(STRANGER).key)
    log, other = signer(LOG).key, signer(LOG, 2).key
    refused(note, Key(LOG, log.ed25519, other.mldsa65))
    refused(note, Key(LOG, other.ed25519, log.mldsa65))
    refused(note, Key(STRANGER, log.ed25519, log.mldsa65))
    key = signer(WITNESS).key
    for wrong in (Key(STRANGER, key.ed25519, key.mldsa65), signer(WITNESS, 2).key, signer(STRANGER).key):
        assert notes.cosigned_by(cosigned, wrong) is None


def test_a_cosignature_is_not_another_name_s(note: str) -> None:
    """The lines of a witness under another name, with the key ids of that name: ML-DSA's message names the witness."""
    own = signer(WITNESS)
    renamed = Signer(STRANGER, own.ed25519, own.mldsa65)
    found = notes.cosign(note, own, AT)
    ids = {kind: notes._id(renamed.key, kind) for kind in (notes.ED25519_COSIGNATURE, notes.MLDSA65_COSIGNATURE)}
    taken = [base64.b64decode(line.split(" ")[2])[4:] for line in lines(found)[2:]]
    forged = [
        f"\u2014 {STRANGER} {base64.b64encode(key_id + signature).decode()}\n"
        for key_id, signature in zip(ids.values(), taken, strict=True)
    ]
    assert notes.cosigned_by(with_lines(note, [*lines(note), *forged]), renamed.key) is None


def test_every_changed_character_of_the_text_is_refused(cosigned: str) -> None:
    text = cosigned.split("\n\n")[0]
    for nth in range(len(text)):
        changed = text[:nth] + ("x" if text[nth] != "x" else "y") + text[nth + 1 :]
        refused(changed + cosigned[len(text) :])
        assert notes.cosigned_by(changed + cosigned[len(text) :], signer(WITNESS).key) is None


def test_changed_characters_of_signatures_are_refused(note: str) -> None:
    start = note.index("\u2014")
    for nth in (*range(start, start + 130), *range(start + 130, len(note), 97), len(note) - 2, len(note) - 1):
        refused(note[:nth] + ("B" if note[nth] != "B" else "C") + note[nth + 1 :])


def test_a_replayed_checkpoint_is_signed_but_not_consistent() -> None:
    """What signatures cannot show, consistency does: the reader keeps the last checkpoint that it believed."""
    store, key = filled(300), signer(LOG).key
    kept, old = (
        notes.open_checkpoint(notes.sign(Checkpoint(LOG, size, store.root(size)), signer(LOG)), key)
        for size in (300, 200)
    )
    proof = tiles.consistency(200, 300, store.read)
    assert proofs.verify_consistency(old.size, kept.size, proof, old.root, kept.root)
    assert not proofs.verify_consistency(kept.size, old.size, proof, kept.root, old.root)


MALFORMED = [
    "",
    "\n",
    "\n\n",
    "coordinator",
    "{body}",
    "{body}\n",
    "{body}{lines}",
    "\n{body}\n{lines}",
    "{body}extension\n\n{lines}",
    "{body}\n{lines}\n",
    "{body}\n{lines}more",
    "{body}\n\n{lines}",
    "{body}\n{unended}",
    "{body}\n-{lines}",
    "{body}\r\n{lines}",
    "{body}\n{lines}\u2014 a b\n",
    "{body}\n{lines}\u2014 a  AAAAAAA=\n",
    "{body}\n{lines}\u2014 a+b AAAAAAA=\n",
    "{body}\n{lines}\u2014 \u00a0 AAAAAAA=\n",
    "{body}\n{lines}\u2014 a AAAAAA==\n",
    "{body}\n{lines}\u2014 a AAAAAAB=\n",
    "{body}\n{lines}\u2014 a AAAAA AA=\n",
    "{body}\n{lines}\u2014 a\tAAAAAAA=\n",
    "{body}\n{lines}\x00",
    "{body}\n{lines}\ud800",
]


@pytest.mark.parametrize("shape", MALFORMED)
def test_malformed_notes(shape: str, note: str) -> None:
    signatures = "".join(lines(note))
    found = shape.format(body=POINT.body(), lines=signatures, unended=signatures[:-1])
    refused(found)
    with pytest.raises(NoteInvalid):
        notes.cosign(found, signer(WITNESS), AT)
    assert notes.cosigned_by(found, signer(WITNESS).key) is None


@pytest.mark.parametrize("size", ["00", "01", "-1", "+1", "1 ", "\u0661", "", "1.0", "9223372036854775808", "1_0"])
def test_sizes_have_one_spelling(size: str) -> None:
    body = f"{LOG}\n{size}\n{base64.b64encode(ROOT).decode()}\n"
    key = signer(LOG)
    made = f"{body}\n" + "".join(
        notes._line(key.key, kind, signature)
        for kind, signature in (
            (notes.ED25519_NOTE, key.ed25519.sign(body.encode())),
            (notes.MLDSA65_NOTE, key.mldsa65.sign(body.encode(), notes.MLDSA65_NOTE[1:])),
        )
    )
    refused(made)


@given(st.text(max_size=200))
def test_any_text_is_refused_and_nothing_else_is_raised(text: str) -> None:
    refused(text)
    assert notes.cosigned_by(text, signer(WITNESS).key) is None


@given(st.data())
def test_any_damage_is_refused(data: Any) -> None:
    note = notes.cosign(notes.sign(POINT, signer(LOG)), signer(WITNESS), AT)
    end = len(with_lines(note, lines(note)[:2]))
    start = data.draw(st.integers(0, end - 1))
    stop = data.draw(st.integers(start, min(end, start + 5)))
    put = data.draw(st.text(alphabet="ABab01=\n \u2014+/", max_size=5))
    if note[start:stop] == put:
        return
    changed = note[:start] + put + note[stop:]
    try:
        assert notes.open_checkpoint(changed, signer(LOG).key) == POINT
    except NoteInvalid:
        return
    assert changed.startswith(POINT.body())  # what was put in made lines of other names, which count for nothing


@pytest.mark.parametrize(
    "call",
    [
        lambda: Checkpoint("", 1, ROOT),
        lambda: Checkpoint("a b", 1, ROOT),
        lambda: Checkpoint("a+b", 1, ROOT),
        lambda: Checkpoint("a\nb", 1, ROOT),
        lambda: Checkpoint("a" * 256, 1, ROOT),
        lambda: Checkpoint("\u00fc" * 128, 1, ROOT),
        lambda: Checkpoint("a", -1, ROOT),
        lambda: Checkpoint("a", 2**63, ROOT),
        lambda: Checkpoint("a", 1, ROOT[1:]),
        lambda: Checkpoint("a", 0, ROOT),
        lambda: notes.sign(POINT, signer(STRANGER)),
        lambda: notes.cosign(notes.sign(POINT, signer(LOG)), signer(WITNESS), 0),
        lambda: notes.cosign(notes.sign(POINT, signer(LOG)), signer(WITNESS), 2**63),
        lambda: Key("a b", signer(LOG).key.ed25519, signer(LOG).key.mldsa65),
        lambda: Signer("a b", signer(LOG).ed25519, signer(LOG).mldsa65),
    ],
)
def test_what_cannot_be_signed(call: Any) -> None:
    with pytest.raises(ValueError):
        call()


def test_the_empty_log_and_a_name_of_many_scripts() -> None:
    point = Checkpoint("h\u00f4pital.example/\u0436", 0, EMPTY_ROOT)
    own = signer(point.origin)
    found = notes.cosign(notes.sign(point, own), signer(WITNESS), AT)
    assert notes.open_checkpoint(found, own.key) == point
    assert notes.cosigned_by(found, signer(WITNESS).key) == AT


def test_the_repr_of_a_signer_shows_no_key() -> None:
    assert repr(signer(LOG)) == "Signer('coordinator')"
