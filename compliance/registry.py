"""Claim sheets as entries of the OpenDP Deployments Registry, in the schema of its data repository (July 2026).

An entry is a draft of what the network's hospitals could register of a mechanism that has answered. What a sheet says
is copied, what the site has done is counted; the rest is said not to be stated. A mechanism that never answered is no
deployment and is left out, by name.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from django.db import transaction
from django.db.models import Count, Min
from django.db.models.fields.json import KeyTextTransform

from accounts.principals import Principal
from compliance import access, selectors
from compliance.selectors import EventFilter
from fdrouter.evidence import Event, record
from federation.models import Node
from privacy import claims

SCHEMA = "https://github.com/opendp/deployments-registry-data/blob/main/schemas/deployments-schema.yaml"
SCHEMA_COMMIT = "3e9c812a924cf01d228f26f6c462c59c391c3f2a"
TIER = 3
NOT_STATED = "not stated by this export"

PRODUCTS = {"released_corpus": "Synthetic data", "released_cards": "Summary statistics"}
PUBLISHED = {"cards": "released_cards", "corpus": "released_corpus"}
FEDERATED = frozenset({"count_across", "choice_across"})
"""Mechanisms where no one party is trusted with the data of several hospitals."""


@dataclass(frozen=True, slots=True)
class Use:
    """Since when a mechanism answers, and how often it has."""

    first: date
    answers: int


@dataclass(frozen=True, slots=True)
class Bound:
    """The total that a hospital's block allows, all mechanisms together, and what its node last said is spent."""

    hospital: str
    epsilon: float
    delta: float
    spent: float


def export(principal: Principal) -> dict[str, Any]:
    """Entries of the mechanisms that answered at the hospitals within reach; the export is evidence itself.

    Raises:
        NotFound: the person's post has no part in the evidence.
    """
    with transaction.atomic():
        found = document(principal)
        details = {"deployments": len(found["deployments"])}
        record(Event(kind="registry.export", actor_id=principal.user_id, hospital=principal.hospital, details=details))
    return found


def document(principal: Principal) -> dict[str, Any]:
    """``{"schema", "schema_commit", "deployments", "unused"}``; each deployment is one file of the registry."""
    places = list(access.hospitals(principal))
    nodes = list(Node.objects.filter(active=True, hospital__in=places).order_by("hospital_id"))
    uses = _uses(principal) | _releases(nodes)
    bounds = [bound for node in nodes if (bound := _bound(node)) is not None]
    curators = [place.name for place in places]
    entries = [
        entry(claims.sheet(name), uses[name], bounds, curators) for name in sorted(claims.IMPLEMENTED) if name in uses
    ]
    return {
        "schema": SCHEMA,
        "schema_commit": SCHEMA_COMMIT,
        "deployments": entries,
        "unused": sorted(set(claims.IMPLEMENTED) - set(uses)),
    }


def _uses(principal: Principal) -> dict[str, Use]:
    rows = selectors.events(principal, EventFilter(kind="node.receipt")).order_by()
    counted = (
        rows.annotate(mechanism=KeyTextTransform("mechanism", "details"))
        .values("mechanism")
        .annotate(first=Min("at"), answers=Count("seq"))
    )
    return {row["mechanism"]: Use(row["first"].date(), row["answers"]) for row in counted if row["mechanism"]}


def _releases(nodes: Iterable[Node]) -> dict[str, Use]:
    """What the nodes last told of their releases; a node may tell anything, so what does not fit is left out."""
    found: dict[str, list[date]] = {}
    for node in nodes:
        told = node.status.get("releases")
        for row in told if isinstance(told, list) else []:
            if not isinstance(row, dict) or row.get("kind") not in PUBLISHED:
                continue
            try:
                at = datetime.fromisoformat(str(row.get("published_at"))).date()
            except ValueError:
                continue
            found.setdefault(PUBLISHED[row["kind"]], []).append(at)
    return {name: Use(min(days), len(days)) for name, days in found.items()}


