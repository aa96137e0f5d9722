"""What the result of a step depends on, so that a second start skips the steps whose inputs did not change."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from fdrouter.demo.layout import PROJECT

PACKAGES = ("fdrouter", "accounts", "privacy", "federation", "compliance")


def of_files(files: Iterable[Path], *extra: str) -> str:
    """A digest of the files' names and contents and of some words."""
    digest = hashlib.sha256()
    for word in extra:
        digest.update(word.encode() + b"\0")
    for file in sorted(files):
        digest.update(str(file).encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def migrations() -> list[Path]:
    """Every migration and the SQL it applies."""
    return [
        file
        for package in PACKAGES
        for pattern in ("**/migrations/*.py", "**/sql/*.sql")
        for file in (PROJECT / package).glob(pattern)
    ]


def code(*folders: str) -> list[Path]:
    """Every source file under the folders, paths from the project's root."""
    return [file for folder in folders for file in (PROJECT / folder).rglob("*.py")]


def stat(files: Iterable[Path]) -> list[str]:
    """Names, sizes and times instead of contents, for large files."""
    described = []
    for file in sorted(files):
        facts = file.stat()
        described.append(f"{file}:{facts.st_size}:{facts.st_mtime_ns}")
    return described


class Stamp:
    """Remembers with which fingerprint a step was done last."""

    def __init__(self, folder: Path, name: str, fingerprint: str) -> None:
        self._file = folder / name
        self._fingerprint = fingerprint

    @property
    def current(self) -> bool:
        try:
            return self._file.read_text(encoding="ascii") == self._fingerprint
        except OSError:
            return False

    def set(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._file.write_text(self._fingerprint, encoding="ascii")
