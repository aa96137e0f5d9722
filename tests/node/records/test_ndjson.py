"""Files are read with bounded memory, from any line on, patients first."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.node import ndjson
from tests.node.records import lines


def test_an_overlong_line_is_reported_and_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ndjson, "MAX_LINE", 50)
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"first\n" + b"x" * 500 + b"\n\n  \nlast")
    found = [(line.number, line.content) for line in ndjson.read_lines(path)]
    assert found == [(1, b"first"), (2, None), (5, b"last")]


def test_a_line_of_exactly_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ndjson, "MAX_LINE", 5)
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"12345\n123456\n12345")
    assert [line.content for line in ndjson.read_lines(path)] == [b"12345", None, b"12345"]


def test_reading_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\nthree")
    every = list(ndjson.read_lines(path))
    assert [line.content for line in every] == [b"one", b"two", b"three"]
    for place, line in enumerate(every):
        assert list(ndjson.read_lines(path, offset=line.end, number=line.number)) == every[place + 1 :]


def test_files_with_patients_come_first_whatever_their_name(tmp_path: Path) -> None:
    lines.write(tmp_path / "a.ndjson", [lines.condition("c", "p")])
    lines.write(tmp_path / "z.ndjson", [lines.patient("p")])
    (tmp_path / "deep").mkdir()
    lines.write(tmp_path / "deep" / "m.ndjson", [lines.note("d", "p", "text")])
    (tmp_path / "folder.ndjson").mkdir()
    assert [path.name for path in ndjson.find_files(tmp_path)] == ["z.ndjson", "a.ndjson", "m.ndjson"]
