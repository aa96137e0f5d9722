"""The ways to answer over many records, as the Ask page offers them."""

from __future__ import annotations

from dataclasses import dataclass

from federation.choosing import AUTO
from federation.models import MECHANISMS, Kind
from privacy.dp.bounds import DEFAULT_EPSILON


@dataclass(frozen=True, slots=True)
class Form:
    """One way to answer over many records, cheapest first as the page lists them. ``words`` say what one gets.

    ``kind`` is a kind's value, or ``cohort`` where the question decides.
    """

    kind: str
    label: str
    words: str
    icon: str
    wanted: float | None = None

    @property
    def slug(self) -> str:
        return self.kind.replace(".", "-")

    @property
    def cost(self) -> float | None:
        """The wanted or else the usual privacy cost; a text has a control of its own, what is not chosen yet none."""
        return self.wanted or DEFAULT_EPSILON.get(MECHANISMS.get(self.kind, ""))


FORMS = (
    Form(AUTO, "Let fdrouter choose", "the cheapest way that can answer", "route"),
    Form(Kind.COHORT_RELEASED, "What is published", "figures and notes, no cost", "books"),
    Form(Kind.COHORT_COUNT, "A number", "how many records match", "sum"),
    Form(Kind.COHORT_CHOICE, "One of my answers", "you name the answers, the records vote", "list-check"),
    Form(Kind.COHORT_KEYWORDS, "Keywords", "common words, then a sentence from them", "tags"),
    Form(Kind.COHORT_TEXT, "Free text", "costs most", "writing"),
)
#: The labels by kind, as they stand inside a sentence.
IN_A_SENTENCE = {form.kind: form.label[0].lower() + form.label[1:] for form in FORMS}


def form_of(name: str) -> str:
    """The form of this name; where the question decides, for any other name."""
    return next((form.kind for form in FORMS if form.kind == name), AUTO)


def form_name(kind: str) -> str:
    """The label of the form that answers by this kind."""
    return next((form.label for form in FORMS if form.kind == kind), kind)
