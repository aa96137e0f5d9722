"""What pages and interfaces read: nodes, hospitals, patients in care, and a person's own requests.

Every selector that concerns people takes the principal and filters by it; what is not theirs is not there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import QuerySet
from django.utils import timezone

from accounts import policy
from accounts.models import CareRelation, Role
from accounts.principals import Principal
from fdrouter import crypto
from fdrouter.errors import NoNode, NotFound
from federation.choosing import Published
from federation.models import Inference, Kind, Node, Transport
from federation.states import TERMINAL, InferenceState
from privacy import quotas
from privacy.selectors import kept

UP_SECONDS = 60
SEARCHED_ROWS = 500
PAGE_ROWS = 20
MAX_PUBLISHED_WORDS = 500
MAX_WORD = 80
OUTCOMES = {
    "done": "Answered",
    "withheld": "Withheld",
    "failed": "Failed",
    "cancelled": "Stopped",
    "running": "Under way",
}


# --- nodes and hospitals ------------------------------------------------------------------------------------------
def _up(node: Node, now: datetime) -> bool:
    seen = node.last_seen_at
    return bool(node.status.get("healthy")) and seen is not None and now - seen < timedelta(seconds=UP_SECONDS)


def count_nodes_up() -> int:
    """Active nodes whose last probe was good and recent."""
    now = timezone.now()
    return sum(_up(node, now) for node in Node.objects.filter(active=True))


def router_keys() -> dict[str, str]:
    """The public identity of this coordinator: its name, keys in base64 and their id.

    Raises:
        NotFound: it has none, and so signs nothing.
    """
    try:
        found: dict[str, str] = json.loads((settings.IDENTITY_DIR / "public.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound("This router has no identity of its own.") from None
    return found


def served_models() -> list[str]:
    """Names of the models that active nodes serve; the one on most nodes first."""
    counts = Counter(name for names in _served() for name in names)
    return sorted(counts, key=lambda name: (-counts[name], name))


def default_model() -> str:
    """The model that most nodes serve.

    Raises:
        NoNode: no active node serves any.
    """
    names = served_models()
    if not names:
        raise NoNode
    return names[0]


def _served() -> QuerySet[Node, list[str]]:
    return Node.objects.filter(active=True).values_list("served_models", flat=True)


@dataclass(frozen=True, slots=True)
class Block:
    """A hospital's privacy block as its node last told it.

    ``spent`` composes what was charged, ``plain_sum`` adds the claims, ``largest`` is the costliest single request that
    still fits. Spent and largest do not add up to ``epsilon``; ``percent_left`` is of the filter's own units, which do.
    """

    epsilon: float
    delta: float
    spent: float
    plain_sum: float
    largest: float
    percent_left: float


@dataclass(frozen=True, slots=True)
class Source:
    """A hospital whose records can be asked. ``band`` is a range of patients, never a number of them."""

    code: str
    name: str
    up: bool
    band: str
    block: Block | None


def _block(node: Node) -> Block | None:
    told = node.status.get("block")
    if not told:
        return None
    return Block(
        epsilon=told["epsilon"],
        delta=told["delta"],
        spent=told["epsilon_spent"],
        plain_sum=told["plain_sum"],
        largest=told["epsilon_left"],
        percent_left=100 * max(0.0, 1 - told["used"] / told["cap"]) if told["cap"] else 0.0,
    )


def _band(node: Node) -> str:
    return str(node.status.get("patients_band", "")).replace("-", "–")


def sources(principal: Principal) -> list[Source]:
    """The hospitals of the network that hold records, the person's own first."""
    now = timezone.now()
    nodes = Node.objects.filter(active=True, transport=Transport.SEALED).select_related("hospital")
    found = [
        Source(
            node.hospital_id,
            node.hospital.name,
            _up(node, now),
            _band(node),
            _block(node),
        )
        for node in nodes
    ]
    return sorted(found, key=lambda source: (source.code != principal.hospital, source.name))


