"""What a person asks, checked at the door. Interfaces build an :class:`Ask`; everything behind may rely on it."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from accounts.policy import PURPOSES
from fdrouter.errors import InvalidParameter, PushTooSmall
from federation import choosing
from federation.choosing import Chosen, Published
from federation.models import ACROSS, MECHANISMS, Kind
from privacy.dp.accounting import check_delta
from privacy.dp.across_plans import HOSPITALS, AcrossPlan, plan_choice_across, plan_count_across
from privacy.dp.across_text import HOSPITALS as HOSPITALS_OF_TEXT
from privacy.dp.across_text import TextAcrossPlan, plan_text_across
from privacy.dp.cohort_plans import OPTIONS, Plan, plan_choice, plan_count, plan_keywords
from privacy.dp.confident_plans import plan_confident_choice
from privacy.dp.text_plan import MAX_DELTA, plan_text

MAX_PROMPT_BYTES = 32 * 1024
MAX_OPTION = 80
MAX_MESSAGES = 64
MAX_ANSWER_TOKENS = 1024
DEFAULT_ANSWER_TOKENS = 256
_ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A valid request. ``plan`` is there for kinds over many records and holds the whole privacy cost.

    ``options`` are the answers that ``cohort.choice`` (or ``cohort.released``, if given) chooses between. An empty
    ``purpose`` stands for the usual one of the person's role. ``chosen`` says why this kind answers, where the asker
    left the choice to us; it is no part of what makes a request the same as another one. ``across``: several hospitals
    answer together; who they are is settled at admission (:func:`federation.across.resolve`).
    """

    kind: Kind
    model: str
    messages: tuple[dict[str, str], ...]
    purpose: str
    channel: str
    stream: bool
    hospitals: tuple[str, ...] = ()
    patient: str = ""
    max_tokens: int = DEFAULT_ANSWER_TOKENS
    temperature: float = 0.0
    idempotency_key: str | None = None
    plan: Plan | None = None
    options: tuple[str, ...] = ()
    chosen: Chosen | None = None
    across: bool = False

    @property
    def question(self) -> str:
        """The last message of the user."""
        return question_of(self.messages)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyOptions:
    """The ``privacy`` object of a request, as it came."""

    kind: Any = None
    epsilon: Any = None
    delta: Any = None
    hospitals: Any = ()
    idempotency_key: Any = None
    patient: Any = ""
    purpose: Any = None
    contexts: Any = None
    max_tokens: Any = None
    top_k: Any = None
    options: Any = None
    picks: Any = None
    threshold: Any = None
    across: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def make(
    *,
    model: Any,
    messages: Any,
    privacy: PrivacyOptions,
    channel: str,
    stream: bool,
    published: Sequence[Published] = (),
    **sampling: Any,
) -> Ask:
    """Checks everything and plans the privacy cost. ``published`` is what an open kind may be answered from first.

    Raises:
        InvalidParameter: ``details['field']`` names the first bad value.
        PushTooSmall: a cohort question whose records could not influence the text.
    """
    if privacy.extra:
        raise InvalidParameter(f"Unknown privacy option: {sorted(privacy.extra)[0][:40]}.", field="privacy")
    checked = _messages(messages)
    chosen = choose(privacy, question_of(checked), published)
    privacy = settled(privacy, chosen)
    kind = _kind(privacy.kind)
    hospitals = _hospitals(privacy.hospitals)
    max_tokens = _whole("max_tokens", sampling.get("max_tokens"), 1, MAX_ANSWER_TOKENS)
    if privacy.max_tokens is not None:
        max_tokens = _whole("privacy.max_tokens", privacy.max_tokens, 1, MAX_ANSWER_TOKENS)
    choosing_between = kind is Kind.COHORT_CHOICE or (kind is Kind.COHORT_RELEASED and privacy.options is not None)
    options = checked_options(privacy.options) if choosing_between else ()
    across = is_across(kind, privacy.across)
    _check_unused(kind, replace(privacy, delta=None) if across else privacy)
    plan: Plan | None = None
    check_searchable(kind, question_of(checked))
    if across:
        plan = plan_across(kind, privacy, max_tokens, len(options), len(hospitals))
    elif kind.is_cohort:
        plan = planned(kind, privacy, max_tokens, len(options), question_of(checked))
    patient = _text("privacy.patient", _or_empty(privacy.patient), 64)
    if (kind is Kind.CHART) != bool(patient):
        raise InvalidParameter("Name a patient for the kind chart, and for no other kind.", field="privacy.patient")
    return Ask(
        kind=kind,
        model=_text("model", model, 120, empty=False),
        messages=checked,
        purpose=_purpose(privacy.purpose),
        channel=channel,
        stream=bool(stream),
        hospitals=hospitals,
        patient=patient,
        max_tokens=max_tokens or DEFAULT_ANSWER_TOKENS,
        temperature=_number("temperature", sampling.get("temperature"), 0.0, 2.0, 0.0),
        idempotency_key=_text("privacy.idempotency_key", _or_empty(privacy.idempotency_key), 200) or None,
        plan=plan,
        options=options,
        chosen=chosen,
        across=across,
    )


