"""What can still be paid, and what to do instead where something cannot: a refusal comes with concrete offers.

An offer looks at public state only: what the quotas have left, what each block had left when its node last told, and
the question's own words. It reserves nothing, so what it names may have gone when it is taken up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

from accounts import principals
from accounts.models import Hospital
from accounts.principals import Principal
from fdrouter.errors import (
    BlockExhausted,
    DomainError,
    NotFound,
    NothingReleased,
    PushTooSmall,
    QuotaSpent,
    Unauthenticated,
)
from federation import asks, choosing, selectors
from federation.asks import PrivacyOptions
from federation.models import MECHANISMS, Inference, Kind, Node, Transport
from privacy import quotas
from privacy.dp import cohort_plans
from privacy.dp.across_plans import HOSPITALS, AcrossPlan, plan_choice_across, plan_count_across
from privacy.dp.across_text import HOSPITALS as HOSPITALS_OF_TEXT
from privacy.dp.across_text import TextAcrossPlan, plan_text_across
from privacy.dp.bounds import DEFAULT_EPSILON
from privacy.dp.cohort_plans import LEAST_EPSILON, Plan
from privacy.dp.text_plan import DEFAULT_DELTA, MAX_EPSILON, TextPlan, plan_text
from privacy.models import ScopeKind, Unit
from privacy.selectors import Gauge, balances


@dataclass(frozen=True, slots=True)
class Block:
    """What a hospital's block could still pay, as its node last told it; of several the one that can pay most."""

    hospital: str
    epsilon_left: float
    nano_left: int
    alpha: float
    nano_cap: int

    def pays(self, plan: Plan) -> bool:
        return self.nano_left >= plan.nano_at(self.alpha)

    def share(self, plan: Plan) -> float:
        """The part of the whole block that this plan reserves, from 0 up. These parts add up; epsilons do not."""
        return plan.nano_at(self.alpha) / self.nano_cap if self.nano_cap > 0 else math.inf


def nodes_of(hospitals: Sequence[str]) -> list[Node]:
    """Nodes over records, of these hospitals or of all."""
    nodes = Node.objects.filter(active=True, transport=Transport.SEALED)
    return list(nodes.filter(hospital_id__in=hospitals) if hospitals else nodes)


def blocks_of(nodes: Sequence[Node]) -> list[Block]:
    """The blocks as the nodes last told them."""
    found = []
    for node in nodes:
        if block := node.status.get("block"):
            left = block["cap"] - block["used"]
            found.append(Block(node.hospital_id, block["epsilon_left"], left, block["alpha"], block["cap"]))
    return found


def names_of(hospitals: Sequence[str]) -> list[str]:
    """The hospitals' names, in the order of their codes."""
    return list(Hospital.objects.filter(pk__in=hospitals).order_by("pk").values_list("name", flat=True))


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
    blocks = blocks_of(nodes_of(()))
    found = tuple(_offer(amount, gauges, blocks) for amount in amounts)
    least = least_cost()
    return Offers(found, _largest(gauges, blocks), least, _offer(least, gauges, blocks).obstacle)


def _offer(epsilon: float, gauges: Sequence[Gauge], blocks: Sequence[Block]) -> Offer:
    try:
        plan = plan_text(epsilon=epsilon)
    except PushTooSmall:
        return Offer(epsilon, None, "too low for the records to be heard")
    for gauge in sorted(gauges, key=lambda gauge: gauge.left):
        if quotas.micro(epsilon) > quotas.micro(gauge.left):
            return Offer(epsilon, plan, f"{owner_of(gauge)} {short(gauge.left)} left today")
    if blocks and not any(block.pays(plan) for block in blocks):
        return Offer(epsilon, plan, "more than any hospital's records can still pay")
    return Offer(epsilon, plan)


def owner_of(gauge: Gauge) -> str:
    names = {ScopeKind.USER: "you have", ScopeKind.HOSPITAL: "your hospital has"}
    return names.get(ScopeKind(gauge.scope), f"{gauge.label} has")


