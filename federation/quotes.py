"""What a request would cost, before it is sent. A quote reserves nothing and reads no record."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from accounts.principals import Principal
from fdrouter.errors import BlockExhausted, DomainError, NoNode, PolicyDenied, PushTooSmall, QuotaSpent
from federation import asks
from federation.asks import PrivacyOptions
from federation.models import Kind, Node, Transport
from privacy import quotas
from privacy.dp.cohort_plans import LEAST_EPSILON, Plan
from privacy.dp.text_plan import MAX_EPSILON, TextPlan, plan_text
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
}
# Measured on two CPU cores with the demo's model; a GPU is faster.
_SECONDS_PER_CONTEXT, _SECONDS_PER_TOKEN, _BASE_SECONDS = 0.16, 0.35, 2.0


@dataclass(frozen=True, slots=True)
class Quote:
    """``refusal`` is the error that sending now would meet. Epsilon figures are plain numbers."""

    kind: str
    claim: str
    seconds: int
    plan: Plan | None = None
    user_left: float = 0.0
    department_left: float = 0.0
    block_left: dict[str, float] = field(default_factory=dict)
    refusal: DomainError | None = None

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
        if kind.is_cohort:
            return 8 if kind == Kind.COHORT_KEYWORDS else 3
        return 5 if kind == Kind.GENERAL else 10
    return round(_BASE_SECONDS + plan.contexts * _SECONDS_PER_CONTEXT + plan.max_tokens * _SECONDS_PER_TOKEN)


@dataclass(frozen=True, slots=True)
class _Block:
    hospital: str
    epsilon_left: float
    nano_left: int
    alpha: float

    def pays(self, plan: Plan) -> bool:
        return self.nano_left >= plan.nano_at(self.alpha)


def _nodes(hospitals: Sequence[str]) -> list[Node]:
    """Nodes over records, of these hospitals or of all."""
    nodes = Node.objects.filter(active=True, transport=Transport.SEALED)
    return list(nodes.filter(hospital_id__in=hospitals) if hospitals else nodes)


def _blocks(nodes: Sequence[Node]) -> list[_Block]:
    """The blocks as the nodes last told them."""
    found = []
    for node in nodes:
        if block := node.status.get("block"):
            left = block["cap"] - block["used"]
            found.append(_Block(node.hospital_id, block["epsilon_left"], left, block["alpha"]))
    return found


def quote(
    principal: Principal,
    *,
    kind: str,
    epsilon: float | None = None,
    delta: float | None = None,
    hospitals: Sequence[str] = (),
    contexts: int | None = None,
    max_tokens: int | None = None,
    options: int = 2,
    picks: int | None = None,
) -> Quote:
    """The cost of a request of this kind now. ``options``: how many answers are chosen between.

    Raises:
        InvalidParameter: a value is out of range. A request that would be refused is a quote with ``refusal``.
    """
    chosen = Kind(kind)
    gauges = {gauge.scope: gauge for gauge in balances(principal) if gauge.is_privacy}
    if not gauges:  # a post that asks nothing and so has no quotas
        return Quote(chosen, CLAIMS[chosen], 0, refusal=PolicyDenied(kind=chosen.value))
    user, department = gauges[ScopeKind.USER].left, gauges[ScopeKind.DEPARTMENT].left
    if not chosen.is_cohort:
        return Quote(chosen, CLAIMS[chosen], expected_seconds(chosen, None), None, user, department)
    nodes = _nodes(hospitals)
    blocks = _blocks(nodes)
    shown = {block.hospital: block.epsilon_left for block in blocks}
    try:
        asked = PrivacyOptions(epsilon=epsilon, delta=delta, contexts=contexts, picks=picks)
        plan = asks.plan_for(chosen, asked, max_tokens, options)
    except DomainError as error:
        if error.code == "invalid_parameter":
            raise
        return Quote(chosen, CLAIMS[chosen], 0, None, user, department, shown, error)
    refusal = _refusal(plan, list(gauges.values()), blocks) if nodes else NoNode()
    seconds = expected_seconds(chosen, plan)
    return Quote(chosen, CLAIMS[chosen], seconds, plan, user, department, shown, refusal)


def _refusal(plan: Plan, gauges: Sequence[Gauge], blocks: list[_Block]) -> DomainError | None:
    """``details['try']`` holds the largest cost that would fit, if any does."""
    largest = _largest(gauges, blocks) if isinstance(plan, TextPlan) else _least_left(gauges)
    smaller: dict[str, Any] = {"try": [{"epsilon": largest}]} if largest is not None else {}
    for gauge in gauges:
        if quotas.micro(plan.epsilon) > quotas.micro(gauge.left):
            why = f"Today's privacy budget cannot pay for this: {_owner(gauge)} {_short(gauge.left)} left."
            return QuotaSpent(why, scope=gauge.scope, **smaller)
    if blocks and not any(block.pays(plan) for block in blocks):
        return BlockExhausted(**smaller)
    return None


# --- what could be afforded ---------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Offer:
    """One amount of privacy cost: what it buys, and ``obstacle`` where it does not fit what is left."""

    epsilon: float
    plan: TextPlan | None
    obstacle: str = ""

    @property
    def fits(self) -> bool:
        return self.plan is not None and not self.obstacle


@dataclass(frozen=True, slots=True)
class Offers:
    """The amounts that were asked about, in order, and ``largest``: the largest cost that fits, in tenths, or none.

    ``least`` is what the smallest question costs; below it the records could not influence a word. ``obstacle`` says
    what even that does not fit.
    """

    offers: tuple[Offer, ...]
    largest: float | None
    least: float
    obstacle: str


def offers(principal: Principal, amounts: Sequence[float]) -> Offers:
    """Which of these amounts fit the person's quota, their department's and at least one hospital's block."""
    gauges = [gauge for gauge in balances(principal) if gauge.is_privacy]
    blocks = _blocks(_nodes(()))
    found = tuple(_offer(amount, gauges, blocks) for amount in amounts)
    least = least_cost()
    return Offers(found, _largest(gauges, blocks), least, _offer(least, gauges, blocks).obstacle)


