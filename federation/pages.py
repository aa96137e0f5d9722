"""What the Ask page and a request's own page show: words, choices and next steps. Nothing here decides anything."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from accounts.models import CareRelation, Hospital
from accounts.policy import PURPOSES
from accounts.principals import Principal
from federation import offers, selectors
from federation.answering import FORMS, IN_A_SENTENCE, Form, form_of
from federation.asks import MAX_PROMPT_BYTES
from federation.choosing import AUTO
from federation.models import ACROSS, MECHANISMS, Inference, Kind
from federation.states import InferenceState
from federation.troubles import TROUBLES
from privacy.dp.across_plans import HOSPITALS
from privacy.dp.across_text import HOSPITALS as HOSPITALS_OF_TEXT
from privacy.dp.text_plan import DEFAULT_EPSILON, MAX_EPSILON
from privacy.models import Reservation, ReservationState


@dataclass(frozen=True, slots=True)
class Tab:
    """One kind as the page offers it: what the answer is made from and what is promised, in plain words."""

    kind: Kind
    icon: str
    short: str
    made_from: str
    promise: str
    placeholder: str
    examples: tuple[str, ...]

    @property
    def slug(self) -> str:
        return self.kind.value.replace(".", "-")

    @property
    def label(self) -> str:
        return str(self.kind.label)


TABS = (
    Tab(
        Kind.GENERAL,
        "message-circle",
        "Model",
        "what the model learned from public text. No patient's record is opened.",
        "nothing from any record can come out, because none goes in. It costs no privacy.",
        "Ask a general medical question. Leave out anything that identifies a patient.",
        (
            "Explain the difference between type 1 and type 2 myocardial infarction.",
            "Which questions belong in a first assessment of syncope?",
        ),
    ),
    Tab(
        Kind.CHART,
        "user-heart",
        "My patient",
        "the record of the one patient you choose, at your hospital only.",
        "only the care team gets through, and every look is recorded. Nothing is anonymous: treat it like the chart.",
        "Ask about the chosen patient's record.",
        ("Which medicines does the patient take, and since when?", "Which allergies are on record?"),
    ),
    Tab(
        Kind.COHORT_TEXT,
        "users-group",
        "Our records",
        "what many patients' records have in common. One patient's facts cannot be asked for here.",
        "noise limits how much any one patient can change the answer. The lower the cost, the tighter the limit.",
        "Ask what is common across patients: effects of a medicine, what helped, what to watch for.",
        (
            "Which side effects were noted after the medicine was started?",
            "What helped patients whose rash followed a new medicine?",
        ),
    ),
)


def asks_records(principal: Principal) -> bool:
    """Whether the policy lets this person ask over many records at all, and so whether a privacy budget is of use."""
    return any(kind.is_cohort for kind in selectors.purposes_by_kind(principal))


PRESETS = (2.0, DEFAULT_EPSILON, 5.0)  # below 2 a text is cut within a few words (measured)


@dataclass(frozen=True, slots=True)
class Costs:
    """The privacy cost control: amounts with what each buys, and the one that is chosen.

    ``chosen`` is ``None`` where nothing fits; ``nothing`` then says why. ``custom``: it is none of the presets.
    """

    presets: tuple[offers.Offer, ...]
    chosen: float | None
    least: float
    nothing: str = ""
    most: float = MAX_EPSILON

    @property
    def custom(self) -> float | None:
        return None if any(offer.epsilon == self.chosen for offer in self.presets) else self.chosen


def costs(principal: Principal, wanted: float = DEFAULT_EPSILON) -> Costs:
    """The wanted amount where it fits what is left; otherwise the largest preset that does, or else what is left."""
    found = offers.offers(principal, PRESETS)
    if found.largest is None:
        return Costs(found.offers, None, found.least, found.obstacle)
    if wanted <= found.largest:
        return Costs(found.offers, wanted, found.least)
    fitting = [offer.epsilon for offer in found.offers if offer.fits]
    return Costs(found.offers, max(fitting, default=found.largest), found.least)


@dataclass(frozen=True, slots=True)
class Composer:
    """Everything that the form of the Ask page needs. ``together``: the kinds that enough hospitals could answer
    together now, and ``across`` whether they are to.
    """

    tabs: list[Tab]
    kind: Kind | None
    prompt: str
    patients: list[CareRelation]
    patient: str
    sources: list[selectors.Source]
    chosen_sources: list[str]
    purposes: list[tuple[str, str]]
    purpose: str
    costs: Costs | None
    form: str = AUTO
    forms: tuple[Form, ...] = FORMS
    options: str = ""
    together: tuple[str, ...] = ()
    across: bool = False
    threshold: int | None = None
    max_bytes: int = MAX_PROMPT_BYTES

    @property
    def script(self) -> dict[str, Any]:
        """What the page's script has to know."""
        return {
            "placeholders": {tab.kind.value: tab.placeholder for tab in self.tabs},
            "forms": IN_A_SENTENCE,
            "hospitals": {source.code: source.name for source in self.sources},
            "troubles": {code: asdict(known) for code, known in TROUBLES.items()},
        }


