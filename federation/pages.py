"""What the Ask page and a request's own page show: words, choices and next steps. Nothing here decides anything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from accounts.models import CareRelation
from accounts.policy import PURPOSES
from accounts.principals import Principal
from fdrouter import errors
from fdrouter.errors import DomainError
from federation import quotes, selectors
from federation.asks import MAX_PROMPT_BYTES
from federation.models import MECHANISMS, Kind
from federation.states import InferenceState
from privacy.dp import cohort_plans as plans
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


@dataclass(frozen=True, slots=True)
class Form:
    """One way to answer over many records, cheapest first as the page lists them. ``words`` say what one gets."""

    kind: Kind
    label: str
    words: str
    icon: str

    @property
    def slug(self) -> str:
        return self.kind.value.replace(".", "-")

    @property
    def usual(self) -> float:
        """The usual privacy cost; a text's has a control of its own."""
        return plans.DEFAULT_EPSILON.get(MECHANISMS[self.kind], DEFAULT_EPSILON)


FORMS = (
    Form(Kind.COHORT_COUNT, "A number", "how many records match", "sum"),
    Form(Kind.COHORT_CHOICE, "One of my answers", "you name the answers, the records vote", "list-check"),
    Form(Kind.COHORT_KEYWORDS, "Keywords", "common words, then a sentence from them", "tags"),
    Form(Kind.COHORT_TEXT, "Free text", "costs most", "writing"),
)
#: Beginnings of a question that a cheaper form answers, for the page's hint.
COUNTS = r"^\s*(how many|what number|what share|what proportion|count)\b"


def form_of(name: str) -> Kind:
    """The kind that a form's name stands for; free text for any other name."""
    return next((form.kind for form in FORMS if form.kind.value == name), Kind.COHORT_TEXT)


PRESETS = (2.0, DEFAULT_EPSILON, 5.0)  # below 2 a text is cut within a few words (measured)


@dataclass(frozen=True, slots=True)
class Costs:
    """The privacy cost control: amounts with what each buys, and the one that is chosen.

    ``chosen`` is ``None`` where nothing fits; ``nothing`` then says why. ``custom``: it is none of the presets.
    """

    presets: tuple[quotes.Offer, ...]
    chosen: float | None
    least: float
    nothing: str = ""
    most: float = MAX_EPSILON

    @property
    def custom(self) -> float | None:
        return None if any(offer.epsilon == self.chosen for offer in self.presets) else self.chosen


def costs(principal: Principal, wanted: float = DEFAULT_EPSILON) -> Costs:
    """The wanted amount where it fits what is left; otherwise the largest preset that does, or else what is left."""
    found = quotes.offers(principal, PRESETS)
    if found.largest is None:
        return Costs(found.offers, None, found.least, found.obstacle)
    if wanted <= found.largest:
        return Costs(found.offers, wanted, found.least)
    fitting = [offer.epsilon for offer in found.offers if offer.fits]
    return Costs(found.offers, max(fitting, default=found.largest), found.least)


@dataclass(frozen=True, slots=True)
class Composer:
    """Everything that the form of the Ask page needs."""

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
    form: Kind = Kind.COHORT_TEXT
    forms: tuple[Form, ...] = FORMS
    max_bytes: int = MAX_PROMPT_BYTES

    @property
    def script(self) -> dict[str, Any]:
        """What the page's script has to know."""
        return {
            "placeholders": {tab.kind.value: tab.placeholder for tab in self.tabs},
            "counts": COUNTS,
            "troubles": {code: asdict(known) for code, known in TROUBLES.items()},
        }


def composer(principal: Principal, *, kind: str, purpose: str, again: selectors.Request | None) -> Composer:
    """The form for this person: the kinds and purposes that their post can use, filled in from ``again`` if given."""
    allowed = selectors.purposes_by_kind(principal)
    tabs = [tab for tab in TABS if tab.kind in allowed]
    usable = [code for code in PURPOSES if any(code in codes for codes in allowed.values())]
    asked = again.row.kind if again else kind
    wanted = Kind.COHORT_TEXT.value if asked in MECHANISMS else asked
    return Composer(
        tabs=tabs,
        kind=next((tab.kind for tab in tabs if tab.kind == wanted), tabs[0].kind if tabs else None),
        prompt=again.question if again else "",
        patients=list(selectors.patients_in_care(principal)) if Kind.CHART in allowed else [],
        patient=again.row.patient_reference if again else "",
        sources=selectors.sources(principal),
        form=form_of(asked),
        chosen_sources=list(again.row.hospitals) if again else [],
        purposes=[(code, PURPOSES[code]) for code in usable],
        purpose=purpose if purpose in usable else next(iter(usable), ""),
        costs=costs(principal, (again and again.epsilon) or DEFAULT_EPSILON) if Kind.COHORT_TEXT in allowed else None,
    )


