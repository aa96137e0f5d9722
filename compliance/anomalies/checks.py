"""System check: parameters of the rules that cannot be used stop the start instead of a page."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Error, Tags, register


@register(Tags.security)
def anomaly_parameters_are_valid(**_: Any) -> list[CheckMessage]:
    """Every rule, key and value of the parameters is one that the code knows."""
    from compliance.anomalies.parameters import ParametersInvalid, parameters
    from compliance.anomalies.registry import RULES

    try:
        parameters()
    except ParametersInvalid as error:
        return [Error(str(error), hint=f"Rules are: {', '.join(sorted(RULES))}.", id="compliance.E003")]
    return []
