"""Planning, approving, paying for, publishing and withdrawing a release: short transactions, no record is read here.

A plan is fixed when it is made; somebody else approves it; the block pays the whole of it when the making begins, and
what was published stays paid for, whatever becomes of it later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone

from fdrouter.errors import BlockExhausted, Conflict, InvalidParameter, NotFound, NothingReleased
from federation import identity, sealing
from federation.identity import PublicIdentity
from federation.node import blocks
from federation.node.released import states, vocabulary
from federation.node.released.models import NoteState, Release, ReleaseKind
from federation.node.released.states import ReleaseState, advance
from privacy import claims, ledger
from privacy.dp import cohort_plans
from privacy.dp.release_plans import CardsPlan, CorpusPlan, ReleasePlan, plan_cards, plan_corpus
from privacy.models import Scope

VERSION = 1
_NAME = 120


def propose_cards(
    block: int,
    by: str,
    *,
    epsilon: float | None = None,
    delta: float | None = None,
    topics: Sequence[str] | None = None,
) -> Release:
    """Plans statistics cards of a block's patients. ``topics``: which treatments, all of the list if None.

    Raises:
        InvalidParameter: a value out of range. ClaimMissing, BlockExhausted: it could not be made. Conflict: another
        release of this kind and block is planned and not published yet.
    """
    lists = vocabulary.lists_for(topics)
    plan = plan_cards(cards=[card.card for card in vocabulary.cards_of(lists)], epsilon=epsilon, delta=delta)
    public = {"year": timezone.localdate().year, "cells_chosen": vocabulary.CHOSEN}
    return _propose(ReleaseKind.CARDS, block, by, plan, lists.to_json() | public)


def propose_corpus(
    block: int,
    by: str,
    *,
    epsilon: float | None = None,
    delta: float | None = None,
    topics: Sequence[str] | None = None,
    parts: int = 1,
    contexts: int | None = None,
    max_tokens: int | None = None,
) -> Release:
    """Plans synthetic notes about ``topics`` (all of the list if None), ``parts`` notes each.

    Raises:
        PushTooSmall: the records could not be heard in a note. The rest as :func:`propose_cards`.
    """
    lists = vocabulary.lists_for(topics)
    plan = plan_corpus(
        topics=lists.topics_list,
        groups=len(lists.topics),
        parts=parts,
        epsilon=epsilon,
        delta=delta,
        contexts=contexts,
        max_tokens=max_tokens,
    )
    return _propose(ReleaseKind.CORPUS, block, by, plan, lists.to_json())


def largest_topics(block: int, number: int) -> list[str]:
    """The topics of most patients by the block's published cards, in so far as their number is more than noise.

    Chosen from published figures, so that the choice costs nothing and tells nothing.

    Raises:
        NothingReleased: the block has no published cards, or they say of no topic that it has patients.
    """
    published = Release.objects.filter(kind=ReleaseKind.CARDS, block=block, state=ReleaseState.PUBLISHED)
    release = published.order_by("-published_at").first()
    card = release.cards.filter(name="treatments").first() if release else None
    plan = plan_of(release) if release else None
    if card is None or not isinstance(plan, CardsPlan):
        raise NothingReleased("The block has no published statistics cards to choose topics by. Publish cards first.")
    least = plan.band_of(len(card.labels))
    ranked = sorted(zip(card.counts, card.labels, strict=True), key=lambda cell: (-cell[0], cell[1]))
    found = [label[0] for count, label in ranked[:number] if count > least]
    if not found:
        raise NothingReleased("By the published cards no topic has more patients than noise could make.")
    return found


def _propose(kind: ReleaseKind, block: int, by: str, plan: ReleasePlan, public: dict[str, Any]) -> Release:
    claims.sheet(plan.name)
    scope = _scope(block)
    if blocks.charge(scope, plan).amount > scope.left:
        raise BlockExhausted(f"Block {block} cannot pay for this release.", key=scope.key)
    document = {"version": VERSION, "kind": kind.value, "hospital": settings.HOSPITAL_ID, "block": scope.key}
    document |= {"event": plan.to_event(), "model": settings.ENGINE_MODEL, **public}
    try:
        with transaction.atomic():
            release = Release.objects.create(
                kind=kind,
                block=block,
                plan=document,
                digest=_digest(document),
                epsilon=plan.epsilon,
                delta=plan.delta,
                planned_by=_person(by),
            )
            states.note(release.pk, "release.plan", plan=release.digest, scope=scope.key, epsilon=plan.epsilon)
    except IntegrityError as error:
        if "release_one_open_a_kind_and_block" not in str(error):
            raise
        raise Conflict(
            f"A release of {kind.label} from block {block} is planned already. Publish or withdraw that one first."
        ) from None
    return release


def _scope(block: int) -> Scope:
    scope = next((scope for scope in blocks.every() if blocks.number(scope) == block), None)
    if scope is None:
        raise InvalidParameter(f"There is no block {block}.", field="block")
    if scope.retired_at is not None:
        raise BlockExhausted(f"Block {block} is retired, so it pays for nothing any more.", key=scope.key)
    return scope


def _person(name: str) -> str:
    found = " ".join(name.split())
    if not 1 <= len(found) <= _NAME or not found.isprintable():
        raise InvalidParameter(f"Say who you are in at most {_NAME} characters.", field="by")
    return found


def _digest(document: Any) -> str:
    return hashlib.sha256(sealing.canonical(document)).hexdigest()


def get(release: UUID | str) -> Release:
    """A release by its id, or by the beginning of it if there is only one such.

    Raises:
        NotFound: there is none, or more than one.
    """
    text = str(release).lower()
    found = [row for row in Release.objects.all() if str(row.pk).startswith(text)] if text else []
    if len(found) != 1:
        raise NotFound("There is no release of this id." if not found else "Several ids begin like this.")
    return found[0]


def plan_of(release: Release) -> ReleasePlan:
    """The plan that was approved.

    Raises:
        Conflict: the stored plan is not the one that was digested, or is none of this program.
    """
    if _digest(release.plan) != release.digest:
        raise Conflict("The stored plan is not the one that was made. This release cannot be used.")
    plan = cohort_plans.plan_of(release.plan["event"])
    wanted = CardsPlan if release.kind == ReleaseKind.CARDS else CorpusPlan
    if not isinstance(plan, CardsPlan | CorpusPlan) or not isinstance(plan, wanted):
        raise Conflict("The plan is of another kind than its release.")
    return plan


def made_of(release: Release) -> tuple[ReleasePlan, vocabulary.Lists]:
    """The approved plan, and the lists that it was made for.

    Raises:
        Conflict: the lists, or the cards that this program makes of them, are not those of the plan any more.
    """
    plan, lists = plan_of(release), vocabulary.lists_of(release.plan)
    if isinstance(plan, CardsPlan):
        same = plan.cards == tuple(card.card for card in vocabulary.cards_of(lists))
        same = same and release.plan.get("cells_chosen") == vocabulary.CHOSEN
    else:
        same = plan.groups == len(lists.topics)
    if not same:
        raise Conflict("This program makes other cards or topics than those of the plan. Plan a new release.")
    return plan, lists


def approve(release: Release, by: str) -> None:
    """A second person's consent to exactly this plan.

    Raises:
        Conflict: the same person planned it, or it is not waiting for approval.
    """
    made_of(release)
    person = _person(by)
    if person.casefold() == release.planned_by.casefold():
        raise Conflict("A release is approved by somebody else than who planned it.")
    with transaction.atomic():
        advance(
            release.pk,
            ReleaseState.PLANNED,
            ReleaseState.APPROVED,
            details={"plan": release.digest},
            approved_by=person,
            approved_at=timezone.now(),
        )


def begin(release: Release) -> None:
    """Moves an approved release to ``making``: its block pays the whole plan, and keeps it whatever follows.

    Raises:
        ClaimMissing, BlockExhausted: it cannot be paid; nothing was charged. Conflict: it is not approved, or its lists
        have changed.
    """
    plan, _ = made_of(release)
    claims.sheet(plan.name)
    scope = _scope(release.block)
    with transaction.atomic():
        advance(
            release.pk,
            ReleaseState.APPROVED,
            ReleaseState.MAKING,
            details={"scope": scope.key, "nano_rdp": blocks.charge(scope, plan).amount, "epsilon": plan.epsilon},
            begun_at=timezone.now(),
        )
        blocks.pay(release.pk, plan, [scope])
        ledger.settle(release.pk)


def publish(release: Release) -> None:
    """Signs what was made and puts it on the shelf; call it in the transaction that stores the last of it.

    Raises:
        Conflict: it is not being made.
    """
    now = timezone.now()
    body = _body(release, now.isoformat(timespec="seconds"))
    node = identity.load(settings.IDENTITY_DIR)
    data = sealing.canonical(body)
    statement = {"body": body, "digest": hashlib.sha256(data).hexdigest()}
    statement["signatures"] = sealing.sign(node, "release", data)
    release.members.all().delete()
    advance(
        release.pk,
        ReleaseState.MAKING,
        ReleaseState.PUBLISHED,
        details={"statement": statement["digest"]},
        published_at=now,
        statement=statement,
    )


def _body(release: Release, at: str) -> dict[str, Any]:
    plan = plan_of(release)
    event = plan.to_event()
    return {
        "version": VERSION,
        "node": identity.load(settings.IDENTITY_DIR).name,
        "hospital": settings.HOSPITAL_ID,
        "release": str(release.pk),
        "kind": release.kind,
        "block": release.plan["block"],
        "mechanism": {
            **{name: event[name] for name in ("mechanism", "unit", "adjacency", "epsilon", "delta")},
            "parameters": plan.parameters,
            "rho": plan.rho,
            "claim": claims.sheet(plan.name).reference,
        },
        "plan_sha256": release.digest,
        "planned_by": release.planned_by,
        "approved_by": release.approved_by,
        "content_sha256": content_digest(release),
        "published_at": at,
    }


def content_digest(release: Release) -> str:
    """SHA-256 of what is published: cards with their figures, or notes with their topics."""
    cards = [[card.name, card.labels, card.counts] for card in release.cards.order_by("name")]
    notes = release.notes.filter(state=NoteState.DONE).order_by("topic", "part")
    return _digest([cards, [[note.topic, note.part, note.text] for note in notes]])


def is_genuine(release: Release, node: PublicIdentity) -> bool:
    """Whether the signed statement speaks of exactly what is stored."""
    statement = release.statement or {}
    try:
        body, data = statement["body"], sealing.canonical(statement["body"])
        return bool(
            body["release"] == str(release.pk)
            and body["plan_sha256"] == release.digest == _digest(release.plan)
            and body["content_sha256"] == content_digest(release)
            and statement["digest"] == hashlib.sha256(data).hexdigest()
            and sealing.verify(node, "release", data, statement["signatures"])
        )
    except (KeyError, TypeError, ValueError):
        return False


def give_up(release: Release, reason: str) -> None:
    """Ends a making of which nothing can be published; its charge stands. In the caller's transaction."""
    release.members.all().delete()
    now = timezone.now()
    advance(release.pk, ReleaseState.MAKING, ReleaseState.FAILED, outcome=reason, reason=reason, ended_at=now)


def abandon(release: Release, by: str) -> None:
    """Ends a making that was interrupted and will not go on. Nothing is published, and the charge stands."""
    person = _person(by)
    with transaction.atomic():
        give_up(release, "abandoned")
        Release.objects.filter(pk=release.pk).update(withdrawn_by=person)


def withdraw(release: Release, by: str, reason: str = "") -> None:
    """Takes a release out of use, or a plan off the table. What it has paid stays paid: it may have been read.

    Raises:
        Conflict: it is being made, or has ended.
    """
    values: dict[str, Any] = {
        "withdrawn_by": _person(by),
        "reason": " ".join(reason.split())[:200],
        "ended_at": timezone.now(),
    }
    with transaction.atomic():
        advance(release.pk, ReleaseState(release.state), ReleaseState.WITHDRAWN, **values)
