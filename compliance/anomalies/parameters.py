"""The parameters of the rules and of cases: one YAML file, refused as a whole when any value of it is wrong."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml
from django.conf import settings

from compliance.anomalies import rules  # noqa: F401  (fills the registry)
from compliance.anomalies.registry import RULES, Rule

FILE = Path("configs") / "compliance" / "anomalies.yaml"


class ParametersInvalid(ValueError):
    """The file cannot be used; the text says what is wrong."""


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    past_days: Annotated[int, msgspec.Meta(ge=1, le=366)]
    first_days: Annotated[int, msgspec.Meta(ge=1, le=366)]
    late_minutes: Annotated[int, msgspec.Meta(ge=1, le=24 * 60)]
    working_days: Annotated[int, msgspec.Meta(ge=1, le=60)]
    rules: dict[str, Any]


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """Days of past that habits are made of; days that the first run looks at; how long rows may be late (minutes);
    working days until a case is overdue; and of each rule that runs, its parameters."""

    past_days: int
    first_days: int
    late_minutes: int
    working_days: int
    rules: dict[str, msgspec.Struct]

    def running(self) -> list[tuple[Rule, msgspec.Struct]]:
        """The rules that run, each with its parameters, by name."""
        return [(RULES[name], self.rules[name]) for name in sorted(self.rules)]


def read(data: bytes) -> Parameters:
    """The parameters of a file.

    Raises:
        ParametersInvalid: no YAML, an unknown rule or key, or a value that is missing or out of range.
    """
    try:
        file = msgspec.convert(yaml.safe_load(data), _File)
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise ParametersInvalid(f"anomalies.yaml: {error}") from None
    found: dict[str, msgspec.Struct] = {}
    for name, values in file.rules.items():
        if name not in RULES:
            raise ParametersInvalid(f"anomalies.yaml: no rule is called {name}")
        try:
            found[name] = msgspec.convert(values or {}, RULES[name].parameters)
        except msgspec.ValidationError as error:
            raise ParametersInvalid(f"anomalies.yaml: {name}: {error}") from None
    plain = {field: getattr(file, field) for field in ("past_days", "first_days", "late_minutes", "working_days")}
    return Parameters(rules=found, **plain)


@lru_cache(maxsize=1)
def parameters() -> Parameters:
    """The product's parameters; read once a process.

    Raises:
        ParametersInvalid: as for :func:`read`, or the file cannot be read.
    """
    try:
        return read((settings.BASE_DIR / FILE).read_bytes())
    except OSError as error:
        raise ParametersInvalid(f"anomalies.yaml: {error.strerror}") from None
