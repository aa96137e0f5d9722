"""Evidence about the log itself: what it holds, whether it is whole, and whether it can be changed."""

from __future__ import annotations

from typing import Any

from django.db import connection
from django.db.models import Count as Number
from django.db.models import Max, Min
from django.utils import timezone

from accounts.principals import Principal
from compliance import export, selectors
from compliance.controls.evidence import (
    MET,
    NOT_MET,
    PARTIAL,
    Count,
    Evidence,
    Table,
    counted,
    event_table,
    found_under,
    logged,
    query,
    sentence,
    seqs,
)
from compliance.log import checkpoints
from compliance.log.entries import COLUMNS, leaf_data
from compliance.log.sequencing import read_tile
from compliance.merkle import notes, tiles
from compliance.merkle.hashing import leaf_hash
from compliance.models import Checkpoint, Cosignature, Event, Leaf, Pending
from compliance.period import Period

WAITING_SECONDS = 300
"""An event that waits longer for its place in the tree is not being sequenced."""
REHASHED = 256
_DELETE, _UPDATE, _TRUNCATE = 8, 16, 32


@query("log.events")
def events(principal: Principal, period: Period, /, *, kinds: list[str]) -> Evidence:
    """Events of these kinds in the period, and which of them the log has never held."""
    rows = logged(principal, period, kinds)
    found = dict(rows.order_by().values_list("kind").annotate(n=Number("seq")))
    ever = set(logged(principal, None, kinds).order_by().values_list("kind", flat=True).distinct())
    never = [kind for kind in kinds if kind not in ever]
    total = sum(found.values())
    said = sentence(
        f"The log holds {counted(total, 'such event', 'such events')} of this period.",
        f"It has never held {', '.join(never)}." if never else "",
    )
    counts = tuple(
        Count(kind, found.get(kind, 0), found_under(period, kind=kind) if kind in found else None) for kind in kinds
    )
    status = NOT_MET if len(never) == len(kinds) else PARTIAL if never else MET
    return Evidence(status=status, sentence=said, counts=counts, table=event_table(rows), span=seqs(rows))


@query("log.complete")
def complete(principal: Principal, period: Period, /) -> Evidence:
    """Whether every event has its place in the tree, without a gap, or has waited for one only briefly."""
    held = selectors.events(principal, selectors.EventFilter(period=period))
    whole = Leaf.objects.aggregate(n=Number("index"), last=Max("index"))
    size, gaps = whole["n"], (whole["last"] or 0) + 1 - whole["n"] if whole["n"] else 0
    waiting = Pending.objects.count()
    missing = Event.objects.count() - size - waiting
    oldest = Event.objects.filter(seq__in=Pending.objects.order_by("seq").values("seq")[:1]).first()
    late = oldest is not None and (timezone.now() - oldest.at).total_seconds() > WAITING_SECONDS
    status = NOT_MET if gaps or missing else PARTIAL if late or not size else MET
    said = sentence(
        f"{counted(size, 'event has', 'events have')} a place in the tree, numbered without a gap."
        if not gaps
        else f"{gaps:,} places of the tree are missing.",
        f"{missing:,} events have lost their place." if missing > 0 else "",
        f"{-missing:,} places belong to events that are gone." if missing < 0 else "",
        f"{waiting:,} wait for one, the oldest for more than {WAITING_SECONDS // 60} minutes." if late else "",
    )
    counts = (
        Count("In this period", held.count()),
        Count("In the tree", size),
        Count("Waiting", waiting),
        Count("Gaps", gaps),
        Count("Without a place, or places without an event", abs(missing)),
    )
    kinds = held.order_by().values_list("kind", "outcome").annotate(n=Number("seq"), last=Max("seq"))
    table = Table(("Kind", "Outcome", "Events", "Last no."), kinds.order_by("kind", "outcome"))
    return Evidence(status=status, sentence=said, counts=counts, table=table, span=seqs(held))


