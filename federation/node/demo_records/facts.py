"""The planted facts, canaries and questions, read from ``configs/demo``. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

CONFIG = Path(__file__).resolve().parents[3] / "configs" / "demo"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hospital:
    """One demo hospital; ``prefix`` keeps its resource ids apart from the others'."""

    id: str
    name: str
    seed: int
    prefix: str
    shift: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedFact:
    """A drug and its side effect, or a treatment and its outcome, for ``patients`` patients of each hospital.

    ``effect_rate`` of them have the effect; of those ``remedy_rate`` (side effects only) lost it by ``remedy``.
    ``when`` says when the effect came; without it notes name a delay that differs from patient to patient.
    """

    id: str
    kind: str
    department: str
    treatment: str
    dose: str
    indication: str
    patients: int
    effect: str
    effect_rate: float
    remedy: str
    remedy_rate: float = 1.0
    verb: str = "was started for"
    when: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """One odd record: a sentence of one patient of a fact's cohort, whose words must never surface."""

    id: str
    fact: str
    sentence: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A common question; a good answer holds one word of each list in ``terms``."""

    id: str
    fact: str
    department: str
    text: str
    terms: tuple[tuple[str, ...], ...]


@lru_cache(maxsize=4)
def _read(name: str) -> Any:
    return yaml.safe_load((CONFIG / name).read_text(encoding="utf-8"))


def hospitals() -> dict[str, Hospital]:
    """The demo's hospitals by id."""
    return {key: Hospital(id=key, **values) for key, values in _read("facts.yaml")["hospitals"].items()}


def planted_facts() -> list[PlantedFact]:
    """Every planted fact."""
    return [PlantedFact(**values) for values in _read("facts.yaml")["facts"]]


def canaries(hospital: str) -> list[Canary]:
    """One hospital's odd records."""
    rows = _read("facts.yaml")["canaries"].get(hospital, [])
    return [Canary(**{**row, "words": tuple(row["words"])}) for row in rows]


def questions() -> list[Question]:
    """The common questions of the demo."""
    rows = _read("questions.yaml")["questions"]
    return [Question(**{**row, "terms": tuple(tuple(words) for words in row["terms"])}) for row in rows]


def config_digest() -> str:
    """SHA-256 of what the overlay is made from, in hexadecimal."""
    return hashlib.sha256((CONFIG / "facts.yaml").read_bytes()).hexdigest()


def draw(seed: int, *parts: object) -> int:
    """A fixed pseudo-random number of 64 bits for this seed and these parts. For synthetic data only."""
    told = "|".join(map(str, (seed, *parts)))
    return int.from_bytes(hashlib.sha256(told.encode()).digest()[:8], "big")


def ordered(seed: int, label: str, items: Iterable[str]) -> list[str]:
    """The items in a fixed pseudo-random order."""
    return sorted(items, key=lambda item: (draw(seed, label, item), item))
