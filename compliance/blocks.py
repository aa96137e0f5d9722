"""The hospitals' dataset blocks as their nodes report them, and what each can still answer.

A block's ``used`` and ``cap`` are nano-units of Renyi divergence at its frozen order: they add up, and they bind. Its
two epsilons, the composed figure and the plain sum of all releases so far, do not add up to what it was opened for.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from accounts.principals import Principal
from compliance import access, budgets
from fdrouter.errors import DomainError
from federation.models import Node
from privacy.dp.cohort_plans import Plan, plan_choice, plan_count, plan_keywords
from privacy.dp.text_plan import plan_text

FORECAST_DAYS = 7
FORECAST_MINIMUM = 3
"""With fewer charged answers in the last days a pace means nothing."""
FORECAST_HORIZON_DAYS = 3650
_FIGURES = ("epsilon", "delta", "epsilon_spent", "epsilon_left", "plain_sum", "used", "cap", "alpha")


@dataclass(frozen=True, slots=True)
class Block:
    """A dataset block as its node last reported it.

    ``left_share`` is of the filter's own units, which add up and which bind. Epsilon does not add up: ``composed`` is
    what all releases so far compose to, ``largest`` the largest single request that still fits, and neither follows
    from the other and ``epsilon``, what the block was opened for. ``title`` names hospital and, of several blocks, the
    number.
    """

    hospital: str
    hospital_name: str
    node: str
    node_name: str
    checked_at: str | None
    epsilon: float
    delta: float
    composed: float
    plain_sum: float
    largest: float
    left_share: float
    recent_answers: int
    runs_out_on: str | None
    title: str = ""
    key: str = ""
    retired: bool = False
    cap: float = 0.0

    @property
    def checked(self) -> datetime | None:
        """When the node reported it."""
        try:
            return datetime.fromisoformat(self.checked_at) if self.checked_at else None
        except ValueError:
            return None


def _number(source: Mapping[str, Any], key: str) -> float | None:
    value = source.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        return None
    return float(value)


def _told(node: Node) -> list[Mapping[str, Any]]:
    """The blocks that a node reports, oldest first; its nonsense is no block."""
    status = node.status
    found = status.get("blocks") or [status.get("block")]
    told = [block for block in found if isinstance(block, Mapping)] if isinstance(found, list) else []
    return sorted(told, key=lambda block: str(block.get("key", "")))


def _figures(reported: Mapping[str, Any]) -> dict[str, float] | None:
    read = {key: _number(reported, key) for key in _FIGURES}
    values = {key: value for key, value in read.items() if value is not None}
    if len(values) < len(read) or values["cap"] <= 0 or values["epsilon"] <= 0:
        return None
    return values


def reported(principal: Principal, hospital: str | None = None) -> list[Block]:
    """The dataset blocks within reach, by hospital."""
    within = access.hospitals(principal, hospital)
    nodes = Node.objects.filter(active=True, hospital__in=within).select_related("hospital")
    pace = _pace()
    return [block for node in nodes.order_by("hospital__name", "id") for block in _of(node, pace)]


@dataclass(frozen=True, slots=True)
class _Pace:
    """What the receipts of the last days charged: answers and nano-units, by node and key of the block."""

    answers: Counter[tuple[str, str]]
    nano: Counter[tuple[str, str]]


def _pace() -> _Pace:
    recent = budgets.charging_receipts().filter(finished_at__gte=timezone.now() - timedelta(days=FORECAST_DAYS))
    pace = _Pace(Counter(), Counter())
    mechanism = "receipt__body__mechanism"
    columns = ("node_id", f"{mechanism}__blocks", f"{mechanism}__nano_rdp_spent", "receipt__body__block__key")
    for body in budgets.signed_together(recent):
        for block, amount in body["mechanism"]["blocks"].items():
            pace.answers[body["node"], block] += 1
            pace.nano[body["node"], block] += amount
    for node, charged, nano, key in recent.exclude(node=None).values_list(*columns).iterator():
        for block, amount in (charged or {key or "": nano or 0}).items():
            pace.answers[node, block] += 1
            pace.nano[node, block] += amount
    return pace


def _of(node: Node, pace: _Pace) -> Iterator[Block]:
    told = [(block, values) for block in _told(node) if (values := _figures(block)) is not None]
    checked = node.status.get("checked_at")
    for nth, (block, values) in enumerate(told, start=1):
        key = str(block.get("key", ""))
        where = (node.pk, key)
        answers, nano = pace.answers[where], pace.nano[where]
        retired = block.get("retired") is True
        yield Block(
            hospital=node.hospital_id,
            hospital_name=node.hospital.name,
            node=node.pk,
            node_name=node.name,
            checked_at=checked if isinstance(checked, str) else None,
            epsilon=values["epsilon"],
            delta=values["delta"],
            composed=values["epsilon_spent"],
            plain_sum=values["plain_sum"],
            largest=values["epsilon_left"],
            left_share=max(0.0, 1.0 - values["used"] / values["cap"]),
            recent_answers=answers,
            runs_out_on=None if retired else _forecast(values, answers, nano),
            title=node.hospital.name if len(told) == 1 else f"{node.hospital.name}, block {nth}",
            key=key,
            retired=retired,
            cap=values["cap"],
        )


def _forecast(block: Mapping[str, float], recent: int, nano: float) -> str | None:
    """The day on which the filter is full if releases go on as in the last days; ``None``: nobody can say.

    The pace is taken in the filter's own units, which add up where epsilon does not: those that the receipts of the
    last days say were charged.
    """
    a_day = nano / FORECAST_DAYS
    if recent < FORECAST_MINIMUM or a_day <= 0:
        return None
    days = max(0.0, block["cap"] - block["used"]) / a_day
    if days > FORECAST_HORIZON_DAYS:
        return None
    return (timezone.localdate() + timedelta(days=math.floor(days))).isoformat()


# --- the plan of a block --------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Question:
    """A way to ask once: ``left`` such questions still fit, and each takes ``share`` of the whole block."""

    name: str
    epsilon: float
    share: float
    left: int


@dataclass(frozen=True, slots=True)
class Release:
    """Something that the hospital published once: asking it costs nothing more."""

    id: str
    kind: str
    epsilon: float
    delta: float
    published_at: str | None
    words: tuple[str, ...]
    notes: int

    @property
    def published(self) -> datetime | None:
        """When it was published."""
        try:
            return datetime.fromisoformat(self.published_at) if self.published_at else None
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """A block, what was published from it, and what is left for single questions."""

    block: Block
    releases: tuple[Release, ...]
    questions: tuple[Question, ...]


def _asked() -> tuple[tuple[str, Plan], ...]:
    """One question of each kind at its usual cost."""
    return (
        ("a count", plan_count()),
        ("a choice between three answers", plan_choice(options=3)),
        ("keywords", plan_keywords()),
        ("a text", plan_text()),
    )


def plans(principal: Principal, hospital: str | None = None) -> list[BlockPlan]:
    """The plan of every reported block within reach."""
    nodes = {node.pk: node for node in Node.objects.filter(active=True)}
    found = []
    for block in reported(principal, hospital):
        node = nodes[block.node]
        told = next(told for told in _told(node) if str(told.get("key", "")) == block.key)
        try:
            questions = _questions(told, block.retired)
        except DomainError:  # the order that the node tells is none
            questions = ()
        found.append(BlockPlan(block, _releases(node, block.key), questions))
    return found


def _questions(told: Mapping[str, Any], retired: bool) -> tuple[Question, ...]:
    cap, left = int(told["cap"]), 0 if retired else int(told["cap"]) - int(told["used"])
    found = []
    for name, plan in _asked():
        nano = plan.nano_at(float(told["alpha"]))
        found.append(Question(name, plan.epsilon, nano / cap, max(0, left // nano)))
    return tuple(found)


def _releases(node: Node, key: str) -> tuple[Release, ...]:
    told = node.status.get("releases")
    rows = [row for row in told if isinstance(row, Mapping)] if isinstance(told, list) else []
    return tuple(_release(row) for row in rows if str(row.get("block", "")) == key)


def _release(row: Mapping[str, Any]) -> Release:
    words = [str(word) for word in row.get("words") or row.get("topics") or ()]
    published = row.get("published_at")
    return Release(
        id=str(row.get("id", "")),
        kind=str(row.get("kind", "")),
        epsilon=_number(row, "epsilon") or 0.0,
        delta=_number(row, "delta") or 0.0,
        published_at=published if isinstance(published, str) else None,
        words=tuple(words),
        notes=int(_number(row, "notes") or 0),
    )