@query("log.integrity")
def integrity(principal: Principal, period: Period, /) -> Evidence:
    """Recomputes the last checkpoint's root from the tree, and the latest entries' hashes from their rows."""
    last = checkpoints.latest()
    altered = _altered()
    counts = [Count("Latest entries re-hashed", min(REHASHED, Leaf.objects.count())), Count("Altered", len(altered))]
    if last is None:
        said = "No checkpoint of the log has been signed yet, so nothing outside of it vouches for its past."
        status = NOT_MET if altered else PARTIAL
    else:
        right, signed = tiles.root(last.size, read_tile) == bytes(last.root), _is_signed(last)
        witnesses = Cosignature.objects.filter(checkpoint=last).count()
        counts += [Count("Entries signed for", last.size), Count("Witnesses of it", witnesses)]
        whole = right and signed is not False and not altered
        status = NOT_MET if not whole else MET if signed and witnesses else PARTIAL
        said = sentence(
            f"The last checkpoint is of {last.size:,} entries; the tree {'has' if right else 'does not have'} the root"
            f" it names, and its signature {_SIGNED[signed]}.",
            f"{counted(witnesses, 'witness', 'witnesses')} cosigned it.".capitalize(),
        )
    if altered:
        said += f" Entry {altered[0]} was changed after it was hashed."
    table = Table(
        ("Entries", "Signed at", "Root"),
        Checkpoint.objects.order_by("-size"),
        lambda row: (row.size, row.at, bytes(row.root).hex()),
    )
    return Evidence(status=status, sentence=said, counts=tuple(counts), table=table)


_SIGNED = {True: "is good", False: "is not this process's", None: "cannot be checked, since this process has no keys"}


def _is_signed(last: Checkpoint) -> bool | None:
    """Whether both signatures are this process's and of this root; ``None``: it has no keys to tell."""
    own = checkpoints.own_identity()
    if own is None:
        return None
    try:
        told = notes.open_checkpoint(last.note, checkpoints.key_of(own.public))
    except notes.NoteInvalid:
        return False
    return (told.size, told.root) == (last.size, bytes(last.root))


def _altered() -> list[int]:
    """The events among the latest whose row does not have the hash that the tree holds; by number."""
    latest = list(Leaf.objects.order_by("-index").values_list("event", "hash")[:REHASHED])
    with connection.cursor() as cursor:
        statement = f"SELECT {COLUMNS} FROM compliance_event WHERE seq = ANY(%s)"  # noqa: S608  (a constant)
        cursor.execute(statement, [[event for event, _ in latest]])
        rows = {row[0]: leaf_hash(leaf_data(*row)) for row in cursor.fetchall()}
    return sorted(event for event, kept in latest if rows.get(event) != bytes(kept))


def _guards(tables: list[str]) -> dict[str, list[tuple[Any, ...]]]:
    """The triggers before a change of each table: name, function, operations, how it is enabled."""
    statement = """SELECT c.relname, t.tgname, p.proname, t.tgtype, t.tgenabled FROM pg_trigger t
        JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
        JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = current_schema()
        WHERE NOT t.tgisinternal AND t.tgtype & 2 <> 0 AND c.relname = ANY(%s)"""
    found: dict[str, list[tuple[Any, ...]]] = {table: [] for table in tables}
    with connection.cursor() as cursor:
        cursor.execute(statement, [tables])
        for table, *trigger in cursor.fetchall():
            found[table].append(tuple(trigger))
    return found


def _operations(kind: int) -> str:
    names = ((_UPDATE, "update"), (_DELETE, "delete"), (_TRUNCATE, "truncate"))
    return ", ".join(name for bit, name in names if kind & bit)


def _open(triggers: list[tuple[Any, ...]]) -> str:
    """The operations that no trigger stands in front of always (also in a replication session)."""
    covered = 0
    for _, _, kind, enabled in triggers:
        covered |= kind if enabled in ("A", b"A") else 0
    return _operations(~covered & (_UPDATE | _DELETE | _TRUNCATE))


