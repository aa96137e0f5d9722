"""Synthetic notes: groups that are fixed once, notes that are decoded once, an interrupted making that goes on."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from collections.abc import AsyncIterator, Sequence

import aiohttp
import pytest
from django.db import close_old_connections, connection

from fdrouter.errors import Conflict, NothingReleased, PushTooSmall
from federation.node import blocks
from federation.node.engine import EngineClient, EngineUnreachable, GroupFailed, GroupSummary
from federation.node.models import Patient
from federation.node.progress import Bar
from federation.node.released import answers, contributions, corpus, making, publish, shelf, vocabulary
from federation.node.released.models import NoteState, Release, ReleasedNote, ReleaseMember
from federation.node.released.states import ReleaseState
from privacy import verify
from privacy.dp.release_plans import CorpusPlan
from privacy.dp.text_plan import TextPlan
from privacy.models import Scope
from tests.federation.keys import ring
from tests.node.released.stage import APPROVER, NOBODY_LISTENS, PLANNER, TOPICS, ask, published_cards

pytestmark = pytest.mark.django_db(transaction=True)


class Scribe(EngineClient):
    """An engine that is up and writes a fixed note for every group; it remembers what it was given to read."""

    def __init__(self, session: aiohttp.ClientSession, *, kill: str = "", lose: str = "", up: int = 10**6) -> None:
        super().__init__(NOBODY_LISTENS, "m", session)
        self.read: dict[str, Sequence[str]] = {}
        self.kill, self.lose, self.up = kill, lose, up

    async def healthy(self) -> bool:
        self.up -= 1
        return self.up >= 0

    async def decode_group(
        self, question: str, documents: Sequence[str], plan: TextPlan, *, start: str | None = None
    ) -> AsyncIterator[str | GroupSummary]:
        assert len(documents) <= plan.contexts and plan.adjacency == "swap"
        self.read[start or ""] = documents
        if self.kill and self.kill in question:
            raise KeyboardInterrupt
        if self.lose and self.lose in question:
            raise GroupFailed(tokens=2)
        yield start or ""
        yield " dry cough"
        yield GroupSummary(3, "stop", 100, len(documents))


def approved(**changes: object) -> Release:
    wanted: dict[str, object] = {"epsilon": 5.0, "topics": TOPICS} | changes
    release = publish.propose_corpus(1, PLANNER, **wanted)  # type: ignore[arg-type]
    publish.approve(release, APPROVER)
    return release


def make(release: Release, **scribe: object) -> tuple[Release, dict[str, Sequence[str]]]:
    seen: list[Scribe] = []

    def engine(session: aiohttp.ClientSession) -> EngineClient:
        seen.append(Scribe(session, **scribe))  # type: ignore[arg-type]
        return seen[0]

    made = making.make(release, engine, Bar(io.StringIO()))
    return made, seen[0].read


def used(block: Scope) -> int:
    block.refresh_from_db()
    return block.used


def test_a_corpus_is_paid_once_for_all_its_notes(block: Scope) -> None:
    release, read = make(approved())
    plan = publish.plan_of(release)
    assert isinstance(plan, CorpusPlan) and used(block) == plan.nano_at(3.4)
    assert plan.rho == pytest.approx(2 * plan.text.rho)
    assert release.state == ReleaseState.PUBLISHED
    assert release.notes.filter(state=NoteState.DONE).count() == len(read) == 3
    assert not ReleaseMember.objects.exists(), "who was in which group is kept no longer than it is needed"
    assert publish.is_genuine(release, ring().identity("northfield").public)
    assert not verify.verify().faults


def test_every_patient_is_read_in_one_group_only(block: Scope) -> None:
    release = approved()
    publish.begin(release)
    contributions.assign(release, TOPICS, 1)
    spoken = contributions.topics_of(TOPICS, 1)
    members = Counter(ReleaseMember.objects.values_list("patient", flat=True))
    assert set(members) == set(spoken) and set(members.values()) == {1}
    assert all(member.topic in spoken[member.patient] for member in ReleaseMember.objects.all())
    several = [reference for reference, topics in spoken.items() if len(topics) > 1]
    assert several, "the small hospital has patients whom two topics could claim"


def test_who_is_in_a_group_and_at_which_rank_is_a_matter_of_the_own_record(block: Scope) -> None:
    release = approved()
    publish.begin(release)
    contributions.assign(release, TOPICS, 2)
    before = {m.patient: (m.topic, m.part, bytes(m.rank)) for m in ReleaseMember.objects.all()}
    ReleaseMember.objects.all().delete()
    gone = sorted(before)[0]
    Patient.objects.filter(reference=gone).delete()
    contributions.assign(release, TOPICS, 2)
    after = {m.patient: (m.topic, m.part, bytes(m.rank)) for m in ReleaseMember.objects.all()}
    assert after == {patient: place for patient, place in before.items() if patient != gone}
    assert {part for _, part, _ in before.values()} == {0, 1}


def test_a_group_is_cut_at_its_slots_by_rank(block: Scope) -> None:
    release = approved()
    publish.begin(release)
    contributions.assign(release, TOPICS, 1)
    ranked = list(ReleaseMember.objects.filter(topic="velorapine").order_by("rank").values_list("patient", flat=True))
    question = corpus.question_of("velorapine")
    whole = contributions.excerpts(release, "velorapine", 0, question, 128)
    cut = contributions.excerpts(release, "velorapine", 0, question, 5)
    assert len(whole) == len(ranked) > 5 and cut == whole[:5]
    Patient.objects.filter(reference=ranked[0]).delete()
    left = contributions.excerpts(release, "velorapine", 0, question, 5)
    assert left == cut[1:], "nobody moves up into the slot of a patient who is gone: a second record would be read"


def test_only_patients_of_the_block_are_read(block: Scope) -> None:
    Patient.objects.update(block=2)
    _, read = make(approved())
    assert [len(documents) for documents in read.values()] == [0, 0, 0], "decoded all the same: that is not told"


def test_a_killed_making_goes_on_and_never_decodes_a_group_twice(block: Scope) -> None:
    release = approved()
    with pytest.raises(KeyboardInterrupt):
        make(release, kill="tamurexin")
    paid = used(block)
    states = dict(ReleasedNote.objects.values_list("topic", "state"))
    assert states == {"metformin": NoteState.DONE, "tamurexin": NoteState.BEGUN}
    groups = dict(ReleaseMember.objects.values_list("patient", "topic"))
    Patient.objects.filter(reference__in=groups).update(lines=["nothing about any of them"], vector=None)
    made, read = make(release)
    assert list(read) == [corpus.beginning_of("velorapine")], "only what was not begun"
    assert len(read[corpus.beginning_of("velorapine")]) == sum(topic == "velorapine" for topic in groups.values())
    assert made.state == ReleaseState.PUBLISHED and used(block) == paid
    lost = made.notes.get(topic="tamurexin")
    assert (lost.state, lost.reason, lost.text) == (NoteState.LOST, "interrupted", "")


def test_an_interrupted_making_can_be_abandoned_which_publishes_nothing(block: Scope) -> None:
    release = approved()
    with pytest.raises(KeyboardInterrupt):
        make(release, kill="velorapine")
    paid = used(block)
    making.withdraw(release, "Otto Officer")
    release.refresh_from_db()
    assert (release.state, release.reason) == (ReleaseState.FAILED, "abandoned") and used(block) == paid
    assert not ReleaseMember.objects.exists() and not shelf.listing()
    with pytest.raises(Conflict):
        make(release)
    assert publish.propose_corpus(1, PLANNER, epsilon=3.0).state == ReleaseState.PLANNED, "another one may be planned"


def test_a_note_whose_decoding_failed_is_lost_and_the_others_are_published(block: Scope) -> None:
    release, _ = make(approved(), lose="velorapine")
    assert release.notes.get(topic="velorapine").state == NoteState.LOST
    assert release.state == ReleaseState.PUBLISHED and publish.is_genuine(release, ring().identity("northfield").public)
    assert shelf.listing()[0]["topics"] == ["metformin", "tamurexin"]


def test_a_corpus_without_any_note_fails_and_stays_paid(block: Scope) -> None:
    release, _ = make(approved(), lose="patients")
    assert (release.state, release.reason) == (ReleaseState.FAILED, "no_note")
    assert used(block) > 0 and not ReleaseMember.objects.exists()
    with pytest.raises(Conflict):
        make(release)


def test_an_engine_that_is_down_costs_nothing_before_the_start_and_loses_nothing_after(block: Scope) -> None:
    release = approved()
    with pytest.raises(EngineUnreachable):
        make(release, up=0)
    release.refresh_from_db()
    assert release.state == ReleaseState.APPROVED and used(block) == 0
    with pytest.raises(EngineUnreachable):
        make(release, up=2)
    assert release.notes.count() == 1 and used(block) > 0
    made, read = make(release)
    assert made.state == ReleaseState.PUBLISHED and len(read) == 2


def test_two_makers_at_once_are_one_too_many(block: Scope) -> None:
    release = approved()
    with making.exclusive(release):

        async def elsewhere() -> None:
            await asyncio.to_thread(attempt)

        def attempt() -> None:
            try:
                with pytest.raises(Conflict, match="another process"):
                    make(release)
            finally:
                close_old_connections()
                connection.close()

        asyncio.run(elsewhere())
    assert used(block) == 0


def test_a_block_that_cannot_pay_or_a_push_too_small_is_refused_before_anything_is_read(block: Scope) -> None:
    with pytest.raises(PushTooSmall, match="whole corpus"):
        publish.propose_corpus(1, PLANNER, epsilon=0.5)
    assert not Release.objects.exists() and used(block) == 0


# --- answers ------------------------------------------------------------------------------------------------------
def test_a_question_about_a_topic_finds_its_note_and_the_public_model_gets_only_what_is_published(
    block: Scope,
) -> None:
    make(approved())
    found = answers.find("Which side effect did patients on velorapine develop?")
    told = " ".join(message["content"] for message in found.messages)
    assert "Patients on velorapine developed a dry cough" in told and "metformin" not in told
    assert found.released["notes"] == 1 and found.released["cards"] == []
    assert (
        "From 1 synthetic note published on" in found.text and "at epsilon 5 per patient. That was paid" in found.text
    )
    assert found.text.startswith("\n\nPublished:\n- Patients on velorapine developed a dry cough")


def test_without_a_topic_notes_are_found_by_the_words_of_the_question(block: Scope) -> None:
    make(approved())
    assert answers.find("What causes a dry cough?").released["notes"] == 3
    with pytest.raises(NothingReleased, match="metformin, tamurexin and velorapine"):
        answers.find("Who painted the ceiling?")


def test_notes_and_cards_answer_together_and_a_note_without_patients_behind_it_is_left_out(block: Scope) -> None:
    published_cards(topics=("velorapine", "warfarin"))
    make(approved(epsilon=3.0))
    found = answers.find("Which side effect did patients on velorapine develop?")
    assert "- velorapine with dry cough: about" in found.text
    assert found.released["cards"] == ["effects", "treatments"] and len(found.released["releases"]) == 2
    assert "1 synthetic note published on" in found.text and "2 statistics cards published on" in found.text
    assert "at epsilon 3 per patient" in found.text and "at epsilon 8 per patient" in found.text
    Release.objects.filter(kind="corpus").delete()
    make(approved(epsilon=2.0, topics=("warfarin", "velorapine")))
    with pytest.raises(NothingReleased):
        answers.find("Which side effect did patients on warfarin develop?")


def test_topics_can_be_chosen_by_the_published_cards(block: Scope) -> None:
    with pytest.raises(NothingReleased, match="Publish cards first"):
        publish.largest_topics(1, 2)
    published_cards()
    assert publish.largest_topics(1, 1) == ["velorapine"]


def test_an_engine_that_is_down_is_said_and_nothing_is_charged(block: Scope) -> None:
    make(approved())
    paid = used(block)
    last = ask("Which side effect did patients on velorapine develop?")[-1]
    assert (last["type"], last["code"], last["charged"]) == ("error", "engine_unreachable", False)
    assert used(block) == paid


def test_lists_have_no_doubles_and_every_topic_can_be_found() -> None:
    from federation.node import phrases, terms

    for name in (vocabulary.TOPICS, vocabulary.WORDS, vocabulary.CONDITIONS):
        words = list(vocabulary.topics_of(name)) if name == vocabulary.TOPICS else terms.words_of(name)
        assert len(set(words)) == len(words) and all(phrases.phrase_queries(words))
    assert blocks.block_key("a", 2) == "block:a:2"
