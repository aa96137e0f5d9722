"""The measures that the bench prints, on texts whose figures can be worked out by hand."""

from __future__ import annotations

import math

import pytest

from federation.node.released import quality
from federation.node.released.quality import Fact


def test_a_fact_is_told_list_by_list() -> None:
    fact = Fact("velorapine", (("cough",), ("20 mg", "reduced")))
    assert fact.told("A dry Cough that went when the dose was REDUCED") == [True, True]
    assert fact.told("Nausea, 20 mg") == [False, True] and fact.told("") == [False, False]


def test_odd_words_are_found_whole_and_in_any_case() -> None:
    texts = ["the patient saw a Balloon", "operation"]
    assert quality.canaries_in(texts, ["balloon", "opera", "glimmerspot"]) == ["balloon"]
    assert quality.canaries_in([], ["balloon"]) == []


def test_coverage_is_the_share_of_the_commonest_words() -> None:
    records = ["dry cough after velorapine", "dry cough", "rash 20"]
    assert quality.coverage("A dry rash", records, most=2) == 0.5
    assert quality.coverage("dry cough", records, most=2) == 1.0
    assert quality.coverage("anything", []) == 0.0


def test_distinct_words_and_perplexity() -> None:
    assert quality.distinct(["cough cough", "cough rash"]) == 0.5 and quality.distinct([]) == 0.0
    assert quality.perplexity([math.log(0.25)] * 8) == pytest.approx(4.0)
    assert quality.perplexity([]) == math.inf