@query("log.guarded")
def guarded(principal: Principal, period: Period, /, *, tables: list[str]) -> Evidence:
    """Whether the database itself refuses to change, delete or empty these tables, by its own catalogue."""
    found = _guards(tables)
    unguarded = {table: missing for table, triggers in found.items() if (missing := _open(triggers))}
    said = (
        f"The database refuses update, delete and truncate of {counted(len(tables), 'table', 'tables')}, for every role"
        " and every kind of session."
        if not unguarded
        else "Not refused: "
        + "; ".join(f"{missing} of {table.partition('_')[2]}" for table, missing in unguarded.items())
        + "."
    )
    rows = [
        (table, name, function, _operations(kind), "always" if enabled in ("A", b"A") else "not always")
        for table, triggers in found.items()
        for name, function, kind, enabled in triggers
    ]
    counts = (Count("Tables", len(tables)), Count("Not guarded", len(unguarded)), Count("Triggers", len(rows)))
    table = Table(("Table", "Trigger", "Function", "Refuses", "Enabled"), rows)
    return Evidence(status=NOT_MET if unguarded else MET, sentence=said, counts=counts, table=table)


@query("log.retained")
def retained(principal: Principal, period: Period, /, *, years: int = 6) -> Evidence:
    """The oldest event, and that nothing can have been deleted before it: the guards are there, nothing purges."""
    rows = selectors.events(principal, selectors.EventFilter())
    oldest = rows.order_by().aggregate(at=Min("at"))["at"]
    unguarded = _open(_guards(["compliance_event"])["compliance_event"])
    if unguarded:
        status, said = NOT_MET, f"Events could be lost: the database does not refuse {unguarded}."
    elif oldest is None:
        status, said = PARTIAL, "There is no event yet."
    else:
        age = (timezone.now() - oldest).days
        status = MET
        said = (
            f"The oldest event is of {oldest:%-d %B %Y} ({age:,} days ago); none was deleted, because"
            f" the database refuses it and nothing purges the log, so {years} years are kept."
        )
    counts = (
        Count("Events", rows.count()),
        Count("Years asked for", years),
        Count("Purges", 0 if not unguarded else "?"),
    )
    return Evidence(
        status=status, sentence=said, counts=counts, table=event_table(rows.order_by("seq")), span=seqs(rows)
    )


@query("log.purposes")
def purposes(principal: Principal, period: Period, /, *, kinds: list[str]) -> Evidence:
    """Whether every event of these kinds says for which purpose of use, and who acted."""
    rows = logged(principal, period, kinds)
    blank = rows.filter(purpose__isnull=True) | rows.filter(purpose="") | rows.filter(actor_id=None)
    total, without = rows.count(), blank.count()
    share = 100 * (total - without) / total if total else 0
    status = PARTIAL if not total else MET if not without else NOT_MET
    said = (
        f"{share:.1f}% of {counted(total, 'event', 'events')} about requests name who acted and the purpose of use."
        if total
        else "No request was recorded in this period."
    )
    by = dict(rows.exclude(purpose=None).order_by().values_list("purpose").annotate(n=Number("seq")))
    counts = (
        Count("Events about requests", total),
        Count("Without purpose or actor", without),
        *(Count(str(name), n, found_under(period, purpose=str(name))) for name, n in sorted(by.items())),
    )
    table = event_table(blank.order_by("-seq") if without else rows)
    return Evidence(status=status, sentence=said, counts=counts, table=table, span=seqs(rows))


@query("log.sortable")
def sortable(principal: Principal, period: Period, /) -> Evidence:
    """Whether the events page sorts by every column that its export has, and how often the log was exported."""
    names = {"at": "time"}
    sorts = {names.get(column, column): names.get(column, column) in selectors.EVENT_SORTS for column in export.COLUMNS}
    missing = [column for column, there in sorts.items() if not there]
    exports = logged(principal, period, ["events.export"])
    said = sentence(
        f"Events can be sorted by {'every one of' if not missing else 'not all of'} their {len(sorts)} columns"
        f"{': ' + ', '.join(missing) + ' missing' if missing else ''};",
        f"the log was exported {exports.count():,} times in this period.",
    )
    counts = (Count("Columns", len(sorts)), Count("Not sortable", len(missing)), Count("Exports", exports.count()))
    status = PARTIAL if missing else MET
    return Evidence(status=status, sentence=said, counts=counts, table=event_table(exports), span=seqs(exports))