def is_across(kind: Kind, value: Any) -> bool:
    """Whether several hospitals are to answer together. Raises :class:`InvalidParameter` where none can."""
    if value is None or value is False:
        return False
    if value is not True:
        raise InvalidParameter("across must be true or false.", field="privacy.across")
    if kind not in ACROSS:
        raise InvalidParameter(
            f"Several hospitals together answer the kinds {', '.join(ACROSS)}.", field="privacy.across"
        )
    return True


def plan_across(
    kind: Kind, privacy: PrivacyOptions, max_tokens: int | None, options: int, hospitals: int
) -> AcrossPlan | TextAcrossPlan:
    """The claim, with the noise of the fewest hospitals; of a text with the slots of as many as were named, or the
    fewest. How many answer is settled at admission.

    Raises:
        InvalidParameter: a value out of range; a threshold, which nobody can check who sees no hospital's numbers.
        PushTooSmall: of a text, whose records could not be heard.
    """
    if kind is Kind.COHORT_TEXT:
        low, high = HOSPITALS_OF_TEXT
        asked = {**_numbers(_PARAMETERS[kind], privacy), "max_tokens": max_tokens}
        return plan_text_across(**asked, hospitals=min(max(low, hospitals), high))
    if privacy.threshold is not None:
        raise InvalidParameter("Hospitals that answer together cannot check a threshold.", field="privacy.threshold")
    claim: dict[str, Any] = {"hospitals": HOSPITALS[0]}
    for name in ("epsilon", "delta"):
        if (value := getattr(privacy, name)) is not None:
            claim[name] = _number(f"privacy.{name}", value, -math.inf, math.inf, 0.0)
    return plan_count_across(**claim) if kind is Kind.COHORT_COUNT else plan_choice_across(**claim, options=options)


def check_searchable(kind: Kind, question: str) -> None:
    """Refuses a question that no record could be found by, before it costs anything.

    Raises:
        InvalidParameter: it holds no word that can be searched for.
    """
    if kind.is_cohort and not choosing.searchable(question):
        raise InvalidParameter(
            "Records are found by words, and this question holds none that can be set apart. Ask with words that stand"
            " in the records.",
            field="messages",
        )


def question_of(messages: Sequence[Mapping[str, str]]) -> str:
    """The last message of the user among checked ones."""
    return next(m["content"] for m in reversed(messages) if m["role"] == "user")


def choose(privacy: PrivacyOptions, question: str, published: Sequence[Published] = ()) -> Chosen | None:
    """The kind for a request that leaves it open (``kind`` is ``cohort``); ``None`` where one was named."""
    if privacy.kind != choosing.AUTO:
        return None
    options = checked_options(privacy.options) if privacy.options else ()
    given = [name for name in ("picks", "contexts", "top_k", "threshold") if getattr(privacy, name) is not None]
    named = _hospitals(privacy.hospitals)
    within = [one for one in published if not named or one.hospital in named]
    return choosing.choose(question, options, given, within if not privacy.across else ())