def short(value: float) -> str:
    """At most two decimals, rounded down: never more than there is."""
    return f"{math.floor(value * 100 + 1e-6) / 100:.2f}".rstrip("0").rstrip(".")


def _largest(gauges: Sequence[Gauge], blocks: Sequence[Block], most: float = MAX_EPSILON) -> float | None:
    """The largest tenth up to ``most`` that fits; the smallest question's own cost where no tenth does."""
    most = min([most, *(gauge.left for gauge in gauges)])
    if blocks:
        most = min(most, max(block.epsilon_left for block in blocks))
    tenth = math.floor(most * 10 + 1e-6)
    # A block's figure is rounded and at another order, so the first try may be a step too high.
    for candidate in (tenth / 10, (tenth - 1) / 10, least_cost()):
        if candidate > 0 and _offer(candidate, gauges, blocks).fits:
            return candidate
    return None


def least_cost() -> float:
    """Epsilon of the cheapest question over records, a hundredth exact."""
    try:
        plan_text(epsilon=0.01)
    except PushTooSmall as error:
        return float(next(offer["epsilon"] for offer in error.details["try"] if "epsilon" in offer))
    return 0.01


# --- what to do instead -------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was refused. ``plan`` is there for kinds that have a privacy cost."""

    kind: Kind
    plan: Plan | None
    question: str = ""
    options: Sequence[str] = ()
    hospitals: Sequence[str] = ()


#: The kinds over records, cheapest for a quota first.
_BY_COST = (Kind.COHORT_COUNT, Kind.COHORT_CHOICE, Kind.COHORT_KEYWORDS, Kind.COHORT_TEXT)
_PART_OF_WISH = (1.0, 0.9, 0.75, 0.5, 0.25, 0.1)
BUDGET_PAGE = "/budget"


def extend(error: DomainError, principal: Principal, wish: Wish) -> DomainError:
    """The error with ``details["try"]``: single changes that would each have an answer, best first.

    ``{"epsilon"}`` is the same question for less (a text of a set size with ``"max_tokens"`` where it must become
    shorter for that), ``{"kind", "epsilon"}`` a cheaper way to answer it, ``{"hospitals"}`` other records,
    ``{"across"}`` several hospitals together or one alone, ``{"kind": "cohort.released"}`` what is published (where
    something is: it may not be about this, but asking is free), ``{"kind": "general"}`` no records,
    ``{"request_budget"}`` where to ask for more of a daily quota. A spent quota also says when it refills:
    ``refills_at`` and, in whole seconds, ``retry_after``; not where even a full quota would not pay. Where nothing
    published answers, the first offer is the records themselves. Other errors stay as they are.
    """
    if not isinstance(error, QuotaSpent | BlockExhausted | NothingReleased):
        return error
    gauges = balances(principal)
    found: list[dict[str, Any]] = []
    if error.details.get("unit") != Unit.REQUESTS:
        found = _changes(error, principal, wish, [gauge for gauge in gauges if gauge.is_privacy])
    error.details = {**error.details, "try": found, **(_refill(error, wish, gauges))}
    return error


