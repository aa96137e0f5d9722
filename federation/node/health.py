"""How the node is: engine, block, records. Figures that depend on single patients are banded."""

from __future__ import annotations

from typing import Any

import httpx
from django.conf import settings

from federation.models import NodeCall, NodeCallState
from federation.node import blocks
from federation.node.models import Patient
from federation.node.released import shelf

BAND = 100


def engine_state() -> str:
    """``ok`` when the engine answers and serves the node's model."""
    try:
        answer = httpx.get(f"{settings.ENGINE_URL}/v1/models", timeout=3.0)
        names = {entry["id"] for entry in answer.json()["data"]}
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return "unreachable"
    return "ok" if settings.ENGINE_MODEL in names else "another model"


def document() -> dict[str, Any]:
    """The health answer. The number of patients is a band of 100, so that one admission does not show.

    ``block`` is the block that can pay most, ``blocks`` are all of them; ``releases`` is what was published.

    Raises:
        BlockExhausted: the hospital has opened no block.
    """
    low, told = Patient.objects.count() // BAND * BAND, blocks.all_figures()
    return {
        "node": settings.NODE_ID,
        "hospital": settings.HOSPITAL_ID,
        "engine": engine_state(),
        "model": settings.ENGINE_MODEL,
        "patients_band": f"{low}-{low + BAND - 1}",
        "block": told[0],
        "blocks": told,
        "releases": shelf.listing(),
        "running": NodeCall.objects.filter(state=NodeCallState.RUNNING).count(),
    }
