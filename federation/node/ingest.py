"""Taking in a folder of FHIR Bulk Data: incremental, resumable, and indifferent to broken lines.

Reads files in chunks; each chunk's rows and the file's new position are one transaction. A run that is killed leaves
a position to go on from and stale patients to remake, so running it again completes it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from django.db import connection, transaction
from django.db.backends.utils import CursorWrapper
from django.utils import timezone

from fdrouter.errors import Conflict, InvalidParameter
from federation.node import fhir, ndjson, store
from federation.node.models import IngestFile, IngestRun, Patient, Resource
from federation.node.rebuild import rebuild_stale

logger = logging.getLogger(__name__)

CHUNK = 4000
SAMPLES = 5
#: The server needs a moment to notice that a killed process is gone and to let its lock go.
LOCK_SECONDS = 3.0
_LOCK = 0x6664_0001
_SKIPPED = (store.UNKNOWN_PATIENT, store.UNKNOWN_REMOVED)


class Progress(Protocol):
    """What the ingest tells about its progress while it runs."""

    def begin(self, label: str, total: int) -> None:
        """A step starts: a file of ``total`` bytes, or ``total`` patients to index."""

    def advance(self, amount: int) -> None:
        """So much of the step is done."""


class Silent:
    """No progress display."""

    def begin(self, label: str, total: int) -> None:
        """Nothing."""

    def advance(self, amount: int) -> None:
        """Nothing."""


@dataclass(slots=True)
class Part:
    """What became of one file's lines."""

    taken: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    skipped: Counter[str] = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def skip(self, reason: str, place: str) -> None:
        """Counts one skipped line or file and keeps the first places of each reason."""
        self.skipped[reason] += 1
        if len(self.places[reason]) < SAMPLES:
            self.places[reason].append(place)


@dataclass(slots=True)
class Report:
    """What a run took, what it skipped, and why. Counts and places (``file:line``) only."""

    parts: dict[str, Part] = field(default_factory=dict)
    files_read: int = 0
    files_unchanged: int = 0
    lines: int = 0
    bytes: int = 0
    patients_indexed: int = 0
    patients: int = 0
    observations: int = 0
    seconds: float = 0.0

    @property
    def taken(self) -> dict[str, dict[str, int]]:
        """Resource type -> outcome -> count."""
        total: dict[str, Counter[str]] = {}
        for part in self.parts.values():
            for kind, counts in part.taken.items():
                total.setdefault(kind, Counter()).update(counts)
        return {kind: dict(total[kind]) for kind in fhir.TAKEN_TYPES if kind in total}

    @property
    def skipped(self) -> dict[str, dict[str, Any]]:
        """Reason -> its count and the first places, the most frequent reason first."""
        counts: Counter[str] = Counter()
        places: dict[str, list[str]] = defaultdict(list)
        for part in self.parts.values():
            counts.update(part.skipped)
            for reason, found in part.places.items():
                places[reason] = [*places[reason], *found][:SAMPLES]
        return {reason: {"count": count, "places": places[reason]} for reason, count in counts.most_common()}

    def summary(self) -> dict[str, Any]:
        """The figures that are not counts by type or reason."""
        names = ("files_read", "files_unchanged", "lines", "bytes", "patients_indexed", "patients", "observations")
        return {name: getattr(self, name) for name in names} | {"seconds": round(self.seconds, 2)}


def ingest(data_path: Path, progress: Progress | None = None) -> Report:
    """Takes in every ``*.ndjson`` under ``data_path`` and returns the report, which is stored as an ``IngestRun`` too.

    Raises:
        InvalidParameter: there is no such folder.
        Conflict: another ingest of this node is running.
    """
    shown, report, started = progress or Silent(), Report(), time.monotonic()
    try:
        files = ndjson.find_files(data_path)
    except NotADirectoryError:
        raise InvalidParameter("The data path is not a folder.", field="data_path") from None
    with exclusive(report) as run:
        for path in files:
            _take_file(path, data_path, report, shown)
        if report.taken.get("Patient", {}).get(store.NEW):
            _take_waiting(data_path, report, shown)
        shown.begin("Indexing patients", Patient.objects.filter(stale=True).count())
        report.patients_indexed = rebuild_stale(shown.advance)
        report.patients = Patient.objects.count()
        report.observations = Resource.objects.filter(resource_type="Observation").count()
        report.seconds = time.monotonic() - started
        run.state = IngestRun.State.DONE
    return report


