"""Clinicians' oversight: the person who asked accepts, edits or rejects an answer; the only writer of such decisions.

A decision changes nothing about the answer, its cost or its receipt. It may be changed by another one; all are kept.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import transaction

from accounts.principals import Principal
from fdrouter import crypto
from fdrouter.errors import Conflict, InvalidParameter
from fdrouter.evidence import Event, record
from federation import outcome
from federation.inference import get_own
from federation.models import AnswerReview, Inference, RejectReason, Verdict
from federation.states import InferenceState

MAX_TEXT_BYTES = 32_768
_PURPOSE = "answer-review"


@dataclass(frozen=True, slots=True)
class Review:
    """The decision that stands. ``text`` is empty unless the answer was edited or its text cannot be opened."""

    verdict: Verdict
    reason: str
    text: str
    at: datetime

    @property
    def reason_label(self) -> str:
        return str(RejectReason(self.reason).label) if self.reason else ""


def review(principal: Principal, request_id: UUID, *, verdict: str, text: str = "", reason: str = "") -> Review:
    """Records the decision of the person who asked. The same decision again is not recorded twice.

    Raises:
        NotFound: not a request of this person. Conflict: there is no answer to decide about.
        InvalidParameter: no such verdict or reason, an edit without a change, a rejection without a reason.
    """
    with transaction.atomic():
        row = get_own(principal.user_id, request_id)
        Inference.objects.select_for_update().only("pk").get(
            pk=row.pk
        )  # two decisions at once come one after the other
        if row.state != InferenceState.DONE or row.answer is None:
            raise Conflict("There is no answer to decide about.")
        decided, why, words = _checked(row, verdict, reason, text)
        standing = latest(row)
        if standing is not None and (standing.verdict, standing.reason, standing.text) == (decided, why, words):
            return standing
        sealed = crypto.seal(_PURPOSE, row.pk.bytes, words.encode()) if words else None
        made = AnswerReview.objects.create(inference=row, verdict=decided, reason=why, text=sealed)
        details = {"reason": why} if why else {}
        if words:
            details["text_sha256"] = hashlib.sha256(words.encode()).hexdigest()
        record(
            Event(
                kind="answer.review",
                outcome=decided,
                actor_id=principal.user_id,
                subject=row.pk,
                hospital=principal.hospital,
                department=principal.department,
                purpose=row.purpose,
                details=details,
            )
        )
    return Review(decided, why, words, made.at)


def _checked(row: Inference, verdict: str, reason: str, text: str) -> tuple[Verdict, str, str]:
    if verdict not in Verdict.values:
        raise InvalidParameter("Say accepted, edited or rejected.", field="verdict")
    decided = Verdict(verdict)
    if decided is Verdict.REJECTED:
        if reason not in RejectReason.values:
            raise InvalidParameter("Say why: one of the given reasons.", field="reason", reasons=RejectReason.values)
        return decided, reason, ""
    if decided is Verdict.ACCEPTED:
        return decided, "", ""
    words = text.replace("\r\n", "\n").strip()
    if not words:
        raise InvalidParameter("Give the text as you changed it.", field="text")
    if "\0" in words or len(words.encode()) > MAX_TEXT_BYTES:
        raise InvalidParameter("The text is too long, or is none.", field="text")
    if words == outcome.answer_of(row).strip():
        raise InvalidParameter("The text is the answer as it was: accept it, or change something.", field="text")
    return decided, "", words


def latest(row: Inference) -> Review | None:
    """The decision that stands, if there is one."""
    found = row.reviews.order_by("-pk").first()
    if found is None:
        return None
    text = ""
    if found.text is not None:
        try:
            text = crypto.unseal(_PURPOSE, row.pk.bytes, found.text).decode()
        except crypto.Unreadable:
            text = ""
    return Review(Verdict(found.verdict), found.reason, text, found.at)