def _bound(node: Node) -> Bound | None:
    block = node.status.get("block")
    if not isinstance(block, dict):
        return None
    try:
        return Bound(node.hospital_id, float(block["epsilon"]), float(block["delta"]), float(block["epsilon_spent"]))
    except (KeyError, TypeError, ValueError):
        return None


# --- one entry ----------------------------------------------------------------------------------------------------
def entry(sheet: claims.Sheet, use: Use, bounds: list[Bound], curators: list[str]) -> dict[str, Any]:
    """A sheet as an entry: the registry's fields, each from the sheet's field or from what was counted."""
    said = sheet.fields
    name = str(said["mechanism"])
    return {
        "url_slug": f"fdrouter_{name}_{said['version']}",
        "status": "Draft",
        "tier": TIER,
        "deployment": {
            "basic": {
                "name": f"Hospital records: {name.replace('_', ' ')}",
                "data_curators": curators,
                "intended_use": "Questions of clinicians and researchers about many patients' records",
                "data_product_type": PRODUCTS.get(name, "Interactive API"),
                "data_product_region": NOT_STATED,
                "description": str(said["what"]),
                "publication_date": use.first.isoformat(),
                "data_product_sector": "Healthcare",
            },
            "dp_variant": {
                "variant_name": "Pure DP" if "pure epsilon" in str(said["claim"]) else "Approximate DP",
                "data_domain": f"records of a hospital's patients; neighbours by {said['adjacency']}",
                "unprotected_quantities": f"{said['public']}; not protected: {said['not_protected']}",
            },
            "privacy_loss": _loss(said, use, bounds),
            "deployment_model": _model(name, said),
            "accounting": {"composition": str(said["composition"]), "post_processing": NOT_STATED},
            "implementation": {
                "mechanisms": f"{said['noise']}; {said['library']}; {said['source']}; side channels: "
                f"{said['side_channels']}",
                "justification": f"accuracy: {said['accuracy']}; tests: {', '.join(said['tests'])}",
                "preprocessing_and_hyperparameter_tuning": NOT_STATED,
            },
            "administrative": {
                "registry_authors": curators,
                "sources": f"claim sheet {name} version {said['version']}, SHA-256 {sheet.digest}",
                "notes": "Draft from the site's own claim sheet and evidence; not reviewed by anybody else.",
            },
        },
    }


def _loss(said: Any, use: Use, bounds: list[Bound]) -> dict[str, Any]:
    told = [
        f"{bound.hospital}: at most epsilon {bound.epsilon:g} at delta {bound.delta:g}, spent {bound.spent:.3g}"
        for bound in bounds
    ]
    total = "; ".join(told) or "no hospital's block is known here"
    found: dict[str, Any] = {
        "privacy_unit": str(said["unit"]),
        "privacy_unit_details": f"adjacency: {said['adjacency']}; contribution: {said['contribution']}; "
        f"sensitivity: {said['sensitivity']}",
        "privacy_parameters_details": f"claim of one answer: {said['claim']}. The parameters are the bound of all "
        f"that is ever answered from one hospital's records, by all mechanisms together, and it does not refill "
        f"({total}). This mechanism has answered {use.answers} times.",
    }
    if bounds:
        largest = max(bounds, key=lambda bound: bound.epsilon)
        found["privacy_parameters"] = {"epsilon": largest.epsilon, "delta": largest.delta}
    return found


def _model(name: str, said: Any) -> dict[str, Any]:
    published = name in PRODUCTS
    return {
        "model_name": "Federated" if name in FEDERATED else "Central",
        "model_name_details": f"trusted: {said['trusted']}",
        "actors": f"trusted: {said['trusted']}; clinicians and researchers of the network see answers",
        "release_type": "Many releases",
        "release_type_details": str(said["exhaustion"]),
        "data_source_type": "Dynamic",
        "access_type": "Non-interactive" if published else "Interactive",
        "access_type_details": str(said["query_model"]),
    }