@contextmanager
def exclusive(report: Report) -> Iterator[IngestRun]:
    """One ingest at a time. The session lock goes with its connection, so a run still marked as running was killed."""
    with connection.cursor() as cursor:
        deadline = time.monotonic() + LOCK_SECONDS
        while not _locked(cursor):
            if time.monotonic() > deadline:
                raise Conflict("Another ingest of this node is running.")
            time.sleep(0.1)
        try:
            now = timezone.now()
            IngestRun.objects.filter(state=IngestRun.State.RUNNING).update(
                state=IngestRun.State.FAILED, reason="killed", finished_at=now
            )
            run = IngestRun.objects.create()
            try:
                yield run
            except BaseException as error:
                run.state, run.reason = IngestRun.State.FAILED, type(error).__name__
                raise
            finally:
                _close(run, report)
        finally:
            cursor.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])


def _locked(cursor: CursorWrapper) -> bool:
    cursor.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK])
    return bool(cursor.fetchone()[0])


def _close(run: IngestRun, report: Report) -> None:
    run.finished_at = timezone.now()
    run.taken, run.skipped, run.summary = report.taken, report.skipped, report.summary()
    run.save()
    logger.info("records ingested", extra={"run": run.pk, "state": run.state, **run.summary})


def _take_file(path: Path, folder: Path, report: Report, shown: Progress) -> None:
    name = path.relative_to(folder).as_posix()
    try:
        digest, size = ndjson.digest_of(path), path.stat().st_size
        known, _ = IngestFile.objects.get_or_create(name=name[-255:], defaults={"digest": digest, "size": size})
        if bytes(known.digest) != digest:
            known.digest, known.size, known.offset, known.line, known.done = digest, size, 0, 0, False
        if known.done:
            report.files_unchanged += 1
            return
        _read(known, path, report, shown)
    except OSError:
        _part(report, name).skip("file_unreadable", name)


def _take_waiting(folder: Path, report: Report, shown: Progress) -> None:
    """Reads files again that had lines for patients who were unknown then and may be known now."""
    for known in IngestFile.objects.filter(waiting__gt=0, done=True).order_by("name"):
        path = folder / known.name
        known.offset, known.line, known.done = 0, 0, False
        before = report.parts.pop(known.name, None)
        try:
            _read(known, path, report, shown)
        except OSError:
            _part(report, known.name).skip("file_unreadable", known.name)
        if before is not None:
            _count_second_reading(_part(report, known.name), before)


def _count_second_reading(part: Part, before: Part) -> None:
    """The skipped lines are those of the second reading; of what it took only the news, or lines would count twice."""
    for kind in part.taken.keys() | before.taken.keys():
        again = part.taken[kind]
        part.taken[kind] = before.taken[kind] + Counter({store.NEW: again[store.NEW]})


def _part(report: Report, name: str) -> Part:
    return report.parts.setdefault(name, Part())


def _read(known: IngestFile, path: Path, report: Report, shown: Progress) -> None:
    """Reads a file from its stored position to its end, a chunk a transaction."""
    if known.offset == 0:
        known.waiting = 0
    shown.begin(known.name, known.size)
    shown.advance(known.offset)
    lines = ndjson.read_lines(path, offset=known.offset, number=known.line)
    while chunk := list(islice(lines, CHUNK)):
        start = known.offset
        with transaction.atomic():
            _take_chunk(chunk, known, report)
            known.offset, known.line = chunk[-1].end, chunk[-1].number
            known.save()
        report.lines += len(chunk)
        report.bytes += known.offset - start
        shown.advance(known.offset - start)
    known.done = True
    known.save()
    report.files_read += 1


def _take_chunk(chunk: list[ndjson.Line], known: IngestFile, report: Report) -> None:
    part = _part(report, known.name)
    parsed: list[tuple[int, fhir.Record]] = []
    for line in chunk:
        found = fhir.Skip("line_too_long") if line.content is None else fhir.parse_line(line.content)
        if isinstance(found, fhir.Skip):
            part.skip(found.reason, f"{known.name}:{line.number}")
        else:
            parsed.append((line.number, found))
    for (number, record), outcome in zip(parsed, store.store([record for _, record in parsed]), strict=True):
        if outcome in _SKIPPED:
            part.skip(outcome, f"{known.name}:{number}")
            known.waiting += outcome == store.UNKNOWN_PATIENT
        else:
            part.taken[record.resource_type][outcome] += 1
