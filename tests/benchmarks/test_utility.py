"""What the utility benchmark computes: intervals, points lost, questions without doubt, a year's questions by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.utility import engine, questions, sizes, ways, year
from benchmarks.utility.intervals import Estimate, accuracy, bootstrap, points_lost, wilson
from benchmarks.utility.questions import Closed, Counted, Worded
from benchmarks.utility.ways import Ballot, Number, Words
from federation.node.demo_records import facts, small
from federation.node.demo_records.overlay import plant
from privacy.dp.across_plans import plan_count_across
from privacy.dp.cohort_plans import plan_choice

TERMS = ["cough", "dry cough", "pain", "rash", "dose reduced", "injection", "fever", "nausea"]


@pytest.fixture(scope="module")
def manifests() -> dict[str, Any]:
    """Those of the demo's three hospitals, without simulating their other records."""
    found = {}
    for name, hospital in facts.hospitals().items():
        _, found[name] = plant(hospital, facts.planted_facts(), [], small.patient_ids(hospital, 400))
    return found


# --- intervals ------------------------------------------------------------------------------------------------------
def test_wilson_is_the_published_interval() -> None:
    # Newcombe 1998, table I: 81 of 263, and 15 of 148; and the two ends.
    assert (round(wilson(81, 263).low, 4), round(wilson(81, 263).high, 4)) == (0.2553, 0.3662)
    assert (round(wilson(15, 148).low, 4), round(wilson(15, 148).high, 4)) == (0.0624, 0.1605)
    assert wilson(0, 20).low == 0 and round(wilson(0, 20).high, 4) == 0.1611
    assert wilson(20, 20).high == pytest.approx(1) and wilson(20, 20).low < 0.85


@pytest.mark.parametrize(("right", "n"), [(1, 0), (-0.1, 3), (3.1, 3)])
def test_wilson_refuses_what_is_no_share(right: float, n: int) -> None:
    with pytest.raises(ValueError, match="between 0 and n"):
        wilson(right, n)


def test_wordings_of_one_question_make_nothing_surer() -> None:
    once = accuracy([1.0, 0.0], ["a", "b"])
    assert accuracy([1.0, 1.0, 1.0, 0.0], ["a", "a", "a", "b"]) == once
    assert once.n == 2 and once.value == 0.5


def test_points_lost_are_of_pairs_and_drawn_by_cluster() -> None:
    same = points_lost([1.0, 0.0, 1.0], [1.0, 0.0, 1.0], ["a", "b", "c"])
    assert (same.value, same.low, same.high, same.n) == (0, 0, 0, 3)
    lost = points_lost([1.0, 1.0, 1.0, 0.0], [0.5, 1.0, 1.0, 0.0], ["a", "b", "c", "d"])
    assert lost.value == pytest.approx(12.5) and lost.low == 0 and lost.high > 12.5
    # Two clusters that differ: the interval reaches from one to the other, however many questions they hold.
    apart = points_lost([1.0] * 100, [1.0] * 50 + [0.0] * 50, ["a"] * 50 + ["b"] * 50)
    assert (apart.value, apart.low, apart.high) == (50, 0, 100)
    assert bootstrap([[1.0]], lambda values: float(values.mean())) == Estimate(1.0, 1.0, 1.0, 1)
    with pytest.raises(ValueError, match="nothing"):
        points_lost([], [], [])


# --- questions ------------------------------------------------------------------------------------------------------
def test_there_are_enough_closed_questions_and_each_has_one_right_answer(manifests: dict[str, Any]) -> None:
    found = questions.closed(manifests, facts.planted_facts())
    planted = {fact.id: fact for fact in facts.planted_facts()}
    assert len(found) >= 60 and len({question.id for question in found}) == len(found)
    assert {len(question.options) for question in found} == {2, 3, 4, 5}
    assert len({question.truth for question in found}) > 2, "the right answer stands at no fixed place"
    for question in found:
        words = [questions.words_of(option) for option in question.options]
        for place, mine in enumerate(words):
            assert mine and not mine <= questions.words_of(question.text), question
            assert not any(mine <= other for nth, other in enumerate(words) if nth != place), question
        if question.aspect != "course":
            assert question.options[question.truth] == getattr(planted[question.fact], question.aspect)
            told = [manifest["facts"][question.fact] for manifest in manifests.values()]
            if question.aspect in ("effect", "remedy"):
                assert question.options[question.truth] in (told[0]["effect"], told[0]["remedy"])


