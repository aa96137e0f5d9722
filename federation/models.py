"""Nodes and requests, as the coordinator knows them."""

from __future__ import annotations

import uuid

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q

from accounts.models import Department, Hospital, Membership, User
from federation.states import InferenceState


class Kind(models.TextChoices):
    """What an answer is made from, and so what may be claimed for it."""

    GENERAL = "general", "Ask the model"
    CHART = "chart", "Ask about my patient"
    COHORT_COUNT = "cohort.count", "Count patients"
    COHORT_CHOICE = "cohort.choice", "Choose between answers"
    COHORT_KEYWORDS = "cohort.keywords", "Find keywords"
    COHORT_TEXT = "cohort.text", "Ask our records"
    COHORT_RELEASED = "cohort.released", "Ask what is published"

    @property
    def is_cohort(self) -> bool:
        """Whether an answer is made from many patients' records, for a privacy cost."""
        return self in MECHANISMS


#: The mechanism behind each kind that has a privacy cost, by the name in its plan and receipt.
MECHANISMS: dict[str, str] = {
    Kind.COHORT_COUNT: "count",
    Kind.COHORT_CHOICE: "choice",
    Kind.COHORT_KEYWORDS: "keywords",
    Kind.COHORT_TEXT: "token_decoding",
}


#: The mechanisms by which several hospitals answer a kind together, by the name in plan and receipts.
ACROSS: dict[str, str] = {
    Kind.COHORT_COUNT: "count_across",
    Kind.COHORT_CHOICE: "choice_across",
    Kind.COHORT_TEXT: "text_across",
}


#: The same with a check beforehand that may withhold the answer.
CHECKED: dict[str, str] = {Kind.COHORT_CHOICE: "choice_confident"}


class Transport(models.TextChoices):
    """How a node is spoken to."""

    SEALED = "sealed", "sealed messages over mutual TLS"
    OPENAI = "openai", "plain OpenAI-compatible engine, kind general only"


class Node(models.Model):
    """A hospital's node: where it is, what it serves, and the keys that its receipts are checked against."""

    id = models.SlugField(primary_key=True, max_length=40)
    hospital = models.ForeignKey(Hospital, on_delete=models.PROTECT, related_name="nodes")
    name = models.CharField(max_length=120)
    url = models.URLField()
    transport = models.CharField(max_length=12, choices=Transport.choices, default=Transport.SEALED)
    served_models = ArrayField(models.CharField(max_length=120))
    active = models.BooleanField(default=True)
    public_keys = models.JSONField(default=dict, help_text="KEM and signature keys, base64, and the key id.")
    certificate_sha256 = models.CharField(max_length=64, blank=True)
    enrolled_at = models.DateTimeField(auto_now_add=True)
    last_seen_at = models.DateTimeField(null=True, blank=True)
    status = models.JSONField(default=dict, blank=True, help_text="The last health answer: engine, block, queue.")

    def __str__(self) -> str:
        return self.name


