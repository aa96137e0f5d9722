"""What a request would cost, before it is sent. A quote reserves nothing and reads no record."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from accounts.principals import Principal
from fdrouter.errors import BlockExhausted, DomainError, NoNode, PolicyDenied, QuotaSpent
from federation.models import Kind, Node, Transport
from privacy import quotas
from privacy.dp import accounting
from privacy.dp.text_plan import TextPlan, plan_text
from privacy.models import ScopeKind
from privacy.selectors import Gauge, balances

CLAIMS = {
    Kind.GENERAL: "The model answers from what it learned in public training. It reads no patient's record.",
    Kind.CHART: (
        "The model reads this one patient's record at your hospital. Access is checked and recorded; "
        "no anonymity is promised, so treat the answer like the chart itself."
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
    plan: TextPlan | None = None
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
        return self.plan.push if self.plan else 0.0

    @property
    def contexts(self) -> int:
        return self.plan.contexts if self.plan else 0

    @property
    def max_tokens(self) -> int:
        return self.plan.max_tokens if self.plan else 0


def expected_seconds(kind: Kind, plan: TextPlan | None) -> int:
    """A rough waiting time in whole seconds."""
    if plan is None:
        return 5 if kind == Kind.GENERAL else 10
    return round(_BASE_SECONDS + plan.contexts * _SECONDS_PER_CONTEXT + plan.max_tokens * _SECONDS_PER_TOKEN)


@dataclass(frozen=True, slots=True)
class _Block:
    hospital: str
    epsilon_left: float
    nano_left: int
    alpha: float

    def pays(self, plan: TextPlan) -> bool:
        return self.nano_left >= accounting.nano_rdp_up(plan.rho, self.alpha)


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
) -> Quote:
    """The cost of a request of this kind now.

    Raises:
        InvalidParameter: a value is out of range. A request that would be refused is a quote with ``refusal``.
    """
    chosen = Kind(kind)
    gauges = {gauge.scope: gauge for gauge in balances(principal) if gauge.is_privacy}
    if not gauges:  # a post that asks nothing and so has no quotas
        return Quote(chosen, CLAIMS[chosen], 0, refusal=PolicyDenied(kind=chosen.value))
    user, department = gauges[ScopeKind.USER].left, gauges[ScopeKind.DEPARTMENT].left
    if chosen != Kind.COHORT_TEXT:
        return Quote(chosen, CLAIMS[chosen], expected_seconds(chosen, None), None, user, department)
    options = {"epsilon": epsilon, "delta": delta, "contexts": contexts, "max_tokens": max_tokens}
    nodes = _nodes(hospitals)
    blocks = _blocks(nodes)
    shown = {block.hospital: block.epsilon_left for block in blocks}
    try:
        plan = plan_text(**{k: v for k, v in options.items() if v is not None})  # type: ignore[arg-type]
    except DomainError as error:
        if error.code == "invalid_parameter":
            raise
        return Quote(chosen, CLAIMS[chosen], 0, None, user, department, shown, error)
    refusal = _refusal(plan, gauges.values(), blocks) if nodes else NoNode()
    seconds = expected_seconds(chosen, plan)
    return Quote(chosen, CLAIMS[chosen], seconds, plan, user, department, shown, refusal)


def _refusal(plan: TextPlan, gauges: Iterable[Gauge], blocks: list[_Block]) -> DomainError | None:
    for gauge in gauges:
        if quotas.micro(plan.epsilon) > quotas.micro(gauge.left):
            return QuotaSpent(f"Today's privacy budget of {gauge.label} cannot pay for this.", scope=gauge.scope)
    if blocks and not any(block.pays(plan) for block in blocks):
        return BlockExhausted()
    return None