# --- what went wrong, and what to do next -------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Step:
    """A next step as a button: ``action`` for the page's script, ``href`` where there is none."""

    label: str
    action: str
    href: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Trouble:
    """A refusal or failure in words. ``why`` is empty in the table and filled from the error."""

    title: str
    steps: tuple[Step, ...] = ()
    why: str = ""
    charged: bool | None = None


_HOME = "/"
_GENERAL = Step("Ask the model without records", "kind", "/?kind=general", Kind.GENERAL.value)
_RETRY = Step("Try again", "retry", _HOME)
_BUDGET = Step("See my budget", "link", "/budget")
_EDIT = Step("Change the question", "edit", _HOME)
TROUBLES: dict[str, Trouble] = {
    "quota_spent": Trouble("Not enough budget left today", (_GENERAL, _BUDGET)),
    "block_exhausted": Trouble("These records have no privacy budget left", (_GENERAL, _BUDGET)),
    "claim_missing": Trouble("This hospital cannot say what this answer would promise", (_GENERAL,)),
    "push_too_small": Trouble("This cost is too low for the records to speak"),
    "policy_denied": Trouble("The access policy does not allow this", (Step("Change the purpose", "purpose", _HOME),)),
    "invalid_parameter": Trouble("Something in the request is not right", (_EDIT,)),
    "payload_too_large": Trouble("The question is too long", (_EDIT,)),
    "not_found": Trouble("This could not be found", (_EDIT,)),
    "no_node": Trouble("No hospital can answer right now", (_RETRY, _GENERAL)),
    "node_failed": Trouble("No answer came back", (_RETRY, _GENERAL)),
    "node_timeout": Trouble("No answer in time", (_RETRY, Step("Look in the history", "link", "/history"))),
    "dependency_unavailable": Trouble("A part of the system is not reachable", (_RETRY,)),
    "idempotency_conflict": Trouble("This question was sent before", (_RETRY,)),
    "unauthenticated": Trouble("Your session has ended", (Step("Sign in again", "link", "/sign-in?next=/"),)),
    "cancelled": Trouble("Stopped", (_RETRY, _EDIT)),
    "unknown": Trouble("The request failed", (_RETRY,)),
}


def trouble(error: DomainError, *, charged: bool | None = None) -> Trouble:
    """The words and next steps for an error. Offers that the error itself makes come first."""
    known = TROUBLES.get(error.code, TROUBLES["unknown"])
    steps = known.steps
    if error.code == "quota_spent" and error.details.get("unit") == "requests":
        steps = (_BUDGET,)  # the model without records would count as a request too
    offers = [offer["epsilon"] for offer in error.details.get("try", ()) if "epsilon" in offer]
    better = tuple(Step(f"Use privacy cost {value:g}", "epsilon", _HOME, f"{value:g}") for value in offers)
    return Trouble(known.title, (*better, *steps), error.message, charged)


def trouble_of(found: selectors.Request) -> Trouble | None:
    """What a request's page says when it ended without an answer."""
    row = found.row
    if row.state == InferenceState.CANCELLED:
        return Trouble("Stopped", (), "The request was stopped before it had an answer.", found.cost > 0)
    if row.state != InferenceState.FAILED:
        return None
    details = {name: value for name, value in row.details.items() if name != "charged"}
    return trouble(errors.from_code(row.reason, None, details), charged=found.cost > 0)


# --- a request's receipt and its course ---------------------------------------------------------------------------
def receipt_view(found: selectors.Request) -> dict[str, Any] | None:
    """Digest, mechanism, block and the whole receipt as text; ``None`` when the node gave none."""
    receipt = found.row.receipt
    if receipt is None:
        return None
    body: Mapping[str, Any] = receipt.get("body") or {}
    return {
        "digest": receipt.get("digest", ""),
        "mechanism": body.get("mechanism") or {},
        "block": body.get("block") or {},
        "text": json.dumps(receipt, indent=2, sort_keys=True, ensure_ascii=False),
    }


def blocks(principal: Principal, left: Mapping[str, float]) -> list[tuple[str, float]]:
    """(hospital's name, epsilon left in its block) for the hospitals of a quote."""
    names = {source.code: source.name for source in selectors.sources(principal)}
    return [(names.get(code, code), amount) for code, amount in left.items()]


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