class Inference(models.Model):
    """One request from submission to its end. Rows change through ``federation.inference`` and its SQL only.

    ``request`` and ``answer`` are sealed with the data key. ``lease`` is until when a worker holds the row.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    user = models.ForeignKey(User, on_delete=models.PROTECT, related_name="inferences")
    membership = models.ForeignKey(Membership, on_delete=models.PROTECT)
    department = models.ForeignKey(Department, on_delete=models.PROTECT, null=True)
    kind = models.CharField(max_length=24, choices=Kind.choices)
    model = models.CharField(max_length=120)
    purpose = models.CharField(max_length=16)
    channel = models.CharField(max_length=8)
    stream = models.BooleanField()
    hospitals = ArrayField(models.CharField(max_length=40), default=list)
    patient_reference = models.CharField(max_length=64, blank=True)
    parameters = models.JSONField(default=dict)
    epsilon_micro = models.BigIntegerField(default=0, help_text="The claim: epsilon reserved for the request, 1e-6.")
    delta = models.FloatField(default=0.0)
    idempotency_key = models.CharField(max_length=200, null=True)
    request_digest = models.BinaryField(max_length=32)
    request = models.BinaryField(null=True)
    state = models.CharField(max_length=12, choices=InferenceState.choices, default=InferenceState.QUEUED)
    reason = models.CharField(max_length=40, blank=True)
    details = models.JSONField(default=dict)
    attempt = models.PositiveSmallIntegerField(default=0)
    lease = models.DateTimeField()
    cancel_requested_at = models.DateTimeField(null=True)
    reply_to = models.CharField(max_length=80)
    node = models.ForeignKey(Node, on_delete=models.PROTECT, null=True)
    answer = models.BinaryField(null=True)
    receipt = models.JSONField(null=True)
    prompt_tokens = models.IntegerField(default=0)
    completion_tokens = models.IntegerField(default=0)
    finish_reason = models.CharField(max_length=24, blank=True)
    created_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["user", "idempotency_key"],
                condition=Q(idempotency_key__isnull=False),
                name="inference_once_per_key",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["queued", "dispatched"], finished_at__isnull=True)
                | (~Q(state__in=["queued", "dispatched"]) & Q(finished_at__isnull=False)),
                name="inference_ended_has_a_time",
            ),
            models.CheckConstraint(
                condition=~Q(kind__startswith="cohort.")
                | Q(kind="cohort.released", epsilon_micro=0)
                | ~Q(kind="cohort.released") & Q(epsilon_micro__gt=0) & (Q(kind="cohort.count") | Q(delta__gt=0)),
                name="cohort_answer_has_a_cost",
            ),
        ]
        indexes = [
            models.Index(fields=["lease"], condition=Q(state__in=["queued", "dispatched"]), name="inference_open"),
            models.Index(fields=["user", "-created_at"], name="inference_by_user"),
            models.Index(fields=["created_at"], name="inference_by_time"),
            models.Index(
                fields=["patient_reference", "created_at"],
                condition=~Q(patient_reference=""),
                name="inference_by_patient",
            ),
            models.Index(
                fields=["request_digest"],
                condition=Q(state="done", kind__startswith="cohort."),
                name="inference_released",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.id} {self.kind} {self.state}"


class Verdict(models.TextChoices):
    """What the asker decided about an answer."""

    ACCEPTED = "accepted", "Accepted"
    EDITED = "edited", "Edited"
    REJECTED = "rejected", "Rejected"


class RejectReason(models.TextChoices):
    """Why an answer is of no use; words of ours, so that they may be counted."""

    WRONG = "wrong", "It is wrong"
    UNSAFE = "unsafe", "It would be unsafe to follow"
    INCOMPLETE = "incomplete", "Something important is missing"
    OFF_TOPIC = "off_topic", "It answers something else"
    UNUSABLE = "unusable", "It cannot be understood"


class AnswerReview(models.Model):
    """A decision about an answer by the person who asked. Append-only; the youngest row stands.

    ``text`` is what an edited answer became, sealed like the answer.
    """

    inference = models.ForeignKey(Inference, on_delete=models.PROTECT, related_name="reviews")
    verdict = models.CharField(max_length=8, choices=Verdict.choices)
    reason = models.CharField(max_length=12, choices=RejectReason.choices, blank=True)
    text = models.BinaryField(null=True)
    at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(verdict="accepted", reason="", text__isnull=True)
                | Q(verdict="edited", reason="", text__isnull=False)
                | Q(verdict="rejected", text__isnull=True) & ~Q(reason=""),
                name="review_has_what_its_verdict_needs",
            )
        ]
        indexes = [
            models.Index(fields=["inference", "-id"], name="review_of_answer"),
            models.Index(fields=["at"], name="review_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.inference_id} {self.verdict}"


class NodeCallState(models.TextChoices):
    """A node's work on one message. A call found ``running`` after a restart is ``failed`` and stays charged."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class NodeCall(models.Model):
    """A node's memory of a message (node database only): a repeat gets the stored answer and is not charged again."""

    id = models.UUIDField(primary_key=True)
    request_digest = models.BinaryField(max_length=32)
    state = models.CharField(max_length=8, choices=NodeCallState.choices, default=NodeCallState.RUNNING)
    code = models.CharField(max_length=40, blank=True)
    answer = models.BinaryField(null=True)
    receipt = models.JSONField(null=True)
    repeat_of = models.ForeignKey("self", on_delete=models.PROTECT, null=True, related_name="repeats")
    started_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["request_digest"], condition=Q(state="done", repeat_of=None), name="nodecall_first_answer"
            )
        ]

    def __str__(self) -> str:
        return f"{self.id} {self.state}"