def composer(principal: Principal, *, kind: str, purpose: str, again: selectors.Request | None) -> Composer:
    """The form for this person: the kinds and purposes that their post can use, filled in from ``again`` if given."""
    allowed = selectors.purposes_by_kind(principal)
    tabs = [tab for tab in TABS if tab.kind in allowed]
    usable = [code for code in PURPOSES if any(code in codes for codes in allowed.values())]
    asked = again.row.kind if again else kind
    wanted = Kind.COHORT_TEXT.value if asked in MECHANISMS or asked == Kind.COHORT_RELEASED else asked
    cost = again.epsilon if again else None  # the same cost as well: only then it is the same request, told again
    text_cost = cost if asked == Kind.COHORT_TEXT else None
    sources = selectors.sources(principal)
    released = Kind.COHORT_RELEASED in allowed and bool(selectors.published())
    forms = [form for form in FORMS if released or form.kind != Kind.COHORT_RELEASED]
    return Composer(
        tabs=tabs,
        kind=next((tab.kind for tab in tabs if tab.kind == wanted), tabs[0].kind if tabs else None),
        prompt=again.question if again else "",
        patients=list(selectors.patients_in_care(principal)) if Kind.CHART in allowed else [],
        patient=again.row.patient_reference if again else "",
        sources=sources,
        together=together(sources),
        across=bool(again and again.row.parameters.get("mechanism") in ACROSS.values()),
        threshold=again.row.parameters.get("threshold") if again else None,
        form=form_of(AUTO if again and again.why else asked),
        forms=tuple(replace(form, wanted=cost) if form.kind == asked else form for form in forms),
        options="\n".join(again.options) if again else "",
        chosen_sources=list(again.row.hospitals) if again else [],
        purposes=[(code, PURPOSES[code]) for code in usable],
        purpose=purpose if purpose in usable else next(iter(usable), ""),
        costs=costs(principal, text_cost or DEFAULT_EPSILON) if Kind.COHORT_TEXT in allowed else None,
    )


def together(sources: Sequence[selectors.Source]) -> tuple[str, ...]:
    """The kinds for which enough hospitals have records, a block and are up: they could answer together."""
    there = sum(source.up and source.block is not None for source in sources)
    least = {kind: HOSPITALS_OF_TEXT[0] if kind == Kind.COHORT_TEXT else HOSPITALS[0] for kind in ACROSS}
    return tuple(str(kind) for kind, fewest in least.items() if there >= fewest)


# --- a request's receipt and its course ---------------------------------------------------------------------------
def receipt_view(found: selectors.Request) -> dict[str, Any] | None:
    """Digest, mechanism, block, what each of several hospitals signed for, and the whole receipt as text; ``None``
    when the node gave none.
    """
    receipt = found.row.receipt
    if receipt is None:
        return None
    body: Mapping[str, Any] = receipt.get("body") or {}
    return {
        "digest": receipt.get("digest", ""),
        "mechanism": body.get("mechanism") or {},
        "block": body.get("block") or {},
        "members": _members(receipt, body),
        "made_from": body.get("released") or {},
        "model_digest": body.get("model_digest") or "",
        "text": json.dumps(receipt, indent=2, sort_keys=True, ensure_ascii=False),
    }


def written_by_model(row: Inference) -> bool:
    """Whether a language model has a part in the answer; numbers and published figures are printed as they are."""
    if row.kind == Kind.COHORT_RELEASED:
        body = (row.receipt or {}).get("body") or {}
        return bool((body.get("released") or {}).get("written_by_model", True))
    return row.kind not in (Kind.COHORT_COUNT, Kind.COHORT_CHOICE)


@dataclass(frozen=True, slots=True)
class Member:
    """One of several hospitals that answered together. ``kept`` is what its block keeps charged, in percent of the
    whole block, and ``largest`` the largest single question that it could still pay then; None where not known.
    """

    name: str
    kept: float | None = None
    largest: float | None = None
    left_after: int | None = None


