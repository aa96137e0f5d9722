"""The ways to answer, each a small class: which share of its answers is right without noise, and at an epsilon.

Histograms, counts and words are exact numbers from each hospital's records; noise is drawn by the product's own plans
(``plan.noise``, ``plan.selection``), fresh for every answer. A way that refuses an epsilon raises the product's error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.utility.intervals import Floats
from benchmarks.utility.questions import Closed, Counted, Worded
from privacy.dp.across_plans import AcrossPlan, plan_choice_across, plan_count_across
from privacy.dp.cohort_plans import ChoicePlan, CountPlan, plan_choice, plan_count, plan_keywords

Integers = npt.NDArray[np.int64]
Json = Mapping[str, Any]

NONE = "none or several of these"  # as a node names the last cell
CLOSE = 0.10  # a count within this share of the truth is right


class Case(Protocol):
    """One question to one hospital, or to all together."""

    @property
    def fact(self) -> str: ...

    @property
    def unit(self) -> str: ...


class Way(Protocol):
    """``cases`` fixes the order of every list of shares."""

    name: str

    @property
    def cases(self) -> Sequence[Case]: ...

    def without_noise(self) -> list[float]:
        """1.0 where the same reading without noise is right, else 0.0."""

    def at(self, epsilon: float) -> list[float]:
        """The share of draws whose answer is right.

        Raises:
            PushTooSmall, InvalidParameter: the way refuses this epsilon.
        """


# --- choice ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Ballot:
    """A closed question with true votes: one for each option, and last those for none or several."""

    question: Closed
    hospital: str
    votes: tuple[int, ...]

    @property
    def fact(self) -> str:
        return self.question.fact

    @property
    def unit(self) -> str:
        return f"{self.hospital}/{self.question.fact}/{self.question.aspect}"


def ballots(questions: Sequence[Closed], tallies: Mapping[str, Json], key: str = "closed") -> list[Ballot]:
    """One for each question and hospital; questions that a node refuses are left out."""
    return [
        Ballot(question, hospital, tuple(told[key][question.id]["votes"]))
        for hospital, told in tallies.items()
        for question in questions
        if "votes" in told[key][question.id]
    ]


def together(ballots: Sequence[Ballot]) -> list[Ballot]:
    """The hospitals' votes added up, where every hospital has taken part."""
    grouped: dict[str, list[Ballot]] = {}
    for ballot in ballots:
        grouped.setdefault(ballot.question.id, []).append(ballot)
    most = max((len(group) for group in grouped.values()), default=0)
    return [
        Ballot(group[0].question, "all", tuple(int(n) for n in np.sum([one.votes for one in group], axis=0)))
        for group in grouped.values()
        if len(group) == most
    ]


def winners_right(histograms: npt.NDArray[Any], question: Closed, *, none: bool = True) -> npt.NDArray[np.bool_]:
    """Whether the largest cell is the truth, row by row; ties go by name, as at a node.

    ``histograms``: (draws, options + 1). ``none``: the last cell may win.
    """
    names = [*question.options, NONE] if none else list(question.options)
    order = sorted(range(len(names)), key=lambda place: names[place])
    right: npt.NDArray[np.bool_] = histograms[:, order].argmax(axis=1) == order.index(question.truth)
    return right


def noisy(plan: ChoicePlan | CountPlan | AcrossPlan, histograms: Integers) -> Integers:
    """The histograms, shape (draws, cells), with fresh noise on each cell; of a sum every hospital's part of it."""
    flat, parts = histograms.ravel(), plan.hospitals if isinstance(plan, AcrossPlan) else 1
    total = flat.copy()
    for _ in range(parts):
        total += np.array(plan.noise.release([0] * flat.size), dtype=np.int64)
    return total.reshape(histograms.shape)


class Choice:
    """A vote of each patient, a noisy histogram, its largest cell."""

    name: str = "choice"
    none: ClassVar[bool] = True

    def __init__(self, cases: Sequence[Ballot], draws: int) -> None:
        self.cases = cases
        self.draws = draws
        self._released: dict[float, list[Integers]] = {}

    def plan(self, options: int, epsilon: float) -> ChoicePlan | AcrossPlan:
        return plan_choice(options=options, epsilon=epsilon)

    def without_noise(self) -> list[float]:
        return [float(self._right(case, np.array([case.votes]))) for case in self.cases]

    def at(self, epsilon: float) -> list[float]:
        return [self._right(case, drawn) for case, drawn in zip(self.cases, self.released(epsilon), strict=True)]

    def released(self, epsilon: float) -> list[Integers]:
        """Noisy histograms, (draws, cells) for each case; drawn once an epsilon."""
        if epsilon not in self._released:
            self._released[epsilon] = [
                noisy(
                    self.plan(len(case.question.options), epsilon),
                    np.tile(np.array(case.votes, dtype=np.int64), (self.draws, 1)),
                )
                for case in self.cases
            ]
        return self._released[epsilon]

    def _right(self, case: Ballot, histograms: Integers) -> float:
        return float(winners_right(histograms, case.question, none=self.none).mean())