def _changes(error: DomainError, principal: Principal, wish: Wish, gauges: Sequence[Gauge]) -> list[dict[str, Any]]:
    allowed = selectors.purposes_by_kind(principal)
    nodes = nodes_of(wish.hospitals)
    blocks = blocks_of(nodes)
    found: list[dict[str, Any]] = []
    together = isinstance(wish.plan, AcrossPlan | TextAcrossPlan)
    if wish.plan is not None:
        epsilon = wish.plan.epsilon
        if together:
            found += _together(error, wish, gauges, blocks)
        elif (smaller := _fitting(wish.kind, epsilon, wish, gauges, blocks, below=epsilon)) is not None:
            found += [change] if (change := _cheaper(wish.plan, smaller)) is not None else []
        other = Kind(choosing.choose(wish.question, wish.options).kind)
        if other in allowed and _BY_COST.index(other) < _BY_COST.index(wish.kind):
            usual = DEFAULT_EPSILON[MECHANISMS[other]]
            if (cost := _fitting(other, usual, wish, gauges, blocks)) is not None:
                found.append({"kind": other.value, "epsilon": cost})
    if isinstance(error, NothingReleased):
        found += _paid(wish, gauges, blocks, allowed)
    if isinstance(error, BlockExhausted) and wish.hospitals and wish.plan is not None and not together:
        elsewhere = [block for block in blocks_of(nodes_of(())) if block.hospital not in wish.hospitals]
        if paying := sorted(block.hospital for block in elsewhere if block.pays(wish.plan)):
            found.append({"hospitals": paying})
    if wish.kind.is_cohort and Kind.COHORT_RELEASED in allowed and any(node.status.get("releases") for node in nodes):
        found.append({"kind": Kind.COHORT_RELEASED.value})
    if wish.kind != Kind.GENERAL and Kind.GENERAL in allowed:
        found.append({"kind": Kind.GENERAL.value})
    if isinstance(error, QuotaSpent):
        found.append({"request_budget": BUDGET_PAGE})
    return found


def _paid(
    wish: Wish, gauges: Sequence[Gauge], blocks: Sequence[Block], allowed: Collection[Kind]
) -> list[dict[str, Any]]:
    """The records themselves, by the cheapest way that can answer what nothing published does."""
    kind = Kind(choosing.choose(wish.question, wish.options).kind)
    cost = _fitting(kind, DEFAULT_EPSILON[MECHANISMS[kind]], wish, gauges, blocks) if kind in allowed else None
    return [{"kind": kind.value, "epsilon": cost}] if cost is not None else []


def _together(error: DomainError, wish: Wish, gauges: Sequence[Gauge], blocks: Sequence[Block]) -> list[dict[str, Any]]:
    """What several hospitals that must all pay could do instead: for less, or without those that cannot pay."""
    plan, found = wish.plan, list[dict[str, Any]]()
    if not isinstance(plan, AcrossPlan | TextAcrossPlan):
        return found
    least = min([plan.epsilon, *(gauge.left for gauge in gauges)])
    for part in _PART_OF_WISH:
        epsilon = math.floor(least * part * 100 + 1e-6) / 100
        change = _cheaper(plan, epsilon) if LEAST_EPSILON <= epsilon < plan.epsilon else None
        if change is not None and (smaller := _with(plan, change)) is not None and _all_pay(smaller, wish, blocks):
            found.append(change)
            break
    if isinstance(error, BlockExhausted):
        paying = sorted({block.hospital for block in blocks if block.pays(plan)})
        fewest = HOSPITALS_OF_TEXT[0] if isinstance(plan, TextAcrossPlan) else HOSPITALS[0]
        if fewest <= len(paying) < len(wish.hospitals):
            found.append({"hospitals": paying})
        alone = wish.kind == Kind.COHORT_CHOICE or (wish.kind == Kind.COHORT_COUNT and plan.delta == DEFAULT_DELTA)
        if alone:  # with a bound on delta of the asker's own a count alone would be refused
            one = asks.plan_for(wish.kind, PrivacyOptions(epsilon=plan.epsilon), options=max(2, len(wish.options)))
            found += [{"across": False}] if any(block.pays(one) for block in blocks) else []
    return found


def _all_pay(plan: Plan, wish: Wish, blocks: Sequence[Block]) -> bool:
    return set(wish.hospitals) <= {block.hospital for block in blocks if block.pays(plan)}


def _with(plan: AcrossPlan | TextAcrossPlan, change: dict[str, Any]) -> Plan | None:
    """The plan of several hospitals with this change; None where the records could not be heard."""
    try:
        if isinstance(plan, TextAcrossPlan):
            # As it is asked anew: a length that was not set follows the cost.
            return plan_text_across(hospitals=plan.hospitals, delta=plan.delta, top_k=plan.top_k, **change)
        claim: dict[str, Any] = {"hospitals": plan.hospitals, "delta": plan.delta, **change}
        return plan_choice_across(**claim, options=plan.options) if plan.options else plan_count_across(**claim)
    except PushTooSmall:
        return None


