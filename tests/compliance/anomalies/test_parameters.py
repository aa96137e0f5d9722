"""The parameters' file is read strictly, and the product's own is one that can be used."""

from __future__ import annotations

import pytest
import yaml
from django.conf import settings

from compliance.anomalies import checks
from compliance.anomalies.parameters import FILE, ParametersInvalid, parameters, read
from compliance.anomalies.registry import RULES, rule
from compliance.anomalies.rules.care import NoParameters

TEXT = (settings.BASE_DIR / FILE).read_bytes()


def test_the_products_parameters_run_every_rule() -> None:
    assert {found.name for found, _ in parameters().running()} == set(RULES)
    assert checks.anomaly_parameters_are_valid() == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("refusals: 6", "refusals: 1"),
        ("refusals: 6", "refusals: six"),
        ("refusals: 6", "refusal: 6"),
        ("  vip:", "  vips:"),
        ("share: 0.01", "share: 1.0"),
        ("past_days: 60", "past_days: 0"),
        ("working_days: 5 ", "working_day: 5 "),
        ("rules:", "rules: ["),
        ("same-surname: {}", "same-surname: {limit: 3}"),
    ],
)
def test_a_wrong_value_refuses_the_file(old: str, new: str) -> None:
    assert old.encode() in TEXT
    with pytest.raises(ParametersInvalid):
        read(TEXT.replace(old.encode(), new.encode(), 1))


def test_a_rule_that_is_left_out_does_not_run() -> None:
    document = yaml.safe_load(TEXT)
    del document["rules"]["vip"]
    assert "vip" not in {found.name for found, _ in read(yaml.safe_dump(document).encode()).running()}


def test_two_rules_have_two_names() -> None:
    with pytest.raises(ValueError, match="two rules"):
        rule("vip", version=1, title="", looks_for="", parameters=NoParameters)(lambda rows, limits: iter(()))