class ChoiceOfNamed(Choice):
    """The same releases, read as "which of my answers": the cell for none or several is left out. Reading is free."""

    name = "choice, of the named"
    none = False

    def __init__(self, whole: Choice) -> None:
        super().__init__(whole.cases, whole.draws)
        self._whole = whole

    def released(self, epsilon: float) -> list[Integers]:
        return self._whole.released(epsilon)


class ChoiceAcross(Choice):
    """Hospitals add up under masks, each with its part of the noise."""

    def __init__(self, cases: Sequence[Ballot], draws: int, hospitals: int) -> None:
        super().__init__(cases, draws)
        self.hospitals, self.name = hospitals, f"choice, {hospitals} hospitals"

    def plan(self, options: int, epsilon: float) -> AcrossPlan:
        return plan_choice_across(options=options, hospitals=self.hospitals, epsilon=epsilon)


# --- count ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Number:
    """A question for a number, what the records' words match, and what was planted."""

    question: Counted
    hospital: str
    matched: int
    truth: int

    @property
    def fact(self) -> str:
        return self.question.fact

    @property
    def unit(self) -> str:
        return f"{self.hospital}/{self.question.id}"


def numbers(questions: Sequence[Counted], tallies: Mapping[str, Json]) -> list[Number]:
    """One for each question and hospital; questions that a node refuses are left out."""
    return [
        Number(question, hospital, int(told["counted"][question.id]["count"]), question.truth[hospital])
        for hospital, told in tallies.items()
        for question in questions
        if "count" in told["counted"][question.id]
    ]


def all_numbers(cases: Sequence[Number]) -> list[Number]:
    """The hospitals' numbers added up."""
    grouped: dict[str, list[Number]] = {}
    for case in cases:
        grouped.setdefault(case.question.id, []).append(case)
    return [
        Number(group[0].question, "all", sum(one.matched for one in group), sum(one.truth for one in group))
        for group in grouped.values()
    ]


class Count:
    """Matching patients and noise; right when within a tenth of what was planted."""

    name: str = "count"

    def __init__(self, cases: Sequence[Number], draws: int) -> None:
        self.cases = cases
        self.draws = draws
        self._shown: dict[float, Integers] = {}

    def plan(self, epsilon: float) -> CountPlan | AcrossPlan:
        return plan_count(epsilon=epsilon)

    def without_noise(self) -> list[float]:
        return [float(_close(np.array([case.matched]), case.truth).mean()) for case in self.cases]

    def at(self, epsilon: float) -> list[float]:
        return [
            float(_close(row, case.truth).mean()) for case, row in zip(self.cases, self.shown(epsilon), strict=True)
        ]

    def shown(self, epsilon: float) -> Integers:
        """Noisy numbers as a node shows them, not below zero: (cases, draws); drawn once an epsilon."""
        if epsilon not in self._shown:
            matched = np.array([case.matched for case in self.cases], dtype=np.int64)
            drawn = noisy(self.plan(epsilon), np.tile(matched[:, None], (1, self.draws)))
            self._shown[epsilon] = np.maximum(0, drawn)
        return self._shown[epsilon]

    def errors(self, epsilon: float | None, aspect: str) -> Floats:
        """Distances from the truth in patients for one kind of count; without noise where epsilon is None."""
        chosen = [place for place, case in enumerate(self.cases) if case.question.aspect == aspect]
        truth = np.array([case.truth for case in self.cases])[chosen, None]
        told = np.array([[case.matched] for case in self.cases]) if epsilon is None else self.shown(epsilon)
        distances: Floats = np.abs(told[chosen] - truth).astype(np.float64)
        return distances


class CountAcross(Count):
    """Hospitals add up under masks, each with its part of the noise."""

    def __init__(self, cases: Sequence[Number], draws: int, hospitals: int) -> None:
        super().__init__(cases, draws)
        self.hospitals, self.name = hospitals, f"count, {hospitals} hospitals"

    def plan(self, epsilon: float) -> AcrossPlan:
        return plan_count_across(hospitals=self.hospitals, epsilon=epsilon)


def _close(found: Integers, truth: int) -> npt.NDArray[np.bool_]:
    near: npt.NDArray[np.bool_] = np.abs(found - truth) <= CLOSE * truth
    return near


# --- keywords -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Words:
    """A question, and for each word of the public list how many patients of the cohort have it."""

    question: Worded
    hospital: str
    held: tuple[int, ...]

    @property
    def fact(self) -> str:
        return self.question.fact

    @property
    def unit(self) -> str:
        return f"{self.hospital}/{self.question.fact}/{self.question.aspect}"


