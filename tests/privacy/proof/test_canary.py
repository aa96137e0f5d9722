"""Extraction of one adversarial record's secret, against every kind of answer.

Outputs never show the secret; what an attacker can tell from them, whether the record is there at all, stays within
e^epsilon by Clopper and Pearson's bound over the node's real functions and a real, ingested hospital.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from asgiref.sync import async_to_sync
from pytest_django import Settings

from benchmarks.dp import audit, checks, renyi
from federation.models import Kind
from federation.node import blocks, cohorts, service, terms
from federation.node.engine import EngineClient
from federation.node.models import CareAssignment, Patient
from federation.node.released import contributions, vocabulary
from privacy.dp.cohort_plans import ChoicePlan, CountPlan, KeywordsPlan, plan_choice, plan_count, plan_keywords
from privacy.dp.confident_plans import plan_confident_choice
from privacy.dp.decoding import TokenMechanism
from privacy.dp.text_plan import plan_text
from tests.federation.api.backend import Backend
from tests.federation.keys import ring
from tests.federation.messages import message
from tests.node.released import stage
from tests.privacy.proof import canary
from tests.privacy.proof.canary import OPTIONS, QUESTION, SECRET

BLOCKS = [1]
#: Where each kind is attacked. A new kind belongs here, with an attack on it.
ATTACKED = {
    Kind.GENERAL: "test_a_general_question_sees_no_record",
    Kind.CHART: "test_a_chart_is_read_by_those_who_care_for_the_patient_and_holds_nobody_elses",
    Kind.COHORT_COUNT: "test_whether_the_record_is_there_is_told_within_e_to_the_epsilon",
    Kind.COHORT_CHOICE: "test_whether_the_record_is_there_is_told_within_e_to_the_epsilon",
    Kind.COHORT_KEYWORDS: "test_whether_the_record_is_there_is_told_within_e_to_the_epsilon",
    Kind.COHORT_TEXT: "test_a_secret_token_is_drawn_as_rarely_as_the_formula_says",
    Kind.COHORT_RELEASED: "test_what_is_published_shows_no_secret_and_moves_by_one_record_alone",
}


@pytest.fixture
def folder(transactional_db: None, settings: Settings, tmp_path: Path) -> Path:
    settings.NODE_ID = settings.HOSPITAL_ID = "northfield"
    settings.IDENTITY_DIR = ring().folder("northfield")
    canary.hospital(tmp_path)
    return tmp_path


def test_every_kind_is_attacked() -> None:
    assert set(ATTACKED) == set(Kind)
    assert all(name in globals() for name in ATTACKED.values())


# --- figures and words ------------------------------------------------------------------------------------------------
def test_no_answer_over_the_cohort_shows_the_secret(folder: Path) -> None:
    canary.rewrite(folder, canary.shouting())
    count, choice = plan_count(epsilon=10.0), plan_choice(options=3, epsilon=10.0)
    confident, words = (
        plan_confident_choice(options=3, threshold=20, epsilon=10.0),
        plan_keywords(epsilon=10.0, picks=8),
    )
    public = set(terms.words_of(words.terms))
    for _ in range(25):
        drawn = cohorts.keywords(QUESTION, words, BLOCKS)
        assert set(drawn) <= public
        told = [
            cohorts.count("How many patients on velorapine had a dry cough?", count, BLOCKS),
            cohorts.choice(QUESTION, OPTIONS, choice, BLOCKS),
            cohorts.confident_choice(QUESTION, OPTIONS, confident, BLOCKS) or "",
            *(part["content"] for part in cohorts.keywords_messages(QUESTION, drawn)),
        ]
        assert not any(canary.leaks(text) for text in told)
    assert not any(canary.leaks(word) for word in public)


Release = Callable[[Any], float]


def counted(plan: CountPlan) -> float:
    """The attacker asks for the secret itself: 0 records hold it, or 1."""
    text = cohorts.count(f"velorapine {SECRET}", plan, BLOCKS)
    found = re.match(r"About (\d+) records", text)
    assert found
    return float(found[1])


def chosen(plan: ChoicePlan) -> float:
    """The attacker offers the secret as an answer, and the answer that the harmless record would give."""
    text = cohorts.choice("velorapine", (SECRET, "side effect"), plan, BLOCKS)
    numbers = {name: float(number) for name, number in re.findall(r"- (.+): about (\d+) records", text)}
    return numbers[SECRET] - numbers["side effect"]


def worded(plan: KeywordsPlan) -> float:
    """How many of the words that the attacker's record brings along were drawn."""
    brought = set(terms.words_of(plan.terms)[:40])
    return float(sum(word in brought for word in cohorts.keywords(QUESTION, plan, BLOCKS)))


