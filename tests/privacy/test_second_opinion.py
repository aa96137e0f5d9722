"""The second accountant has a figure for every mechanism, alone and together, and it is a bound from above."""

from __future__ import annotations

import pytest

from privacy import statement
from privacy.dp import accounting, composition
from privacy.dp.across_plans import plan_choice_across, plan_count_across
from privacy.dp.across_text import plan_text_across
from privacy.dp.cohort_plans import Plan, plan_choice, plan_count, plan_keywords
from privacy.dp.confident_plans import plan_confident_choice
from privacy.dp.release_plans import Card, plan_cards, plan_corpus
from privacy.dp.text_plan import plan_text
from privacy.statement import Line, Statement

ORDER, DELTA = 3.4, 1e-5
PLANS: dict[str, Plan] = {
    "count": plan_count(),
    "choice": plan_choice(options=3),
    "checked choice": plan_confident_choice(options=3, threshold=20),
    "keywords": plan_keywords(),
    "text": plan_text(),
    "count together": plan_count_across(hospitals=3),
    "choice together": plan_choice_across(options=3, hospitals=3),
    "text together": plan_text_across(hospitals=2),
    "cards": plan_cards(cards=[Card("treatments", 6, 3)]),
    "notes": plan_corpus(topics="topics-1", groups=3),
}


def paid(*lines: tuple[Plan, int]) -> Statement:
    return Statement(tuple(Line(plan, count, count * plan.nano_at(ORDER)) for plan, count in lines), 0.0, 0.0, 1)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("count", [1, 3])
def test_every_mechanism_has_a_second_figure(name: str, count: int) -> None:
    plan = PLANS[name]
    second = statement.second_opinion(paid((plan, count)), ORDER, DELTA)
    assert second is not None
    # Where it knows less than the first accountant (a text's range, a sum's zCDP) it is larger, and never absurdly so.
    first = composition.composed([(plan.event, count)], DELTA, "rdp")
    assert 0.85 * first <= second <= 2.2 * first


def test_all_of_them_together_have_one() -> None:
    second = statement.second_opinion(paid(*((plan, 1) for plan in PLANS.values())), ORDER, DELTA)
    alone = [statement.second_opinion(paid((plan, 1)), ORDER, DELTA) for plan in PLANS.values()]
    assert second is not None and max(a for a in alone if a is not None) < second < sum(a for a in alone if a)


def test_a_sum_of_hospitals_enters_by_what_its_zcdp_implies() -> None:
    """The exact figure of a Gaussian with the same zCDP stays below: the zCDP may hide something worse."""
    plan = plan_count_across(hospitals=3, epsilon=1.0)
    second = statement.second_opinion(paid((plan, 1)), ORDER, DELTA)
    assert second is not None and second >= accounting.epsilon_of_rho(plan.rho, DELTA)
