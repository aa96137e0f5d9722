"""Checkpoints: what this process signs about its log, when, and with which keys."""

from __future__ import annotations

import logging
from datetime import timedelta

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from compliance.log.sequencing import TRY_LOCK, read_tile, sequence, size
from compliance.merkle import notes, proofs, tiles
from compliance.models import Checkpoint
from fdrouter.errors import Conflict
from federation import identity
from federation.identity import Identity, PublicIdentity

log = logging.getLogger(__name__)

EVERY = timedelta(seconds=60)
EVERY_ENTRIES = 10_000


class LogDamaged(Conflict):
    """The tree is not a continuation of what was signed: nothing more is signed until somebody has looked."""

    code = "log_damaged"
    default_message = "The log is not a continuation of its last checkpoint. Run: manage.py log verify"


def own_identity() -> Identity | None:
    """The process's identity; ``None``: it has no identity folder, so it can sign nothing."""
    return identity.load(settings.IDENTITY_DIR) if (settings.IDENTITY_DIR / "keys.json").exists() else None


def signer_of(own: Identity) -> notes.Signer:
    return notes.Signer(own.name, own.ed25519, own.mldsa65)


def key_of(public: PublicIdentity) -> notes.Key:
    """The keys by which a log's or a witness's signatures are checked. A log's origin is its process's name."""
    return notes.Key(public.name, public.ed25519, public.mldsa65)


def latest() -> Checkpoint | None:
    return Checkpoint.objects.order_by("-size").first()


def checkpoint(*, force: bool = False) -> Checkpoint | None:
    """Signs what is sequenced, if anything is new and a minute or 10,000 entries have passed, or at once by ``force``.

    ``None``: nothing was due, another process is at it, or there is no identity to sign with.

    Raises:
        LogDamaged: the last checkpoint is not the beginning of the tree.
    """
    own = own_identity()
    if own is None:
        return None
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(TRY_LOCK)
        if not cursor.fetchone()[0]:
            return None
        last, entries = latest(), size()
        if not _is_due(last, entries, force=force):
            return None
        try:
            root = tiles.root(entries, read_tile)
            continued = last is None or _continues(last, entries, root)
        except tiles.TileDamaged:
            continued = False
        if not continued:
            log.error("log damaged", extra={"entries": entries, "signed": last.size if last else 0})
            raise LogDamaged
        note = notes.sign(notes.Checkpoint(own.name, entries, root), signer_of(own))
        cursor.execute("SELECT log_checkpoint(%s, %s, %s)", [entries, root, note])
    return Checkpoint.objects.get(pk=entries)


def _is_due(last: Checkpoint | None, entries: int, *, force: bool) -> bool:
    signed = last.size if last else 0
    if entries <= signed:
        if entries < signed:
            log.error("log shorter than signed", extra={"entries": entries, "signed": signed})
            raise LogDamaged
        return False
    return force or last is None or entries - signed >= EVERY_ENTRIES or timezone.now() - last.at >= EVERY


def _continues(last: Checkpoint, entries: int, root: bytes) -> bool:
    proof = tiles.consistency(last.size, entries, read_tile)
    return proofs.verify_consistency(last.size, entries, proof, bytes(last.root), root)


def tend() -> int:
    """What a process does for its log every second: gives waiting events their places and signs when it is time."""
    added = sequence()
    checkpoint()
    return added
