"""Answers from counts, votes and words of many patients. Noise is added here; only noisy figures go on."""

from __future__ import annotations

from collections.abc import Sequence

from federation.node import terms, votes
from privacy.dp.cohort_plans import ChoicePlan, CountPlan, KeywordsPlan

KEYWORDS_SYSTEM = (
    "Answer the question in one short sentence, using the given keywords. Leave out keywords that do not fit."
)


def count(question: str, plan: CountPlan) -> str:
    """How many patients' records match, with the error band. Below zero it is shown as zero, which costs nothing."""
    noisy = max(0, plan.noise.release([votes.count(question)])[0])
    low, high = max(0, noisy - plan.band), noisy + plan.band
    return f"About {noisy} patients (between {low} and {high}, with 95 % confidence)."


def choice(question: str, options: Sequence[str], plan: ChoicePlan) -> str:
    """The noisy histogram, largest first, and whether its lead is more than the noise could make."""
    noisy = plan.noise.release(votes.votes(question, options))
    named = sorted(zip(noisy, [*options, "none of these"], strict=True), key=lambda pair: (-pair[0], pair[1]))
    (first, winner), (second, _) = named[0], named[1]
    sure = "" if first - second > 2 * plan.band else ", but not by more than the noise may have made"
    lines = [f"- {name}: about {max(0, votes_for)} patients" for votes_for, name in named]
    lines += ["", f"Each number is within {plan.band} of the true one, with 95 % confidence."]
    return "\n".join([f"Said most often: {winner}{sure}.", "", *lines])


def keywords(question: str, plan: KeywordsPlan) -> list[str]:
    """The words that were drawn, most likely ones first."""
    words = terms.words_of(plan.terms)
    return [words[index] for index in plan.selection.choose(votes.held_by(question, words))]


def keywords_messages(question: str, words: Sequence[str]) -> list[dict[str, str]]:
    """What the public model is asked: the question and the drawn words, nothing of any record."""
    return [
        {"role": "system", "content": KEYWORDS_SYSTEM},
        {"role": "user", "content": f"Question: {question}\nKeywords: {', '.join(words)}"},
    ]