def changed(manifests: Mapping[str, Any], fact: str, **values: int) -> dict[str, Any]:
    """The manifests with other counts of one fact at one hospital."""
    told = manifests["lakeside"]
    other = {**told, "facts": {**told["facts"], fact: {**told["facts"][fact], **values}}}
    return {**manifests, "lakeside": other}


def test_what_only_half_of_a_cohort_has_is_not_asked(manifests: dict[str, Any]) -> None:
    def asked(found: Mapping[str, Any]) -> set[str]:
        planted = facts.planted_facts()
        return {q.aspect for q in questions.closed(found, planted) if q.fact == "velorapine"}

    assert asked(manifests) == {"effect", "remedy", "course", "dose", "indication"}
    assert asked(changed(manifests, "velorapine", resolved=55)) == {"effect", "dose", "indication"}
    assert asked(changed(manifests, "velorapine", resolved=55, with_effect=55)) == {"dose", "indication"}
    assert asked({}) == set()
    without = {**manifests, "lakeside": {"facts": {}}}
    assert asked(without) == set()


def test_an_answer_that_says_the_same_or_stands_in_the_question_is_not_offered(manifests: dict[str, Any]) -> None:
    one, *others = facts.planted_facts()

    def offered(*more: Any) -> set[str]:
        asked = [q for q in questions.closed(manifests, [one, *more]) if q.fact == one.id and q.aspect == "effect"]
        return {option for question in asked for option in question.options}

    same, part, asked = (
        replace(one, id=f"other-{effect}", effect=effect) for effect in ("a dry cough at night", "cough", "velorapine")
    )
    good, second = [fact for fact in others if fact.kind == one.kind][:2]
    assert offered(good, second, same, part, asked) == {one.effect, good.effect, second.effect}
    # With one other answer alone there is no choice between three.
    assert not offered(good, same) and not offered(good, part) and not offered(good, asked)


def test_words_that_say_another_thing_are_not_accepted(manifests: dict[str, Any]) -> None:
    found = questions.worded(manifests, facts.planted_facts(), TERMS)
    by_id = {question.id: question.accepted for question in found}
    assert by_id["velorapine/effect/0"] == {"cough", "dry cough"}
    assert by_id["velorapine/remedy/0"] == {"dose reduced"}
    assert by_id["pelostrine/effect/0"] == {"rash"}
    assert not any(name.startswith("haldenex/effect") for name in by_id), "pain is not walking without pain"
    listed = questions.listed(manifests, facts.planted_facts(), [*TERMS, "warm flush", "headache"])
    assert listed and all(set(question.options) <= {*TERMS, "warm flush", "headache"} for question in listed)


def test_counts_are_the_manifests(manifests: dict[str, Any]) -> None:
    found = {question.id: question for question in questions.counted(manifests, facts.planted_facts())}
    assert len(found) >= 30
    assert found["velorapine/all"].truth == {"northfield": 110, "lakeside": 110, "hillcrest": 110}
    assert found["velorapine/had"].truth == {"northfield": 95, "lakeside": 90, "hillcrest": 98}
    both = [question for question in found.values() if question.aspect == "both"]
    assert both and all(min(question.truth.values()) >= questions.LEAST_COUNT for question in both)
    one, other = both[0].id.split("+")
    members = manifests["lakeside"]["facts"]
    assert both[0].truth["lakeside"] == len(set(members[one]["members"]) & set(members[other]["members"]))
    assert not any("without" in question.text for question in found.values())


# --- ways -----------------------------------------------------------------------------------------------------------
QUESTION = Closed(id="q", fact="f", aspect="effect", text="?", options=("nausea", "cough"), truth=1)


