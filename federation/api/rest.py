"""REST under ``/api/``: the person, quotes, budgets, nodes and past requests. Parse, call one service, render."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from uuid import UUID

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from accounts import principals
from accounts.principals import Principal
from fdrouter.errors import DomainError, NotFound
from federation import inference, offers, outcome, oversight, quotes, selectors
from federation.asks import MAX_PROMPT_BYTES
from federation.choosing import AUTO
from federation.models import Inference, Kind, Node, RejectReason, Verdict
from federation.states import InferenceState
from privacy import grants
from privacy import selectors as budgets
from privacy.dp.units import MICRO
from privacy.models import QuotaGrant

PAGE = 50


def principal_of(request: Request) -> Principal:
    """The acting person, from a token or a session."""
    if isinstance(request.auth, Principal):
        return request.auth
    return principals.for_user(request.user.pk or 0)


# drf-spectacular has no types
class TokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Tells the API's document how tokens are sent."""

    target_class = "accounts.tokens.TokenAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer"}


class QuoteInput(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(choices=[*Kind.choices, (AUTO, "The cheapest way over records that can answer")])
    question = serializers.CharField(
        required=False, allow_blank=True, max_length=MAX_PROMPT_BYTES, help_text="Decides where kind is cohort."
    )
    epsilon = serializers.FloatField(required=False, allow_null=True)
    delta = serializers.FloatField(required=False, allow_null=True)
    hospitals = serializers.ListField(child=serializers.CharField(max_length=40), required=False, max_length=64)
    contexts = serializers.IntegerField(required=False, allow_null=True)
    max_tokens = serializers.IntegerField(required=False, allow_null=True)
    options = serializers.ListField(child=serializers.CharField(max_length=80), required=False, max_length=12)
    picks = serializers.IntegerField(required=False, allow_null=True)
    threshold = serializers.IntegerField(required=False, allow_null=True)
    across = serializers.BooleanField(required=False, allow_null=True, help_text="Several hospitals together.")


class RefusalOutput(serializers.Serializer[Any]):
    code = serializers.CharField()
    message = serializers.CharField()
    details = serializers.DictField()


class ChosenOutput(serializers.Serializer[Any]):
    kind = serializers.CharField()
    why = serializers.CharField()


class QuoteOutput(serializers.Serializer[Any]):
    kind = serializers.CharField()
    chosen = ChosenOutput(allow_null=True)
    claim = serializers.CharField()
    seconds = serializers.IntegerField()
    epsilon = serializers.FloatField()
    delta = serializers.FloatField()
    push = serializers.FloatField()
    contexts = serializers.IntegerField()
    max_tokens = serializers.IntegerField()
    user_left = serializers.FloatField()
    department_left = serializers.FloatField()
    block_left = serializers.DictField(child=serializers.FloatField())
    block_share = serializers.DictField(
        child=serializers.FloatField(), help_text="Part of each hospital's whole block that this would reserve, 0 to 1."
    )
    hospitals = serializers.ListField(
        child=serializers.CharField(), help_text="Who would answer together; each of them pays. Empty for one alone."
    )
    band = serializers.IntegerField(
        allow_null=True, help_text="How far each number may be from the true one, with 95 % confidence."
    )
    refusal = RefusalOutput(allow_null=True)


class MeOutput(serializers.Serializer[Any]):
    username = serializers.CharField()
    name = serializers.CharField()
    role = serializers.CharField()
    hospital = serializers.CharField(allow_null=True)
    department = serializers.CharField(allow_null=True)


class GaugeOutput(serializers.Serializer[Any]):
    scope = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]  # a field named like an attribute of every field
    unit = serializers.CharField()
    cap = serializers.FloatField()
    used = serializers.FloatField()
    left = serializers.FloatField()
    refills_at = serializers.DateTimeField()


class NodeOutput(serializers.Serializer[Any]):
    id = serializers.CharField()
    name = serializers.CharField()
    hospital = serializers.CharField()
    healthy = serializers.BooleanField()
    patients_band = serializers.CharField()
    block = serializers.DictField(allow_null=True)
    public_keys = serializers.DictField(
        child=serializers.CharField(), help_text="What the node's receipts are checked with."
    )


class ReviewInput(serializers.Serializer[Any]):
    verdict = serializers.ChoiceField(choices=Verdict.choices)
    text = serializers.CharField(
        required=False, allow_blank=True, max_length=oversight.MAX_TEXT_BYTES, help_text="What an edited answer became."
    )
    reason = serializers.ChoiceField(
        choices=RejectReason.choices, required=False, allow_blank=True, help_text="Why it is rejected."
    )


