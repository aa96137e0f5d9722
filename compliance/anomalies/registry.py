"""Rules by name: a pure function over rows, what it looks for in words, and the parameters that it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from compliance.anomalies.rows import Hit, Rows

P = TypeVar("P", bound=msgspec.Struct)
Find = Callable[[Rows, P], Iterator[Hit]]


@dataclass(frozen=True, slots=True)
class Rule:
    """``version`` moves with every change of what it finds; ``not_covered`` says what it cannot see."""

    name: str
    version: int
    title: str
    looks_for: str
    not_covered: str
    parameters: type[msgspec.Struct]
    find: Callable[[Rows, Any], Iterator[Hit]]


RULES: dict[str, Rule] = {}


def rule(
    name: str, *, version: int, title: str, looks_for: str, parameters: type[P], not_covered: str = ""
) -> Callable[[Find[P]], Find[P]]:
    """Registers a rule.

    Raises:
        ValueError: the name is taken.
    """

    def keep(find: Find[P]) -> Find[P]:
        if name in RULES:
            raise ValueError(f"two rules are called {name}")
        RULES[name] = Rule(name, version, title, looks_for, not_covered, parameters, find)
        return find

    return keep