def test_the_largest_cell_answers_and_ties_go_by_name() -> None:
    votes = np.array([[1, 5, 2], [5, 1, 2], [0, 4, 9], [4, 4, 0], [0, 4, 4]])
    assert ways.winners_right(votes, QUESTION).tolist() == [True, False, False, True, True]
    assert ways.winners_right(votes, QUESTION, none=False).tolist() == [True, False, True, True, True]


def test_noise_moves_votes_that_are_close_and_leaves_clear_ones() -> None:
    clear, close = (Ballot(QUESTION, "h", votes) for votes in ((0, 5000, 10), (50, 51, 0)))
    one = ways.Choice([clear, close], draws=200)
    assert one.without_noise() == [1.0, 1.0]
    found = one.at(1.0)
    assert found[0] == 1.0 and 0.3 < found[1] < 0.8
    assert one.at(1.0) == found, "an epsilon is released once, and read in two ways"
    assert ways.ChoiceOfNamed(one).at(1.0)[1] >= found[1]
    across = ways.ChoiceAcross(ways.together([clear, clear, clear]), 50, 3)
    assert across.cases[0].votes == (0, 15000, 30) and across.at(0.5) == [1.0]


def test_the_noise_is_the_plans() -> None:
    plan = plan_choice(options=2, epsilon=1.0)
    drawn = ways.noisy(plan, np.full((4000, 3), 100, dtype=np.int64))
    assert drawn.std() == pytest.approx(plan.sigma, rel=0.05) and drawn.mean() == pytest.approx(100, abs=0.5)


def test_the_noise_of_a_sum_is_every_hospitals() -> None:
    plan = plan_count_across(hospitals=3, epsilon=1.0)
    drawn = ways.noisy(plan, np.full((6000, 1), 100, dtype=np.int64))
    assert drawn.std() == pytest.approx(math.sqrt(3) * plan.sigma, rel=0.06)


def test_a_count_is_right_within_a_tenth_of_what_was_planted() -> None:
    def number(matched: int, truth: int) -> Number:
        asked = Counted(id=f"{matched}", fact="f", aspect="all", text="?", truth={"h": truth})
        return Number(asked, "h", matched, truth)

    way = ways.Count([number(110, 100), number(111, 100), number(90, 100), number(0, 5)], draws=50)
    assert way.without_noise() == [1.0, 0.0, 1.0, 0.0]
    assert way.errors(None, "all").ravel().tolist() == [10, 11, 10, 5]
    assert way.shown(0.1).min() >= 0
    assert [case.truth for case in ways.all_numbers([number(1, 2), number(1, 3)])] == [5]


def test_level_words_are_drawn_by_lot() -> None:
    asked = Worded(id="w", fact="f", aspect="effect", text="?", accepted=frozenset({"c"}))
    terms = ["a", "b", "c", "d", "e", "f"]
    held = [(9, 9, 9, 9, 0, 0), (9, 9, 9, 5, 5, 0), (9, 9, 5, 9, 5, 5), (9, 9, 0, 9, 9, 0)]
    way = ways.Keywords([Words(asked, "h", row) for row in held], terms, draws=5)
    assert way.picks == 4
    assert way.without_noise() == pytest.approx([1.0, 1.0, 1 / 3, 0.0])
    assert way.chance() == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("Published most often: velorapine with cough.", True),
        ("Published most often: velorapine with cough, but not by more than the noise.", True),
        ("Published most often: velorapine with nausea.", False),
        ("About 12 patients were counted: velorapine.", False),
    ],
)
def test_the_shelf_answers_a_choice(text: str, right: bool) -> None:
    case = ways.Shelved(QUESTION, "h", {"1": [text]}, 1.0)
    assert ways.said_right(text, case) is right
    assert case.answered is text.startswith("Published")