def _members(receipt: Mapping[str, Any], body: Mapping[str, Any]) -> list[Member]:
    """The hospitals of a receipt over several; those that left on the way come last, with how many tokens they saw."""
    left: Mapping[str, int] = body.get("left") or {}
    codes = [*(body.get("hospitals") or ()), *left]
    known = dict(Hospital.objects.filter(pk__in=codes).values_list("pk", "name"))
    again = bool((body.get("mechanism") or {}).get("repeat_of"))
    signed = [
        _member(known.get(code, code), part.get("body") or {}, again=again)
        for code, part in zip(body.get("hospitals") or (), receipt.get("receipts") or (), strict=False)
    ]
    return signed + [Member(known.get(code, code), left_after=tokens) for code, tokens in left.items()]


def _member(name: str, body: Mapping[str, Any], *, again: bool) -> Member:
    block, mechanism = body.get("block") or {}, body.get("mechanism") or {}
    if again:
        return Member(name, 0.0)
    if not block.get("cap"):
        return Member(name)
    kept = 100 * mechanism.get("nano_rdp_spent", 0) / block["cap"]
    return Member(name, math.ceil(kept * 100 - 1e-9) / 100, block.get("epsilon_left"))


def names(principal: Principal, codes: Sequence[str]) -> list[str]:
    """The names of these hospitals, as the network has them."""
    known = {source.code: source.name for source in selectors.sources(principal)}
    return [known.get(code, code) for code in codes]


def blocks(principal: Principal, left: Mapping[str, float]) -> list[tuple[str, float]]:
    """(hospital's name, epsilon left in its block) for the hospitals of a quote."""
    names = {source.code: source.name for source in selectors.sources(principal)}
    return [(names.get(code, code), amount) for code, amount in left.items()]


def share(principal: Principal, parts: Mapping[str, float], *, together: bool = False) -> str:
    """How much of which hospital's block a question takes, as words; empty where no block is known.

    Of hospitals that answer ``together`` each pays: the largest part counts.

    The person's own hospital is named where it is among them, because it is asked first; else the largest part counts.
    """
    if not parts:
        return ""
    names = {source.code: source.name for source in selectors.sources(principal)}
    own = principal.hospital
    code = own if own is not None and own in parts and not together else max(parts, key=lambda key: parts[key])
    percent = parts[code] * 100
    amount = "less than 0.1" if percent < 0.1 else f"{math.ceil(percent * 10 - 1e-9) / 10:g}"
    if together:
        return f"{'' if percent < 0.1 else 'at most '}{amount} % of what each hospital's records can ever pay"
    others = ", or as much of another hospital's" if len(parts) > 1 else ""
    return f"{amount} % of what {names.get(code, code)}'s records can ever pay{others}"


@dataclass(frozen=True, slots=True)
class Moment:
    """One step in a request's course. ``at`` is ``None`` where no time was kept."""

    title: str
    words: str
    at: datetime | None
    icon: str


_ENDS = {
    InferenceState.DONE: ("Answered", "The answer and its receipt were stored, encrypted.", "circle-check"),
    InferenceState.FAILED: ("Failed", "No answer could be given.", "alert-triangle"),
    InferenceState.CANCELLED: ("Stopped", "The request was stopped before it had an answer.", "player-stop"),
}


def steps(found: selectors.Request) -> list[Moment]:
    """The course of a request, oldest first, from its own row and its reservation."""
    row = found.row
    course = [Moment("Received", "Allowed by the access policy, and recorded.", row.created_at, "send")]
    reservation = Reservation.objects.filter(pk=row.pk).first() if row.epsilon_micro else None
    if reservation is not None:
        words = f"Privacy cost {found.epsilon:g} set aside before anything was sent."
        course.append(Moment("Reserved", words, reservation.created_at, "wallet"))
    if row.node is not None:
        tries = f", attempt {row.attempt}" if row.attempt > 1 else ""
        course.append(Moment("Sent", f"Sealed for {row.node.name}{tries}.", None, "route"))
    if (end := _ENDS.get(InferenceState(row.state))) is not None:
        course.append(Moment(end[0], end[1], row.finished_at, end[2]))
    else:
        course.append(Moment("Under way", "The answer will appear here.", None, "loader-2"))
    if reservation is not None and reservation.ended_at is not None:
        released = reservation.state == ReservationState.RELEASED
        title = "Given back" if released else "Charged"
        again = row.state == InferenceState.DONE and released
        words = "Told again from the stored release of the same question: nothing was spent." if again else ""
        words = words or ("Nothing was spent." if released else f"Privacy cost {found.cost:g} stays charged.")
        course.append(Moment(title, words, reservation.ended_at, "coin"))
    return course