class ReviewOutput(serializers.Serializer[Any]):
    verdict = serializers.CharField()
    reason = serializers.CharField(allow_blank=True)
    text = serializers.CharField(allow_blank=True)
    at = serializers.DateTimeField()


class InferenceOutput(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    kind = serializers.CharField()
    state = serializers.CharField()
    model = serializers.CharField()
    created_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)
    node = serializers.CharField(allow_null=True)
    answer = serializers.CharField(allow_null=True)
    privacy = serializers.DictField()
    error = serializers.DictField(allow_null=True)
    review = ReviewOutput(allow_null=True)


class Me(APIView):
    """Who the token belongs to."""

    @extend_schema(responses=MeOutput)
    def get(self, request: Request) -> Response:
        principal = principal_of(request)
        data = {"username": principal.username, "name": principal.display_name, "role": principal.role}
        data |= {"hospital": principal.hospital, "department": principal.department}  # type: ignore[dict-item]
        return Response(MeOutput(data).data)


class Quote(APIView):
    """What a request would cost now. Nothing is reserved."""

    @extend_schema(request=QuoteInput, responses=QuoteOutput)
    def post(self, request: Request) -> Response:
        asked = QuoteInput(data=request.data)
        asked.is_valid(raise_exception=True)
        found = quotes.quote(principal_of(request), **asked.validated_data)
        names = ("kind", "claim", "seconds", "epsilon", "delta", "push", "contexts", "max_tokens", "user_left")
        data: dict[str, Any] = {
            name: getattr(found, name)
            for name in (*names, "department_left", "block_left", "block_share", "hospitals", "band")
        }
        data |= {"refusal": _refusal(found.refusal), "chosen": found.chosen and found.chosen._asdict()}
        return Response(QuoteOutput(data).data)


def _refusal(error: DomainError | None) -> dict[str, Any] | None:
    return {"code": error.code, "message": error.message, "details": dict(error.details)} if error else None


class Budget(APIView):
    """Today's quotas of the person and their department."""

    @extend_schema(responses=GaugeOutput(many=True))
    def get(self, request: Request) -> Response:
        gauges = budgets.balances(principal_of(request))
        rows = [
            {**asdict(gauge), "unit": "epsilon" if gauge.is_privacy else gauge.unit, "left": round(gauge.left, 6)}
            for gauge in gauges
        ]
        return Response(GaugeOutput(rows, many=True).data)


class GrantInput(serializers.Serializer[Any]):
    target = serializers.ChoiceField(choices=list(grants.TARGETS))
    epsilon = serializers.FloatField()
    reason = serializers.CharField(max_length=grants.MAX_REASON)
    source = serializers.CharField(required=False, allow_blank=True, max_length=40, default="")  # type: ignore[assignment]


class GrantOutput(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    scope = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]  # a field named like an attribute of every field
    epsilon = serializers.FloatField()
    reason = serializers.CharField()
    state = serializers.CharField()
    day = serializers.DateField()


class DecisionInput(serializers.Serializer[Any]):
    approve = serializers.BooleanField()


def _grant(row: QuotaGrant) -> dict[str, Any]:
    shown = {"id": row.pk, "scope": row.scope.kind, "label": row.scope.label, "epsilon": row.amount / MICRO}
    return GrantOutput(shown | {"reason": row.reason, "state": row.state, "day": row.period}).data


class Grants(APIView):
    """Wishes for more of a daily quota: one's own, and for a privacy officer those of the hospital."""

    @extend_schema(responses=GrantOutput(many=True))
    def get(self, request: Request) -> Response:
        return Response([_grant(row) for row in grants.visible(principal_of(request))[:PAGE]])

    @extend_schema(request=GrantInput, responses={201: GrantOutput})
    def post(self, request: Request) -> Response:
        """Asks for more today. A second person decides."""
        asked = GrantInput(data=request.data)
        asked.is_valid(raise_exception=True)
        row = grants.request(principal_of(request), **asked.validated_data)
        return Response(_grant(row), status=status.HTTP_201_CREATED)


class GrantDecision(APIView):
    """A privacy officer's decision about somebody else's wish."""

    @extend_schema(request=DecisionInput, responses=GrantOutput, operation_id="budget_grants_decide")
    def post(self, request: Request, grant_id: UUID) -> Response:
        decided = DecisionInput(data=request.data)
        decided.is_valid(raise_exception=True)
        row = grants.decide(principal_of(request), grant_id, approve=decided.validated_data["approve"])
        return Response(_grant(row))