def test_the_shelf_answers_a_count_with_one_number() -> None:
    asked = Counted(id="c", fact="f", aspect="all", text="?", truth={"h": 100})
    told = {"1": [f"About {n} patients were counted: velorapine. The noise leaves" for n in (91, 5)]}
    way = ways.Released("cards", [ways.Shelved(asked, "h", told, 1.0)])
    assert way.at(1.0) == [0.5] and way.without_noise() == [1.0]
    listing = ways.Shelved(asked, "h", {"1": ["- velorapine: about 100 patients counted"]}, 1.0)
    assert ways.Released("cards", [listing, ways.Shelved(asked, "h", {}, 1.0)]).cases == []


def test_a_text_is_right_by_words_that_the_question_does_not_hold() -> None:
    asked = next(q for q in facts.questions() if q.id == "quillamine-outcome")
    assert not engine.spoken(asked, "h", "The migraine was bad.").right
    told = engine.spoken(asked, "h", "In our records, fewer days within twelve weeks.")
    assert told.right and told.whole
    assert engine.near("About 1,095 patients of 7", 1000) and not engine.near("many", 10)


# --- sizes ----------------------------------------------------------------------------------------------------------
def test_a_thinned_cohort_is_a_part_of_the_whole() -> None:
    found = sizes.thinned((80, 15, 5), 20, 500)
    assert found.shape == (500, 3) and (found.sum(axis=1) == 20).all() and (found <= (80, 15, 5)).all()
    assert found.mean(axis=0) == pytest.approx([16, 3, 1], abs=0.3)
    assert (sizes.thinned((80, 15, 5), 100, 3) == (80, 15, 5)).all()
    with pytest.raises(ValueError, match="sum"):
        sizes.thinned((1, 1), 3, 1)


def test_the_aim_holds_from_where_it_holds_for_good() -> None:
    def lost(high: float) -> Estimate:
        return Estimate(0.0, 0.0, high, 3)

    found = {10: lost(9.0), 20: lost(1.0), 50: lost(3.0), 100: lost(2.0), 200: lost(0.0)}
    assert sizes.holds_from(found, 2.1) == 100
    assert sizes.holds_from(found, 10.0) == 10
    assert sizes.holds_from({10: lost(3.0)}, 2.1) is None


def test_small_cohorts_lose_more() -> None:
    ballots = [Ballot(QUESTION, "h", (20, 90, 10))]
    found = sizes.lost_by_size(ballots, 0.5, draws=200)
    assert max(found) == 120 and found[10].value > found[100].value
    # Two cells of sigma 5.72 differ by 8.09 sigma: 2.1 % is 2.03 of these.
    assert 15 <= sizes.lead_needed(1.0, 2.1, 1) <= 19 < sizes.lead_needed(1.0, 2.1, 4)


# --- a year ---------------------------------------------------------------------------------------------------------
class Fixed:
    """A plan of a known cost."""

    def __init__(self, nano: int) -> None:
        self.nano = nano

    def nano_at(self, alpha: float) -> int:
        assert alpha == pytest.approx(3.4)
        return self.nano


def test_a_years_questions_are_what_the_block_pays() -> None:
    # By hand: at order 3.4 a block of (10, 1e-5) has 10 - ln(1 - 1/3.4) + ln(3.4e-5) / 2.4 = 6.0605 to spend.
    assert year.affordable(Fixed(10**9), 1.0).questions == 6
    assert year.affordable(Fixed(10**8), 1.0).questions == 60
    assert year.affordable(Fixed(10**8), 1.0, after=Fixed(3 * 10**9)).questions == 30
    assert year.affordable(Fixed(10**9), 1.0, after=Fixed(7 * 10**9)).questions == 0
    # rho of (1, 1e-5) is 0.0306, which costs 3.4 * 0.0306 = 0.104: 58 of them.
    one = year.affordable(year.WAYS["choice"](1.0), 1.0)
    assert one.questions == 58 and one.plainly == 10 and one.a_day == pytest.approx(58 / 365)
    assert year.affordable(year.WAYS["keywords"](0.1), 0.1).plainly == 100


def test_a_way_that_is_refused_has_no_year() -> None:
    found = year.row("text", (0.1, 0.5, 3.0))
    assert found[:2] == [None, None] and found[2] is not None and found[2].questions == 7
