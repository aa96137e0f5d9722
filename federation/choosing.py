"""Which mechanism answers a question over records, when its asker leaves that open: the cheapest one that can.

Pure: a function of the question's words, of what the asker named beside it and of what hospitals have published. It
reads no record and knows no budget, so the choice tells nothing, and while nothing new is published the same request is
chosen for alike (a repeat finds its stored release). What is published about a word of the question is asked first: it
was paid for once. Else it goes by fixed English words; what it does not recognise gets the mechanism that can answer
anything, free text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

#: The kind that a request names to have one chosen.
AUTO = "cohort"
COUNT, CHOICE, KEYWORDS, TEXT = "cohort.count", "cohort.choice", "cohort.keywords", "cohort.text"
RELEASED = "cohort.released"

#: Words that turn a question round. A match of words would count the opposite, so a node refuses such a count.
NEGATIONS = re.compile(r"\b(no|not|never|none|neither|nor|without|except|n['’]t|\w+n['’]t)\b", re.IGNORECASE)

# Chinese, Japanese, Thai, Lao, Burmese, Khmer: words are not set apart, so a search for words finds none of them.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)

_PEOPLE = r"(?:patients?|people|persons?|cases?|records?|women|men|adults|children|of (?:them|our|the|these|those))"
# What "how many" may ask for that no count of patients answers.
_MEASURES = (
    r"(?:mg|ml|milligrams?|millilit(?:re|er)s?|grams?|units?|doses?|tablets?|puffs?|times|seconds?|minutes?|hours?"
    r"|days?|nights?|weeks?|months?|years?|drugs?|medicines?|medications?|effects?|symptoms?|tests?|visits?|words?)"
)
_COUNTING = re.compile(
    rf"\bhow many\b(?!\s+(?:(?!{_PEOPLE}\b)[\w-]+\s+){{0,2}}{_MEASURES}\b)"
    rf"|\bnumber of\s+(?:(?!{_MEASURES}\b)[\w-]+\s+){{0,3}}{_PEOPLE}\b"
    rf"|^\W*(?:please\s+|(?:can|could) you\s+)?count\s+(?:all\s+|the\s+|our\s+|up\s+)*{_PEOPLE}\b",
    re.IGNORECASE,
)
#: What asks published figures for a number, and for a share: a node reads a question by the same.
NUMBERS = re.compile(r"\bhow many\b|\b(what|which) (is the )?number\b|^\s*(count|number of)\b", re.IGNORECASE)
SHARES = re.compile(
    r"\b(what|which|how (large|big|great|high)) (is |are )?(a |the )?(share|proportion|percentage|fraction|part)\b"
    r"|\b(share|proportion|percentage|fraction) of\b|\bper ?cent(age)?\b|%",
    re.IGNORECASE,
)
# Between the question word and the noun only words that leave "which of them, by name?" as it is.
_BETWEEN = (
    r"(?:(?:are|were|is|was|the|a|an|all|any|some|our|most|more|very|main|other|different|new|common|commonly|usual"
    r"|usually|typical|frequent|frequently|often|serious|severe|mild|known|reported|recorded|noted|seen|possible"
    r"|additional|kinds? of|sorts? of|types? of|of the)\s+){0,6}"
)
_NOUNS = (
    r"(?:(?:side|adverse|unwanted)[ -](?:effects?|events?|reactions?)|effects|reactions|symptoms?|signs|complaints"
    r"|complications?|drugs?|medicines?|medications?|treatments?|therap(?:y|ies)|remed(?:y|ies)|antibiotics?"
    r"|conditions?|diagnos[ie]s|diseases?|disorders?|allerg(?:y|ies)|tests?|key ?words?)"
)
_NAMING = re.compile(
    rf"\b(?:which|what|list|name)\s+{_BETWEEN}(?P<noun>{_NOUNS})\b(?!\s+(?:of|for)\s+(?:action|choice))", re.IGNORECASE
)
_TELLING = re.compile(
    r"\b(?:why|explain|describe|compare|summari[sz]e|how (?:do|does|did|was|were|is|are|should|can|could|long|much"
    r"|often|soon|well))\b",
    re.IGNORECASE,
)


def searchable(question: str) -> bool:
    """Whether a question holds a word that records could be searched for, by the question alone.

    It needs a letter or figure of a script that sets words apart.
    """
    return any(character.isalnum() for character in _UNSPACED.sub("", question))


class Chosen(NamedTuple):
    """The kind that answers, and the reason as a sentence for the asker. The reason repeats nothing of the question
    but words of this module's own lists and published words.
    """

    kind: str
    why: str


class Published(NamedTuple):
    """What one hospital that is up has published: the words that have a figure, and the topics of synthetic notes."""

    hospital: str
    name: str
    figures: frozenset[str] = frozenset()
    notes: frozenset[str] = frozenset()


def choose(
    question: str, options: Sequence[str] = (), given: Collection[str] = (), published: Sequence[Published] = ()
) -> Chosen:
    """The cheapest kind that can answer. ``given`` names the parameters that came with the question: ``picks`` means
    keywords, ``threshold`` a choice, ``contexts`` and ``top_k`` mean text, and with any of them nothing published is
    meant. ``published`` is of the hospitals that may answer, those to be named first first.
    """
    if not given and (released := _released(question, options, published)) is not None:
        return released
    if options or "threshold" in given:
        return Chosen(CHOICE, "You named the answers to choose between, so each patient's record has one vote.")
    if "picks" in given:
        return Chosen(KEYWORDS, "You said how many words are to be drawn, so the answer is made from words.")
    if "contexts" in given or "top_k" in given:
        return Chosen(TEXT, "You set how a text is to be written, so the answer is a text.")
    counting, naming = _COUNTING.search(question), _NAMING.search(question)
    if _TELLING.search(question) or (counting and naming):
        return Chosen(TEXT, "The question asks for more than a number or words, and only a text can say that.")
    if counting and (negation := NEGATIONS.search(question)):
        word = negation.group().lower()
        return Chosen(
            TEXT, f"The question asks for a number, but a count of matching words cannot understand “{word}”."
        )
    if counting:
        return Chosen(COUNT, "The question asks how many, so a number answers it: the least of your daily allowance.")
    if naming:
        noun = " ".join(naming.group("noun").lower().split())
        return Chosen(KEYWORDS, f"The question asks which {noun}: words that many records hold cost less than a text.")
    if SHARES.search(question):
        return Chosen(TEXT, "A share cannot be counted at once. Asking for its two numbers, one by one, costs less.")
    return Chosen(TEXT, "Nothing cheaper can answer this question: it asks for neither a number nor a list of words.")


def _released(question: str, options: Sequence[str], published: Sequence[Published]) -> Chosen | None:
    """Whether a hospital has published something about a word of the question, of the sort that it asks for.

    Figures answer who asks for a number, for one of several answers or for names; synthetic notes answer the rest. The
    hospital decides whether that answers it, and says so at no cost where it does not. Figures are matched by words
    like counts, so a negation asks the records; and two words have no number together.
    """
    if options or NUMBERS.search(question) or SHARES.search(question):
        sorts: tuple[str, ...] = ("figures",)
    elif _NAMING.search(question) and not _TELLING.search(question):
        sorts = ("figures", "notes")
    else:
        sorts = ("notes",)
    if NEGATIONS.search(question):
        return None
    for sort in sorts:
        of = {one: _named(question, one.figures if sort == "figures" else one.notes) for one in published}
        fitting = [one for one, words in of.items() if len(words) == 1 or (words and sort == "notes")]
        if fitting:
            who = f"{fitting[0].name} has" if len(fitting) == 1 else f"{len(fitting)} hospitals have"
            about = " and ".join(of[fitting[0]][:2])
            return Chosen(RELEASED, f"{who} published {sort} about {about}: asking them costs nothing.")
    return None


def _named(question: str, words: Collection[str]) -> list[str]:
    return [word for word in sorted(words) if _names(question, word)]


def _names(question: str, topic: str) -> bool:
    """Whether the topic stands in the question as whole words."""
    words = r"\s+".join(map(re.escape, topic.split()))
    return bool(words) and re.search(rf"(?<!\w){words}(?!\w)", question, re.IGNORECASE) is not None