def _offer(epsilon: float, gauges: Sequence[Gauge], blocks: list[_Block]) -> Offer:
    try:
        plan = plan_text(epsilon=epsilon)
    except PushTooSmall:
        return Offer(epsilon, None, "too low for the records to be heard")
    for gauge in sorted(gauges, key=lambda gauge: gauge.left):
        if quotas.micro(epsilon) > quotas.micro(gauge.left):
            return Offer(epsilon, plan, f"{_owner(gauge)} {_short(gauge.left)} left today")
    if blocks and not any(block.pays(plan) for block in blocks):
        return Offer(epsilon, plan, "more than any hospital's records can still pay")
    return Offer(epsilon, plan)


def _owner(gauge: Gauge) -> str:
    names = {ScopeKind.USER: "you have", ScopeKind.HOSPITAL: "your hospital has"}
    return names.get(ScopeKind(gauge.scope), f"{gauge.label} has")


def _short(value: float) -> str:
    """At most two decimals, rounded down: never more than there is."""
    return f"{math.floor(value * 100 + 1e-6) / 100:.2f}".rstrip("0").rstrip(".")


def _largest(gauges: Sequence[Gauge], blocks: list[_Block]) -> float | None:
    """The largest tenth that fits; the smallest question's own cost where no tenth does."""
    most = min([MAX_EPSILON, *(gauge.left for gauge in gauges)])
    if blocks:
        most = min(most, max(block.epsilon_left for block in blocks))
    tenth = math.floor(most * 10 + 1e-6)
    # A block's figure is rounded and at another order, so the first try may be a step too high.
    for candidate in (tenth / 10, (tenth - 1) / 10, least_cost()):
        if candidate > 0 and _offer(candidate, gauges, blocks).fits:
            return candidate
    return None


def _least_left(gauges: Sequence[Gauge]) -> float | None:
    """What the scarcest quota can pay, in hundredths, or None when that is less than any question costs."""
    left = math.floor(min(gauge.left for gauge in gauges) * 100 + 1e-6) / 100
    return left if left >= LEAST_EPSILON else None


def least_cost() -> float:
    """Epsilon of the cheapest question over records, a hundredth exact."""
    try:
        plan_text(epsilon=0.01)
    except PushTooSmall as error:
        return float(next(offer["epsilon"] for offer in error.details["try"] if "epsilon" in offer))
    return 0.01
