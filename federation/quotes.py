"""What a request would cost, before it is sent. A quote reserves nothing and reads no record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from accounts.principals import Principal
from fdrouter.errors import (
    BlockExhausted,
    DomainError,
    InvalidParameter,
    NoNode,
    PolicyDenied,
    PushTooSmall,
    QuotaSpent,
)
from federation import across, asks, choosing, offers, selectors
from federation.asks import PrivacyOptions
from federation.choosing import Chosen
from federation.models import Kind
from federation.offers import Block, Wish
from privacy import quotas
from privacy.dp.across_plans import AcrossPlan
from privacy.dp.across_text import TextAcrossPlan
from privacy.dp.cohort_plans import OPTIONS, Plan
from privacy.dp.text_plan import TextPlan
from privacy.models import ScopeKind
from privacy.selectors import Gauge, balances

CLAIMS = {
    Kind.GENERAL: "The model answers from what it learned in public training. It reads no patient's record.",
    Kind.CHART: (
        "The model reads this one patient's record at your hospital. Access is checked and recorded; "
        "no anonymity is promised, so treat the answer like the chart itself."
    ),
    Kind.COHORT_COUNT: (
        "Patients are counted whose record matches every word of your question, and noise is added to the number. No "
        "model reads anything: any one patient changes the number only within the stated privacy cost."
    ),
    Kind.COHORT_CHOICE: (
        "Each patient whom your question is about has one vote, for the answer whose words stand in their record. You "
        "see every number with noise on it: any one patient changes them only within the stated privacy cost."
    ),
    Kind.COHORT_KEYWORDS: (
        "A few words of a public list are drawn, most likely those that many matching records hold; the model then "
        "writes a sentence from these words alone. Any one patient changes the draw only within the stated cost."
    ),
    Kind.COHORT_TEXT: (
        "The model reads many patients' records at once and noise hides each of them: what any one patient's record "
        "says, or another in its place, changes what you may see only within the stated privacy cost."
    ),
    Kind.COHORT_RELEASED: (
        "The answer is made from numbers and synthetic notes that a hospital published once, with noise that hides "
        "each patient. It reads no record, and what those have cost was paid then: asking costs nothing more."
    ),
}
_MANY = "A patient on record at several of them is counted at each and protected less for it."
#: The same kinds where several hospitals answer together.
CLAIMS_TOGETHER = {
    Kind.COHORT_COUNT: (
        "Each hospital adds noise to its own number and hides it under a mask; only the sum of all comes out, and"
        " nobody sees a hospital's own number. Any one patient changes the sum only within the stated privacy cost."
        f" {_MANY}"
    ),
    Kind.COHORT_CHOICE: (
        "Each hospital adds noise to its own votes and hides them under masks; only the sums of all come out, and"
        " nobody sees a hospital's own votes. Any one patient changes them only within the stated privacy cost."
        f" {_MANY}"
    ),
    Kind.COHORT_TEXT: (
        "The hospitals write the text together, word by word, and noise hides each patient within the stated privacy"
        " cost. The network's coordinator sees each hospital's sums behind every word and is trusted with them."
        f" {_MANY}"
    ),
}
# Measured on two CPU cores with the demo's model; a GPU is faster.
_SECONDS_PER_CONTEXT, _SECONDS_PER_TOKEN, _BASE_SECONDS = 0.16, 0.35, 2.0
_SECONDS_PER_ROW_ASKED = 0.017
_SECONDS_TOGETHER = 5


@dataclass(frozen=True, slots=True)
class Quote:
    """``refusal`` is the error that sending now would meet. Epsilon figures are plain numbers.

    ``block_left`` and ``block_share`` go by hospital: the epsilon of the largest single request that still fits, and
    the part of the whole block that this request reserves (0 to 1; parts add up, epsilons do not). ``chosen`` says why
    it is this kind, where that was left open. ``hospitals`` are those that would answer together, empty for one alone.
    """

    kind: str
    claim: str
    seconds: int
    plan: Plan | None = None
    user_left: float = 0.0
    department_left: float = 0.0
    block_left: dict[str, float] = field(default_factory=dict)
    refusal: DomainError | None = None
    block_share: dict[str, float] = field(default_factory=dict)
    chosen: Chosen | None = None
    hospitals: tuple[str, ...] = ()

    @property
    def band(self) -> int | None:
        """How far each number may be from the true one, with 95 % confidence; None where the answer has no numbers."""
        return getattr(self.plan, "band", None)

    @property
    def slots(self) -> int:
        """Records that one hospital reads at most for a text."""
        return self.plan.slots if isinstance(self.plan, TextAcrossPlan) else self.contexts

    @property
    def epsilon(self) -> float:
        return self.plan.epsilon if self.plan else 0.0

    @property
    def delta(self) -> float:
        return self.plan.delta if self.plan else 0.0

    @property
    def push(self) -> float:
        return self.plan.push if isinstance(self.plan, TextPlan) else 0.0

    @property
    def contexts(self) -> int:
        return self.plan.contexts if isinstance(self.plan, TextPlan) else 0

    @property
    def max_tokens(self) -> int:
        return self.plan.max_tokens if isinstance(self.plan, TextPlan) else 0


def expected_seconds(kind: Kind, plan: Plan | None) -> int:
    """A rough waiting time in whole seconds."""
    if not isinstance(plan, TextPlan):
        if isinstance(plan, AcrossPlan):
            return _SECONDS_TOGETHER
        if kind.is_cohort:
            return 8 if kind == Kind.COHORT_KEYWORDS else 3
        return 5 if kind == Kind.GENERAL else 10
    token = _SECONDS_PER_TOKEN
    if isinstance(plan, TextAcrossPlan):  # each token asks every hospital's rows anew; the demo's share one engine
        token += plan.contexts * _SECONDS_PER_ROW_ASKED
    return round(_BASE_SECONDS + plan.contexts * _SECONDS_PER_CONTEXT + plan.max_tokens * token)


def quote(
    principal: Principal,
    *,
    kind: str,
    question: str = "",
    options: Sequence[str] = (),
    hospitals: Sequence[str] = (),
    max_tokens: int | None = None,
    **parameters: Any,
) -> Quote:
    """The cost of a request of this kind now.

    ``kind`` may be ``cohort``: then ``question`` and ``options`` decide, as they will when it is sent. ``parameters``
    are epsilon, delta, contexts, picks, threshold and across, as in a request.

    Raises:
        InvalidParameter: a value is out of range. A request that would be refused is a quote with ``refusal``.
    """
    asked = PrivacyOptions(kind=kind, options=options or None, hospitals=hospitals, **parameters)
    if kind == choosing.AUTO and not question.strip():
        raise InvalidParameter("The kind cohort is chosen by the question: give it.", field="question")
    chosen = asks.choose(asked, question, selectors.published() if kind == choosing.AUTO else ())
    asked = asks.settled(asked, chosen)
    found = Kind(asked.kind)
    if question.strip():
        asks.check_searchable(found, question)
    if options and found == Kind.COHORT_CHOICE:
        asks.checked_options(options)
    together = asks.is_across(found, asked.across)
    claim = CLAIMS_TOGETHER[found] if together else CLAIMS[found]
    gauges = {gauge.scope: gauge for gauge in balances(principal) if gauge.is_privacy}
    if not gauges:  # a post that asks nothing and so has no quotas
        return Quote(found, claim, 0, refusal=PolicyDenied(kind=found.value), chosen=chosen)
    left = gauges[ScopeKind.USER].left, gauges[ScopeKind.DEPARTMENT].left
    if not selectors.purposes_by_kind(principal).get(found):
        return Quote(found, claim, 0, None, *left, refusal=PolicyDenied(kind=found.value), chosen=chosen)
    if not found.is_cohort:
        return Quote(found, claim, expected_seconds(found, None), None, *left, chosen=chosen)
    bare = Quote(found, claim, 0, None, *left, chosen=chosen)
    return _priced(bare, principal, asked, list(gauges.values()), question, max_tokens)


def _priced(
    bare: Quote,
    principal: Principal,
    asked: PrivacyOptions,
    gauges: Sequence[Gauge],
    question: str,
    max_tokens: int | None,
) -> Quote:
    """The quote of a kind with a privacy cost: plan, blocks, and the refusal it would meet."""
    kind, options, named = Kind(bare.kind), tuple(asked.options or ()), tuple(asked.hospitals)
    nodes = offers.nodes_of(named)
    together: tuple[str, ...] = ()
    try:
        plan = _plan(kind, asked, max_tokens, options, question)
        if asked.across:
            together, plan = across.members(plan, named)
            nodes = offers.nodes_of(together)
    except (PushTooSmall, NoNode) as error:
        blocks = offers.blocks_of(nodes)
        return replace(bare, block_left={b.hospital: b.epsilon_left for b in blocks}, refusal=error)
    except InvalidParameter as error:
        if error.details.get("field") != "privacy.hospitals":
            raise
        return replace(bare, refusal=error)
    blocks = offers.blocks_of(nodes)
    refusal: DomainError | None = NoNode()
    if nodes and (refusal := _refusal(plan, gauges, blocks, together)) is not None:
        wish = Wish(kind=kind, plan=plan, question=question, options=options, hospitals=together or named)
        refusal = offers.extend(refusal, principal, wish)
    return replace(
        bare,
        seconds=expected_seconds(kind, plan),
        plan=plan,
        block_left={block.hospital: block.epsilon_left for block in blocks},
        block_share={block.hospital: block.share(plan) for block in blocks},
        refusal=refusal,
        hospitals=together,
    )


def _plan(kind: Kind, asked: PrivacyOptions, max_tokens: int | None, options: Sequence[str], question: str) -> Plan:
    number = max(OPTIONS[0], len(options))
    if asked.across:
        return asks.plan_across(kind, asked, max_tokens, number, len(asked.hospitals))
    return asks.planned(kind, asked, max_tokens, number, question)


def _refusal(
    plan: Plan, gauges: Sequence[Gauge], blocks: Sequence[Block], together: Sequence[str]
) -> DomainError | None:
    for gauge in gauges:
        if quotas.micro(plan.epsilon) > quotas.micro(gauge.left):
            why = (
                f"Today's privacy budget cannot pay for this: {offers.owner_of(gauge)} {offers.short(gauge.left)} left."
            )
            return QuotaSpent(why, scope=gauge.scope, unit=gauge.unit)
    if together:
        paying = {block.hospital for block in blocks if block.pays(plan)}
        if short := [name for name in together if name not in paying]:
            names = ", ".join(offers.names_of(short))
            why = f"Every hospital pays for an answer together, and the privacy budget of {names} cannot."
            return BlockExhausted(why, hospitals=short)
        return None
    if blocks and not any(block.pays(plan) for block in blocks):
        return BlockExhausted()
    return None