def _cheaper(plan: Plan, epsilon: float) -> dict[str, Any] | None:
    """The change that asks the same for this epsilon. A text whose size was set may have to become shorter for it."""
    if not isinstance(plan, TextPlan):
        return {"epsilon": epsilon}
    planned: Callable[..., TextPlan] = plan_text
    if isinstance(plan, TextAcrossPlan):
        planned = partial(plan_text_across, hospitals=plan.hospitals)
    if planned(epsilon=plan.epsilon, delta=plan.delta, top_k=plan.top_k) == plan:
        return {"epsilon": epsilon}
    try:
        planned(epsilon=epsilon, delta=plan.delta, contexts=plan.contexts, max_tokens=plan.max_tokens)
    except PushTooSmall as error:
        shorter = (offer["max_tokens"] for offer in error.details["try"] if "max_tokens" in offer)
        return next(({"epsilon": epsilon, "max_tokens": tokens} for tokens in shorter), None)
    return {"epsilon": epsilon}


def _fitting(
    kind: Kind,
    wanted: float,
    wish: Wish,
    gauges: Sequence[Gauge],
    blocks: Sequence[Block],
    *,
    below: float = math.inf,
) -> float | None:
    """The largest of a few amounts up to ``wanted`` that quotas and a block can pay; ``None`` where none is."""
    if kind == Kind.COHORT_TEXT:
        found = (_largest(gauges, blocks, wanted * part) for part in _PART_OF_WISH)
        return next((amount for amount in found if amount is not None and amount < below), None)
    most = min([wanted, *(gauge.left for gauge in gauges)])
    for part in _PART_OF_WISH:
        epsilon = math.floor(most * part * 100 + 1e-6) / 100
        if epsilon < LEAST_EPSILON:
            return None
        plan = asks.plan_for(kind, PrivacyOptions(epsilon=epsilon), options=max(2, len(wish.options)))
        if epsilon < below and (not blocks or any(block.pays(plan) for block in blocks)):
            return epsilon
    return None


def _refill(error: DomainError, wish: Wish, gauges: Sequence[Gauge]) -> dict[str, Any]:
    unit = error.details.get("unit") or Unit.MICRO_EPSILON
    gauge = next((g for g in gauges if g.scope == error.details.get("scope") and g.unit == unit), None)
    needed = 1.0 if unit == Unit.REQUESTS else wish.plan.epsilon if wish.plan else 0.0
    if not isinstance(error, QuotaSpent) or gauge is None or needed > gauge.cap:
        return {}
    seconds = (gauge.refills_at - datetime.now(UTC)).total_seconds()
    return {"refills_at": gauge.refills_at.isoformat(), "retry_after": max(1, math.ceil(seconds))}


def after_end(error: DomainError, request_id: UUID) -> DomainError:
    """:func:`extend` for a request that was admitted and then refused by a hospital."""
    if not isinstance(error, BlockExhausted | NothingReleased):
        return error
    row = Inference.objects.filter(pk=request_id).first()
    if row is None:
        return error
    try:
        principal = principals.for_user(row.user_id)
        return extend(error, principal, wish_of(selectors.request(principal, row.pk)))
    except (Unauthenticated, NotFound):  # the post has ended meanwhile: nothing to offer
        return error


def wish_of(found: selectors.Request) -> Wish:
    """What a stored request asked for."""
    row = found.row
    try:
        plan = cohort_plans.plan_of(row.parameters) if row.kind in MECHANISMS else None
    except DomainError:  # planned by another version
        plan = None
    return Wish(kind=Kind(row.kind), plan=plan, question=found.question, options=found.options, hospitals=row.hospitals)