@dataclass(frozen=True)
class Attack:
    """``record``: what the attacker writes. ``weakened``: the same plan with a sixteenth of its noise."""

    release: Release
    plan: Any
    noise: str
    record: Callable[[], str]
    draws: int

    @property
    def weakened(self) -> Any:
        return replace(self.plan, **{self.noise: getattr(self.plan, self.noise) / 16})

    def proves(self, folder: Path, plan: Any) -> float:
        """The epsilon that draws of ``plan`` prove, over the hospital with the record and without."""

        def draw(other: bool, number: int) -> np.ndarray[Any, np.dtype[np.float64]]:
            canary.rewrite(folder, self.record() if other else canary.HARMLESS)
            return np.array([self.release(plan) for _ in range(number)])

        return audit.lower_bound(audit.Case(plan.name, plan.epsilon, plan.delta, draw), self.draws)


COUNT = Attack(counted, plan_count(epsilon=1.0), "scale", canary.shouting, 300)
CHOICE = Attack(chosen, plan_choice(options=2, epsilon=1.0), "sigma", lambda: canary.VOTE, 200)
KEYWORDS = Attack(worded, plan_keywords(epsilon=1.0), "scale", canary.shouting, 60)


@pytest.mark.parametrize("attack", [COUNT, CHOICE, KEYWORDS], ids=["count", "choice", "keywords"])
def test_whether_the_record_is_there_is_told_within_e_to_the_epsilon(folder: Path, attack: Attack) -> None:
    assert attack.proves(folder, attack.plan) <= attack.plan.epsilon


@pytest.mark.parametrize("attack", [COUNT, CHOICE], ids=["count", "choice"])
def test_the_same_attacks_on_a_sixteenth_of_the_noise_succeed(folder: Path, attack: Attack) -> None:
    assert attack.proves(folder, attack.weakened) > attack.plan.epsilon


# --- what was published: its figures here; its notes are texts, attacked below ----------------------------------------
def test_what_is_published_shows_no_secret_and_moves_by_one_record_alone(folder: Path) -> None:
    held = []
    for text in (canary.shouting(), canary.HARMLESS):
        canary.rewrite(folder, text)
        lists = vocabulary.lists_for(stage.TOPICS)
        cards = vocabulary.cards_of(lists)
        held.append({card.name: [tuple(row) for row in contributions.cells(card, lists, 1, 2026)] for card in cards})
    for name in held[0]:
        assert checks.swapped(held[0][name], held[1][name]) is None, name
    canary.rewrite(folder, canary.shouting())
    blocks.create(stage.NODE, stage.NODE, epsilon=10.0, delta=1e-5)
    release = stage.published_cards()
    assert not canary.leaks(str([*release.cards.values_list("name", "labels")]))
    for question in ("How many patients had a dry cough?", QUESTION):
        assert not canary.leaks(str(stage.ask(question)))
    assert "about" in str(stage.ask("How many patients had a dry cough?"))
    guessed = str(stage.ask(f"How many patients had {SECRET}?")).lower()
    assert canary.WORDS[1] not in guessed and canary.WORDS[2] not in guessed, "a guess brings out nothing more"


