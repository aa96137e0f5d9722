"""Files of a bulk export, read line by line with bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_LINE = 8 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_CHUNK = 1 << 20
#: Patients first: a resource is taken only when its patient is known.
_ORDER = (b'"Patient"', b'"Encounter"', b'"Condition"')


@dataclass(frozen=True, slots=True)
class Line:
    """``content`` is ``None`` for a line longer than ``MAX_LINE``; ``end`` is the offset of the next line."""

    number: int
    end: int
    content: bytes | None


def find_files(folder: Path) -> list[Path]:
    """Every ``*.ndjson`` under ``folder`` that is a plain file, those that start with patients first, then by name.

    Raises:
        NotADirectoryError: there is no such folder.
    """
    if not folder.is_dir():
        raise NotADirectoryError(str(folder))
    files = [path for path in folder.rglob("*.ndjson") if path.is_file()]
    return sorted(files, key=lambda path: (_rank(path), path.relative_to(folder).as_posix()))


def _rank(path: Path) -> int:
    """The place of the first line's type in ``_ORDER``; files that cannot be read go last and are reported there."""
    try:
        with path.open("rb") as file:
            head = file.read(400).split(b"\n")[0].replace(b" ", b"")
    except OSError:
        return len(_ORDER) + 1
    return next((i for i, kind in enumerate(_ORDER) if b'"resourceType":' + kind in head), len(_ORDER))


def digest_of(path: Path) -> bytes:
    """SHA-256 of the whole file, 32 bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def read_lines(path: Path, *, offset: int = 0, number: int = 0) -> Iterator[Line]:
    """The lines after ``offset`` bytes and ``number`` lines, blank ones left out."""
    with path.open("rb") as file:
        file.seek(offset)
        while chunk := file.readline(MAX_LINE + 1):
            number += 1
            content: bytes | None = chunk
            if len(chunk) > MAX_LINE and not chunk.endswith(b"\n"):
                content = None
                while (chunk := file.readline(_CHUNK)) and not chunk.endswith(b"\n"):
                    pass
            elif number == 1 and chunk.startswith(_BOM):
                content = chunk[len(_BOM) :]
            if content is None or content.strip():
                yield Line(number=number, end=file.tell(), content=content.strip() if content else None)