def words(questions: Sequence[Worded], tallies: Mapping[str, Json]) -> list[Words]:
    """One for each question and hospital; questions that a node refuses are left out."""
    return [
        Words(question, hospital, tuple(told["worded"][question.id]["held"]))
        for hospital, told in tallies.items()
        for question in questions
        if "held" in told["worded"][question.id]
    ]


class Keywords:
    """Words drawn from a public list; right when one of them says what was planted."""

    name: str = "keywords"

    def __init__(self, cases: Sequence[Words], terms: Sequence[str], draws: int) -> None:
        self.cases = cases
        self.terms = terms
        self.draws = draws
        self.picks = plan_keywords().picks

    def without_noise(self) -> list[float]:
        """The most frequent words; equal ones by lot, as the smallest noise would."""
        return [self._most_frequent(case) for case in self.cases]

    def _most_frequent(self, case: Words) -> float:
        least = sorted(case.held, reverse=True)[self.picks - 1]
        sure = [place for place, held in enumerate(case.held) if held > least]
        level = [place for place, held in enumerate(case.held) if held == least]
        if self._hit(case, sure):
            return 1.0
        return 1 - self._all_miss(sum(self._hit(case, [p]) for p in level), len(level), self.picks - len(sure))

    def at(self, epsilon: float) -> list[float]:
        selection = plan_keywords(epsilon=epsilon).selection
        return [
            sum(self._hit(case, selection.choose(case.held)) for _ in range(self.draws)) / self.draws
            for case in self.cases
        ]

    def chance(self) -> float:
        """The share of right answers when words are drawn blindly, on average over the questions."""
        blind = [1 - self._all_miss(len(case.question.accepted), len(self.terms), self.picks) for case in self.cases]
        return sum(blind) / len(blind) if blind else 0.0

    @staticmethod
    def _all_miss(wanted: int, total: int, picks: int) -> float:
        """The probability that none of ``wanted`` among ``total`` is in ``picks`` drawn by lot."""
        return math.comb(total - wanted, picks) / math.comb(total, picks)

    def _hit(self, case: Words, places: Sequence[int]) -> bool:
        return any(self.terms[place] in case.question.accepted for place in places)


# --- released -------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Shelved:
    """A question to statistics cards; ``answers`` by epsilon, one for each publication, empty where there is none."""

    question: Closed | Counted
    hospital: str
    answers: Mapping[str, Sequence[str]]
    before: float  # the share of right answers of votes or counts without noise

    @property
    def fact(self) -> str:
        return self.question.fact

    @property
    def unit(self) -> str:
        return f"{self.hospital}/{self.question.fact}/{self.question.aspect}"

    @property
    def answered(self) -> bool:
        """A list of separate figures is no answer to a question for one number."""
        opening = "Published most often: " if isinstance(self.question, Closed) else "About "
        texts = [text for made in self.answers.values() for text in made]
        return bool(texts) and all(text.startswith(opening) for text in texts)


class Released:
    """Answers that the node's shelf gives from cards that were published at an epsilon; asking costs nothing more."""

    def __init__(self, name: str, cases: Sequence[Shelved]) -> None:
        self.name = name
        self.asked = len(cases)
        self.cases = [case for case in cases if case.answered]

    def without_noise(self) -> list[float]:
        return [case.before for case in self.cases]

    def at(self, epsilon: float) -> list[float]:
        told = [[said_right(text, case) for text in case.answers[f"{epsilon:g}"]] for case in self.cases]
        return [sum(row) / len(row) for row in told]


def said_right(text: str, case: Shelved) -> bool:
    """Whether the shelf's first line names the right answer, or a number close to the truth."""
    if isinstance(case.question, Closed):
        told = re.match(r"Published most often: (?:.* with )?(.+?)(?:, but not .*)?\.$", text)
        return told is not None and told[1].casefold() == case.question.options[case.question.truth].casefold()
    told = re.match(r"About (\d+) patients", text)
    return told is not None and bool(_close(np.array([int(told[1])]), case.question.truth[case.hospital])[0])


def shelved(
    key: str,
    questions: Sequence[Closed] | Sequence[Counted],
    before: Mapping[tuple[str, str], float],
    tallies: Mapping[str, Json],
) -> list[Shelved]:
    """``key``: closed or counted, as the hospitals name their answers; ``before``: by hospital and question, the share
    of right answers of votes or counts without noise.
    """
    return [
        Shelved(
            question,
            hospital,
            {epsilon: [one[key][question.id] for one in made] for epsilon, made in told["released"].items()},
            before.get((hospital, question.id), 0.0),
        )
        for hospital, told in tallies.items()
        for question in questions
    ]
