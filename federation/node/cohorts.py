"""Answers from counts, votes and words of many patients. Noise is added here; only noisy figures go on."""

from __future__ import annotations

from collections.abc import Sequence

from fdrouter.errors import InvalidParameter
from federation.choosing import NEGATIONS, searchable
from federation.node import terms, votes
from privacy.dp.cohort_plans import ChoicePlan, CountPlan, KeywordsPlan, Plan
from privacy.dp.confident_plans import ConfidentChoicePlan

KEYWORDS_SYSTEM = (
    "Answer the question in one short sentence, using the given keywords. Leave out keywords that do not fit."
)
NONE = "none or several of these"


def check(question: str, options: Sequence[str], plan: Plan) -> None:
    """Refuses what cannot be answered from records, by looking at the question alone, before anything is paid.

    Raises:
        InvalidParameter: no word that a record could hold, a negation in a count, options that cannot be told apart
            or cannot be found, a word list that is not there or too short.
    """
    if not searchable(question) or not votes.matched_words(question):
        raise InvalidParameter("The question holds no word that a record could be found by.", field="messages")
    if isinstance(plan, CountPlan) and NEGATIONS.search(question):
        raise InvalidParameter(
            "A count matches words and cannot understand a negation: count those who have it instead.", field="messages"
        )
    if isinstance(plan, ChoicePlan | ConfidentChoicePlan):
        lexemes = votes.lexemes(options)
        if not all(lexemes):
            bad = options[lexemes.index(set())]
            raise InvalidParameter(f"Records cannot be searched for the answer {bad!r}.", field="privacy.options")
        if len({frozenset(found) for found in lexemes}) < len(lexemes):
            raise InvalidParameter("Two of the answers mean the same words.", field="privacy.options")
    if isinstance(plan, KeywordsPlan) and len(terms.words_of(plan.terms)) < plan.picks:
        raise InvalidParameter("The word list is shorter than the number of picks.", field="privacy.picks")


def count(question: str, plan: CountPlan, blocks: Sequence[int]) -> str:
    """How many records of these blocks' patients match, with the error band.

    Below zero it is shown as zero, which costs nothing.
    """
    noisy = max(0, plan.noise.release([votes.count(question, blocks)])[0])
    low, high = max(0, noisy - plan.band), noisy + plan.band
    words = ", ".join(votes.matched_words(question))
    return (
        f"About {noisy} records match. The noise leaves {low} to {high}, in 95 of 100 cases.\n\n"
        f"Counted: records that hold all of these words: {words}. Negations and other words for the same are not seen."
    )


def choice(question: str, options: Sequence[str], plan: ChoicePlan, blocks: Sequence[int]) -> str:
    """The noisy histogram, largest first, and whether its lead is more than the noise could make."""
    return _told(question, options, plan.band, plan.noise.release(votes.votes(question, options, blocks)))


def confident_choice(
    question: str, options: Sequence[str], plan: ConfidentChoicePlan, blocks: Sequence[int]
) -> str | None:
    """As :func:`choice` where enough records agree on one answer; None where they do not."""
    found = votes.votes(question, options, blocks)
    if not plan.passes(found[:-1]):
        return None
    return _told(question, options, plan.band, plan.noise.release(found))


def withheld(question: str, plan: ConfidentChoicePlan) -> str:
    """What is said where too few records agree."""
    words = ", ".join(votes.matched_words(question))
    return (
        f"Fewer than about {plan.threshold} records agree on one of these answers, so nothing more is told, and"
        f" most of what the records paid goes back to them. Asked were records by these words: {words}."
    )


def _told(question: str, options: Sequence[str], band: int, noisy: Sequence[int]) -> str:
    named = sorted(zip(noisy, [*options, NONE], strict=True), key=lambda pair: (-pair[0], pair[1]))
    (first, winner), (second, _) = named[0], named[1]
    sure = "" if first - second > 2 * band else ", but not by more than the noise may have made"
    lines = [f"- {name}: about {max(0, found)} records" for found, name in named]
    words = votes.matched_words(question)
    which = f"at least half of these words: {', '.join(words)}" if len(words) > 1 else f"the word {words[0]}"
    return "\n".join(
        [
            f"Said most often: {winner}{sure}.",
            "",
            *lines,
            "",
            f"The noise moves each number by at most {band}, in 95 of 100 cases each. Asked were records that hold"
            f" {which}. A record that holds several of the answers counts as none.",
        ]
    )


def keywords(question: str, plan: KeywordsPlan, blocks: Sequence[int]) -> list[str]:
    """The words that were drawn, most likely ones first."""
    words = terms.words_of(plan.terms)
    return [words[index] for index in plan.selection.choose(votes.held_by(question, words, blocks))]


def keywords_messages(question: str, words: Sequence[str]) -> list[dict[str, str]]:
    """What the public model is asked: the question and the drawn words, nothing of any record."""
    return [
        {"role": "system", "content": KEYWORDS_SYSTEM},
        {"role": "user", "content": f"Question: {question}\nKeywords: {', '.join(words)}"},
    ]