def published() -> list[Published]:
    """What the hospitals that are up have published, by the releases that their nodes told of last."""
    now = timezone.now()
    nodes = Node.objects.filter(active=True, transport=Transport.SEALED).select_related("hospital")
    found = []
    for node in nodes.order_by("hospital__name", "pk"):
        told = node.status.get("releases") if _up(node, now) else None
        rows = [row for row in told if isinstance(row, dict)] if isinstance(told, list) else []
        figures = _published_words(rows, "cards", "words")
        notes = _published_words(rows, "corpus", "topics")
        if figures or notes:
            found.append(Published(node.hospital_id, node.hospital.name, figures, notes))
    return found


def _published_words(rows: list[dict[str, Any]], kind: str, key: str) -> frozenset[str]:
    """The words of a node's releases of one kind; what is no word is left out, as a node may tell anything."""
    lists = [row.get(key) for row in rows if row.get("kind") == kind]
    words = [word for told in lists if isinstance(told, list) for word in told[:MAX_PUBLISHED_WORDS]]
    return frozenset(word for word in words if isinstance(word, str) and 0 < len(word.strip()) <= MAX_WORD)


@dataclass(frozen=True, slots=True)
class NodeCard:
    """A node as its operators see it."""

    node: Node
    up: bool
    engine: str
    band: str
    running: int
    block: Block | None

    @property
    def state(self) -> str:
        if not self.node.active:
            return "switched off"
        return "up" if self.up else "not reachable"


def nodes(principal: Principal) -> list[NodeCard]:
    """The nodes that this operator or administrator looks after: those of their hospital, or of the whole network.

    Raises:
        NotFound: the person's post has nothing to do with nodes.
    """
    if principal.role not in (Role.NODE_OPERATOR, Role.ADMINISTRATOR):
        raise NotFound
    rows = Node.objects.select_related("hospital").order_by("hospital__name", "pk")
    if principal.hospital is not None:
        rows = rows.filter(hospital_id=principal.hospital)
    now = timezone.now()
    return [
        NodeCard(
            node=node,
            up=_up(node, now),
            engine=str(node.status.get("engine", "unknown")),
            band=_band(node),
            running=int(node.status.get("running") or 0),
            block=_block(node),
        )
        for node in rows
    ]


# --- what a person may ask, and about whom ------------------------------------------------------------------------
def purposes_by_kind(principal: Principal) -> dict[Kind, list[str]]:
    """For each kind the purposes of use under which the policy lets this person ask; kinds without any are left out.

    A hint for the page: admission decides, and records its decision.
    """
    found = {}
    for kind in Kind:
        allowed = [purpose for purpose in policy.PURPOSES if _may(principal, kind, purpose)]
        if allowed:
            found[kind] = allowed
    return found


def _may(principal: Principal, kind: Kind, purpose: str) -> bool:
    request = policy.PolicyRequest(
        role=principal.role,
        kind=kind.value,
        purpose=purpose,
        hospital=principal.hospital or "",
        department=principal.department or "",
        same_hospital=True,
        in_care=True,
    )
    return policy.decide(request).allowed


def patients_in_care(principal: Principal) -> QuerySet[CareRelation]:
    """Patients in the present care of the person's department."""
    if principal.department_id is None:
        return CareRelation.objects.none()
    rows = CareRelation.objects.filter(department_id=principal.department_id, ended_at__isnull=True)
    return rows.order_by("label", "patient_reference")


# --- a person's own requests --------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Request:
    """One of the person's requests with its contents opened. ``answer`` is empty until there is one.

    ``cost`` is the epsilon that their quota has kept for it. ``readable`` is false when a stored text cannot be opened.
    ``options`` are the answers that were chosen between; ``why`` says why it is this kind, where that was left open.
    """

    row: Inference
    question: str
    answer: str
    cost: float = 0.0
    readable: bool = True
    options: tuple[str, ...] = ()
    why: str = ""

    @property
    def kind_label(self) -> str:
        return str(Kind(self.row.kind).label)

    @property
    def epsilon(self) -> float:
        """The claim: what was reserved, whatever was given back later."""
        return self.row.epsilon_micro / quotas.MICRO

    @property
    def outcome(self) -> str:
        if self.row.finish_reason == "withheld":
            return "withheld"
        return self.row.state if self.row.state in TERMINAL else "running"


