"""Making a corpus: each group of patients writes one synthetic note by token decoding in the engine.

The groups are fixed and stored before the first token. A note's row is written before it is decoded; one that is found
begun after its maker was killed, or whose decoding failed, is lost: what was drawn for it may have been seen, so it is
not drawn again, nothing is published of it, and its part of the charge stands. A group without members is decoded like
any other: that it has none is not told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from django.db import connection, transaction

from fdrouter.errors import Conflict, DomainError
from federation.database import in_thread
from federation.node.engine import EngineClient, EngineUnreachable, GroupSummary
from federation.node.released import contributions, publish, vocabulary
from federation.node.released.models import NoteState, Release, ReleasedNote
from federation.node.released.states import ReleaseState
from privacy.dp.release_plans import CorpusPlan

log = logging.getLogger(__name__)

Group = tuple[str, int]


def question_of(topic: str) -> str:
    """What every row of a group is asked, the public row too.

    It does not say "side effect": the model would begin with these words, and each costs privacy (measured: "a side
    effect of a side effect" where the note now names the cough).
    """
    if vocabulary.topics_of(vocabulary.TOPICS)[topic]:
        return f"What was the outcome of {topic}?"
    return f"What did patients on {topic} develop?"


def beginning_of(topic: str) -> str:
    """The public beginning of a note: its words need no privacy, and they keep the note to its topic."""
    if vocabulary.topics_of(vocabulary.TOPICS)[topic]:
        return f"The outcome of {topic} was"
    return f"Patients on {topic} developed a"


async def make(
    release: Release, engine: EngineClient, tell: Callable[[str, int], None] = lambda label, notes: None
) -> None:
    """Decodes the notes that were not begun yet, and publishes when none is left. The block has paid.

    ``tell`` is told of each group before it is decoded, with how many are done.

    Raises:
        Conflict: it is not being made, or the lists are not those of the plan.
        EngineUnreachable: the engine does not answer; what was not begun waits for another try.
    """
    plan, groups = await in_thread(_prepare)(release)
    todo = await in_thread(_todo)(release, groups)
    for topic, part in todo:
        tell(topic, len(groups) - len(todo) + todo.index((topic, part)))
        if not await engine.healthy():
            raise EngineUnreachable
        note = await in_thread(_begin)(release, topic, part)
        documents = await in_thread(contributions.excerpts)(
            release, topic, part, question_of(topic), plan.text.contexts
        )
        try:
            text, tokens = await _decode(engine, topic, documents, plan)
        except DomainError as error:
            log.warning("note lost", extra={"release": str(release.pk), "code": error.code})
            await in_thread(_lose)(note, error.code)
        else:
            await in_thread(_keep)(note, text, tokens)
    await in_thread(_finish)(release)


async def _decode(engine: EngineClient, topic: str, documents: list[str], plan: CorpusPlan) -> tuple[str, int]:
    parts: list[str] = []
    tokens = 0
    async for item in engine.decode_group(question_of(topic), documents, plan.text, start=beginning_of(topic)):
        if isinstance(item, GroupSummary):
            tokens = item.tokens
        else:
            parts.append(item)
    return "".join(parts), tokens


def _prepare(release: Release) -> tuple[CorpusPlan, list[Group]]:
    """The plan and all groups. At the first time patients are assigned, once for all; later, lost notes are marked."""
    plan, lists = publish.made_of(release)
    if not isinstance(plan, CorpusPlan):
        raise Conflict("This release has no notes.")
    with transaction.atomic():
        state = Release.objects.select_for_update().values_list("state", flat=True).get(pk=release.pk)
        if state != ReleaseState.MAKING:
            raise Conflict(f"This release is {state}, so it is not made now.")
        if not release.notes.exists() and not release.members.exists():
            contributions.assign(release, lists.topics, plan.parts)
        interrupted = release.notes.filter(state=NoteState.BEGUN)
        interrupted.update(state=NoteState.LOST, reason="interrupted")
    return plan, [(topic, part) for topic in lists.topics for part in range(plan.parts)]


def _todo(release: Release, groups: list[Group]) -> list[Group]:
    begun = set(release.notes.values_list("topic", "part"))
    return [group for group in groups if group not in begun]


def _begin(release: Release, topic: str, part: int) -> ReleasedNote:
    """Committed before the first token is drawn; a second maker stumbles over it."""
    return ReleasedNote.objects.create(release=release, topic=topic, part=part)


def _lose(note: ReleasedNote, reason: str) -> None:
    ReleasedNote.objects.filter(pk=note.pk, state=NoteState.BEGUN).update(state=NoteState.LOST, reason=reason[:40])


def _keep(note: ReleasedNote, text: str, tokens: int) -> None:
    values: dict[str, Any] = {"state": NoteState.DONE, "text": text.strip(), "tokens": tokens}
    with transaction.atomic():
        if ReleasedNote.objects.filter(pk=note.pk, state=NoteState.BEGUN).update(**values):
            with connection.cursor() as cursor:
                cursor.execute(
                    "UPDATE node_releasednote SET vector = to_tsvector('english', topic || '. ' || text) WHERE id = %s",
                    [note.pk],
                )


def _finish(release: Release) -> None:
    with transaction.atomic():
        if release.notes.filter(state=NoteState.DONE).exists():
            publish.publish(release)
        else:
            publish.give_up(release, "no_note")