class RouterOutput(serializers.Serializer[Any]):
    public_keys = serializers.DictField(
        child=serializers.CharField(),
        help_text="What receipts over several hospitals are checked with; as those of nodes.",
    )


class Router(APIView):
    """This router's public identity."""

    @extend_schema(responses=RouterOutput)
    def get(self, request: Request) -> Response:
        principal_of(request)
        return Response(RouterOutput({"public_keys": selectors.router_keys()}).data)


class Nodes(APIView):
    """The network's nodes as last seen."""

    @extend_schema(responses=NodeOutput(many=True))
    def get(self, request: Request) -> Response:
        principal_of(request)
        return Response(NodeOutput([_node(n) for n in Node.objects.filter(active=True).order_by("pk")], many=True).data)


def _node(node: Node) -> dict[str, Any]:
    return {
        "id": node.pk,
        "name": node.name,
        "hospital": node.hospital_id,
        "healthy": bool(node.status.get("healthy")),
        "patients_band": node.status.get("patients_band", ""),
        "block": node.status.get("block"),
        "public_keys": node.public_keys,
    }


def render(row: Inference, *, contents: bool) -> dict[str, Any]:
    """A request for its owner. ``contents`` adds the answer."""
    done = row.state == InferenceState.DONE
    failed = row.state in (InferenceState.FAILED, InferenceState.CANCELLED)
    failure = {"id": str(row.pk), "state": row.state, "code": row.reason, "details": row.details}
    return {
        "id": row.pk,
        "kind": row.kind,
        "state": row.state,
        "model": row.model,
        "created_at": row.created_at,
        "finished_at": row.finished_at,
        "node": row.node_id,
        "answer": outcome.answer_of(row) if done and contents else None,
        "privacy": outcome.claim(row.kind, row.receipt, row.epsilon_micro, row.delta)
        | {"chosen": outcome.chosen_of(row.kind, row.pk, row.request)},
        "error": _failure(row.pk, inference.failure(failure), offer=contents) if failed else None,
        "review": _reviewed(row) if done and contents else None,
    }


def _reviewed(row: Inference) -> dict[str, Any] | None:
    found = oversight.latest(row)
    return asdict(found) if found else None


def _failure(request_id: UUID, told: dict[str, Any], *, offer: bool) -> dict[str, Any]:
    """What went wrong; ``offer`` adds what to do instead."""
    error = offers.after_end(inference.error_of(told), request_id) if offer else None
    return {**told, "details": inference.without_end(error.details)} if error else told


class Inferences(APIView):
    """The person's latest requests, without contents."""

    @extend_schema(responses=InferenceOutput(many=True))
    def get(self, request: Request) -> Response:
        principal = principal_of(request)
        rows = Inference.objects.filter(user_id=principal.user_id).order_by("-created_at")[:PAGE]
        return Response(InferenceOutput([render(row, contents=False) for row in rows], many=True).data)


class InferenceDetail(APIView):
    """One request of the person, with its answer once it is there."""

    @extend_schema(responses=InferenceOutput)
    def get(self, request: Request, request_id: UUID) -> Response:
        row = inference.get_own(principal_of(request).user_id, request_id)
        return Response(InferenceOutput(render(row, contents=True)).data)

    @extend_schema(responses={202: None})
    def delete(self, request: Request, request_id: UUID) -> Response:
        """Asks for a stop; what was sent to a node stays charged."""
        row = inference.get_own(principal_of(request).user_id, request_id)
        inference.cancel_now(row.pk, row.user_id)
        return Response(status=status.HTTP_202_ACCEPTED)


class Reviews(APIView):
    """What the person decided about an answer of theirs."""

    @extend_schema(request=ReviewInput, responses=ReviewOutput)
    def post(self, request: Request, request_id: UUID) -> Response:
        """Accepts, edits or rejects. The latest decision stands, earlier ones stay on record."""
        given = ReviewInput(data=request.data)
        given.is_valid(raise_exception=True)
        made = oversight.review(principal_of(request), request_id, **given.validated_data)
        return Response(ReviewOutput(asdict(made)).data)


@extend_schema(exclude=True)
class Unknown(APIView):
    """Every other address under ``/api/``."""

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        raise NotFound("There is no such endpoint.")


class Models(APIView):
    """Models that the network's nodes serve."""

    @extend_schema(responses={200: serializers.ListSerializer(child=serializers.CharField())})
    def get(self, request: Request) -> Response:
        principal_of(request)
        return Response(selectors.served_models())