@dataclass(frozen=True, slots=True)
class Page:
    """One page of the history. ``limited``: only the latest ``SEARCHED_ROWS`` requests were searched."""

    rows: list[Request]
    number: int
    pages: int
    total: int
    limited: bool

    @property
    def previous(self) -> int:
        return self.number - 1

    @property
    def following(self) -> int:
        return self.number + 1


def _content(row: Inference) -> dict[str, Any]:
    if row.request is None:
        return {"messages": []}
    found: dict[str, Any] = json.loads(crypto.unseal("request", row.pk.bytes, bytes(row.request)))
    return found


def _open(row: Inference, cost: float = 0.0) -> Request:
    try:
        answer = crypto.unseal("answer", row.pk.bytes, bytes(row.answer)).decode() if row.answer is not None else ""
        content = _content(row)
    except crypto.Unreadable:
        return Request(row, "", "", cost, readable=False)
    question = next((str(m["content"]) for m in reversed(content["messages"]) if m["role"] == "user"), "")
    options = tuple(str(option) for option in content.get("options") or ())
    return Request(row, question, answer, cost, options=options, why=str(content.get("chosen") or ""))


def _open_all(principal: Principal, rows: Iterable[Inference]) -> list[Request]:
    found = list(rows)
    costs = kept(principal, (row.pk for row in found))
    return [_open(row, costs.get(row.pk, 0.0)) for row in found]


def _own(principal: Principal) -> QuerySet[Inference]:
    return Inference.objects.filter(user_id=principal.user_id).select_related("node").order_by("-created_at", "pk")


def history(principal: Principal, *, text: str = "", kind: str = "", outcome: str = "", page: int = 1) -> Page:
    """The person's requests, newest first. ``text`` is looked for in questions and answers, whatever its case.

    Contents are sealed at rest, so a search opens the latest ``SEARCHED_ROWS`` rows that pass the other filters.
    """
    rows = _own(principal)
    if kind in Kind.values:
        rows = rows.filter(kind=kind)
    if outcome == "running":
        rows = rows.exclude(state__in=TERMINAL)
    elif outcome == "withheld":
        rows = rows.filter(state=InferenceState.DONE, finish_reason="withheld")
    elif outcome in OUTCOMES:
        rows = rows.filter(state=outcome)
    wanted = text.strip().casefold()
    if wanted:
        opened = _open_all(principal, rows[:SEARCHED_ROWS])
        hits = [r for r in opened if wanted in r.question.casefold() or wanted in r.answer.casefold()]
        number, pages, span = _span(len(hits), page)
        return Page(hits[span], number, pages, len(hits), limited=len(opened) == SEARCHED_ROWS)
    total = rows.count()
    number, pages, span = _span(total, page)
    return Page(_open_all(principal, rows[span]), number, pages, total, limited=False)


def _span(total: int, page: int) -> tuple[int, int, slice]:
    pages = max(1, -(-total // PAGE_ROWS))
    number = min(max(page, 1), pages)
    return number, pages, slice((number - 1) * PAGE_ROWS, number * PAGE_ROWS)


def request(principal: Principal, request_id: UUID) -> Request:
    """One of the person's own requests.

    Raises:
        NotFound: it does not exist, or is somebody else's.
    """
    row = _own(principal).filter(pk=request_id).first()
    if row is None:
        raise NotFound
    return _open_all(principal, [row])[0]


def recent(principal: Principal, *, since: datetime | None = None, limit: int = 5) -> list[Request]:
    """The latest of the person's requests, or all of them ``since`` a moment."""
    rows = _own(principal)
    if since is not None:
        rows = rows.filter(created_at__gte=since)
    return _open_all(principal, rows[:limit])