def settled(privacy: PrivacyOptions, chosen: Chosen | None) -> PrivacyOptions:
    """The options as if the chosen kind had been named. A count spends no delta, so any bound on it is kept; what is
    published costs nothing, so any cost is.
    """
    if chosen is None:
        return privacy
    if chosen.kind == Kind.COHORT_RELEASED:
        for name in ("epsilon", "delta"):
            _number(f"privacy.{name}", getattr(privacy, name), 0.0, math.inf, 0.0)
        privacy = replace(privacy, epsilon=None, delta=None)
    if chosen.kind == Kind.COHORT_COUNT and privacy.delta is not None:
        check_delta(_number("privacy.delta", privacy.delta, -math.inf, math.inf, 0.0), high=MAX_DELTA)
        privacy = replace(privacy, delta=None)
    return replace(privacy, kind=chosen.kind, options=privacy.options or None)


def planned(kind: Kind, privacy: PrivacyOptions, max_tokens: int | None, options: int, question: str) -> Plan:
    """:func:`plan_for`, with offers on other kinds beside those of the plan where the records could not be heard."""
    try:
        return plan_for(kind, privacy, max_tokens, options)
    except PushTooSmall as error:
        cheaper = choosing.choose(question).kind
        others: list[dict[str, Any]] = [{"kind": name} for name in (cheaper, Kind.GENERAL.value) if name != kind]
        if kind is Kind.COHORT_TEXT and _heard_together(privacy, max_tokens):
            others.insert(0, {"across": True})
        error.details = {**error.details, "try": [*error.details.get("try", ()), *others]}
        raise


def _heard_together(privacy: PrivacyOptions, max_tokens: int | None) -> bool:
    """Whether the same text could be written by two hospitals, who have more patients between them."""
    try:
        plan_across(Kind.COHORT_TEXT, privacy, max_tokens, 0, HOSPITALS_OF_TEXT[0])
    except (PushTooSmall, InvalidParameter):
        return False
    return True


async def make_aside(*, privacy: PrivacyOptions, **rest: Any) -> Ask:
    """:func:`make` for an event loop: planning a privacy cost takes some 20 ms, which other requests must not wait."""
    if isinstance(privacy.kind, str) and (privacy.kind in MECHANISMS or privacy.kind == choosing.AUTO):
        return await asyncio.to_thread(make, privacy=privacy, **rest)
    return make(privacy=privacy, **rest)


#: What each kind's privacy cost follows from, beside what it is asked.
_PARAMETERS: dict[Kind, tuple[str, ...]] = {
    Kind.COHORT_COUNT: ("epsilon",),
    Kind.COHORT_CHOICE: ("epsilon", "delta", "options", "threshold"),
    Kind.COHORT_KEYWORDS: ("epsilon", "delta", "picks"),
    Kind.COHORT_TEXT: ("epsilon", "delta", "contexts", "top_k"),
    Kind.COHORT_RELEASED: ("options",),
}


def _check_unused(kind: Kind, privacy: PrivacyOptions) -> None:
    """A parameter that would be ignored is refused: its sender expects it to count."""
    used = _PARAMETERS.get(kind, ())
    for name in ("epsilon", "delta", "contexts", "top_k", "options", "picks", "threshold"):
        value = getattr(privacy, name)
        cost = name in ("epsilon", "delta") and not kind.is_cohort
        nothing = value is None or (cost and value in (0, 0.0))
        if name not in used and not nothing:
            free = not kind.is_cohort and (cost or not used)
            why = "has no privacy cost: leave epsilon out" if free else f"does not take {name}"
            raise InvalidParameter(f"The kind {kind} {why}.", field=f"privacy.{name}")


def plan_for(kind: Kind, privacy: PrivacyOptions, max_tokens: int | None = None, options: int = OPTIONS[0]) -> Plan:
    """The privacy cost of a question of this kind over records; ``options`` is how many answers are chosen between.

    Raises:
        InvalidParameter, PushTooSmall: as :func:`make`.
    """
    found = _numbers(_PARAMETERS[kind], privacy)
    if "options" in _PARAMETERS[kind]:
        found["options"] = options
    if kind is Kind.COHORT_COUNT:
        return plan_count(**found)
    if kind is Kind.COHORT_CHOICE:
        return plan_confident_choice(**found) if "threshold" in found else plan_choice(**found)
    if kind is Kind.COHORT_KEYWORDS:
        return plan_keywords(**found)
    return plan_text(**found, max_tokens=max_tokens)