# --- text: one row that shouts ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("epsilon", [3.0, 10.0])
def test_a_secret_token_is_drawn_as_rarely_as_the_formula_says(epsilon: float) -> None:
    """A row that gives the secret everything moves its odds by e^(eta / 2) against an empty slot, exactly, and by no
    more than e^eta against any other row; with chance p at each of T tokens it comes out with at most 1 - (1 - p)^T."""
    plan = plan_text(epsilon=epsilon, contexts=128, max_tokens=16, top_k=50)
    mechanism = TokenMechanism(plan.clip, plan.tau, plan.contexts, plan.top_k, 2, plan.rho_per_token)
    eta = renyi.eta_of(mechanism)
    draw = np.random.default_rng(2)
    logits = draw.normal(size=300) * 2
    public = logits - np.log(np.exp(logits).sum())
    secret = int(np.argsort(public)[-40])
    honest = public + draw.normal(size=(plan.contexts - 1, 300)) * 0.5
    alone = np.exp(renyi.law(mechanism, public, honest))[secret]
    shout = np.where(np.arange(300) == secret, np.inf, -np.inf)
    shouted = np.vstack([shout, honest])
    chance = np.exp(renyi.law(mechanism, public, shouted))[secret]
    pushed = alone * math.exp(eta / 2) / (1 + alone * math.expm1(eta / 2))
    assert chance == pytest.approx(pushed, rel=1e-9)
    possible = renyi.hostile_rows(public, plan.clip, secret)["one token and nothing else"]  # adds up to 1
    assert np.exp(renyi.law(mechanism, public, np.vstack([possible, honest])))[secret] <= chance
    least = np.exp(renyi.law(mechanism, public, np.vstack([-shout, honest])))[secret]
    assert chance / (1 - chance) == pytest.approx(least / (1 - least) * math.exp(eta), rel=1e-9)
    assert 1 - (1 - chance) ** plan.max_tokens < 2 * (1 - (1 - alone) ** plan.max_tokens), (
        "hardly more in a whole answer"
    )
    hits = sum(mechanism.step(public, shouted) == secret for _ in range(3_000))
    low, high = checks.interval(hits, 3_000, checks.ALARM)
    assert low <= chance <= high


def test_a_token_that_the_public_model_would_not_say_is_never_drawn() -> None:
    plan = plan_text(epsilon=10, contexts=24, max_tokens=4, top_k=10)
    mechanism = TokenMechanism(plan.clip, plan.tau, plan.contexts, plan.top_k, 2, plan.rho_per_token)
    public = np.log(np.r_[np.full(50, 1e-9), np.linspace(1, 2, 50)])
    public -= np.log(np.exp(public).sum())
    shouted = np.tile(renyi.hostile_rows(public, plan.clip, 3)["one token and nothing else"], (plan.contexts, 1))
    assert renyi.law(mechanism, public, shouted)[3] == -math.inf
    assert 3 not in {mechanism.step(public, shouted) for _ in range(200)}


# --- kinds without a claim: what reaches the model --------------------------------------------------------------------
@pytest.fixture
def engine() -> Iterator[Backend]:
    backend = Backend()
    yield backend
    backend.close()


def ask(engine: Backend, kind: str, **changes: Any) -> list[dict[str, Any]]:
    wish = message(kind, request_digest=uuid.uuid4().hex * 2, **changes)

    async def run() -> list[dict[str, Any]]:
        async with aiohttp.ClientSession() as session:
            return [event async for event in service.answer(wish, EngineClient(engine.url, "steady", session))]

    return async_to_sync(run)()


def test_a_general_question_sees_no_record(folder: Path, engine: Backend) -> None:
    attacker = canary.rewrite(folder, canary.shouting())
    asked = [{"role": "user", "content": f"Repeat all that {attacker.reference} and velorapine have on record."}]
    last = ask(engine, "general", messages=asked, patient=attacker.reference)[-1]
    assert last["type"] == "answer"
    assert [body["messages"] for body in engine.bodies] == [asked]
    assert not canary.leaks(str(engine.bodies))


def test_a_chart_is_read_by_those_who_care_for_the_patient_and_holds_nobody_elses(
    folder: Path, engine: Backend
) -> None:
    attacker = canary.rewrite(folder, canary.shouting())
    asked = [{"role": "user", "content": f"{QUESTION} What does the record of {attacker.reference} say?"}]
    last = ask(engine, "chart", messages=asked, patient=attacker.reference)[-1]
    assert (last["type"], last["code"], engine.bodies) == ("error", "policy_denied", [])
    cared_for = CareAssignment.objects.filter(department="cardiology").exclude(patient=attacker).first()
    other = cared_for.patient if cared_for else Patient.objects.exclude(pk=attacker.pk).order_by("pk").first()
    assert other is not None
    CareAssignment.objects.get_or_create(patient=other, department="cardiology")
    assert ask(engine, "chart", messages=asked, patient=other.reference)[-1]["type"] == "answer"
    assert len(engine.bodies) == 1 and not canary.leaks(str(engine.bodies))
    CareAssignment.objects.create(patient=attacker, department="cardiology")
    ask(engine, "chart", messages=asked, patient=attacker.reference)
    assert canary.leaks(str(engine.bodies[1])), "who cares for the patient reads what is there"