def _numbers(names: Sequence[str], privacy: PrivacyOptions) -> dict[str, Any]:
    """The named parameters that were given, as numbers; what they may be is the plan's to say."""
    found: dict[str, Any] = {}
    for name in names:
        value = getattr(privacy, name)
        if value is not None and name in ("epsilon", "delta"):
            found[name] = _number(f"privacy.{name}", value, -math.inf, math.inf, 0.0)
        elif value is not None and name != "options":
            found[name] = _whole(f"privacy.{name}", value, -(10**9), 10**9)
    return found


def checked_options(value: Any) -> tuple[str, ...]:
    """The answers to choose between, blanks trimmed.

    Raises:
        InvalidParameter: too few or too many, or two that are the same.
    """
    low, high = OPTIONS
    if isinstance(value, str) or not isinstance(value, Sequence) or not low <= len(value) <= high:
        raise InvalidParameter(f"Give {low} to {high} answers to choose between.", field="privacy.options")
    found = tuple(" ".join(_text("privacy.options", item, MAX_OPTION, empty=False).split()) for item in value)
    if not all(any(c.isalnum() for c in item) for item in found) or len({i.casefold() for i in found}) < len(found):
        raise InvalidParameter("Each option must be a different word or phrase.", field="privacy.options")
    return found


def _or_empty(value: Any) -> Any:
    """Left out is empty; 0, False and empty lists are wrong values and not the absence of one."""
    return "" if value is None else value


def _kind(value: Any) -> Kind:
    try:
        return Kind(Kind.GENERAL if value is None or value == "" else value)
    except ValueError:
        known = ", ".join([*Kind.values, choosing.AUTO])
        raise InvalidParameter(f"Unknown kind. Kinds are: {known}.", field="privacy.kind") from None


def _purpose(value: Any) -> str:
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or value not in PURPOSES:
        known = ", ".join(PURPOSES)
        raise InvalidParameter(f"Unknown purpose of use. Purposes are: {known}.", field="privacy.purpose")
    return value


def _hospitals(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) > 64:
        raise InvalidParameter("hospitals must be a list of hospital ids.", field="privacy.hospitals")
    return tuple(dict.fromkeys(_text("privacy.hospitals", item, 40, empty=False) for item in value))


def _messages(value: Any) -> tuple[dict[str, str], ...]:
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= MAX_MESSAGES:
        raise InvalidParameter(f"messages must hold 1 to {MAX_MESSAGES} entries.", field="messages")
    found = []
    for message in value:
        if not isinstance(message, dict) or message.get("role") not in _ROLES:
            raise InvalidParameter(f"A message needs a role out of {', '.join(_ROLES)}.", field="messages")
        found.append({"role": message["role"], "content": _content(message.get("content"))})
    if not next((m["content"] for m in reversed(found) if m["role"] == "user"), "").strip():
        raise InvalidParameter("The question is empty.", field="messages")
    if sum(len(m["content"].encode()) for m in found) > MAX_PROMPT_BYTES:
        raise InvalidParameter(f"The messages are longer than {MAX_PROMPT_BYTES // 1024} KiB.", field="messages")
    return tuple(found)


def _content(value: Any) -> str:
    if isinstance(value, list):  # OpenAI's list of parts
        texts = [p.get("text") for p in value if isinstance(p, dict) and p.get("type") == "text"]
        if len(texts) != len(value):
            raise InvalidParameter("Only text can be sent.", field="messages")
        value = "".join(t for t in texts if isinstance(t, str))
    return _text("messages", value, MAX_PROMPT_BYTES)


def _text(name: str, value: Any, limit: int, *, empty: bool = True) -> str:
    if not isinstance(value, str):
        raise InvalidParameter(f"{name} must be text.", field=name)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidParameter(f"{name} must be valid Unicode.", field=name) from None
    if "\0" in value or len(value) > limit or not (empty or value):
        raise InvalidParameter(f"{name} must be text of at most {limit} characters without zero bytes.", field=name)
    return value


def _whole(name: str, value: Any, low: int, high: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidParameter(f"{name} must be a whole number from {low} to {high}.", field=name)
    return value


def _number(name: str, value: Any, low: float, high: float, default: float) -> float:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise InvalidParameter(f"{name} must be a finite number.", field=name)
    if not low <= value <= high:
        raise InvalidParameter(f"{name} must lie between {low:g} and {high:g}.", field=name)
    return float(value)
