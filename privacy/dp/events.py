"""One kind of release as the ledger stores it: mechanism, unit of protection and adjacency, as versioned JSON.

An event holds public parameters only. Its JSON is read back strictly: what this version does not know is refused,
because a parameter that was ignored could have been one that costs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from fdrouter.errors import InvalidParameter
from privacy.dp.releases import Approximate, Mechanism, PoissonGaussian, SubsetGaussian, Zcdp

VERSION = 1
Unit = Literal["patient", "note", "user", "hospital"]
Adjacency = Literal["add_remove", "swap"]

_MECHANISMS: dict[str, type[Any]] = {kind.name: kind for kind in get_args(Mechanism)}
_KEYS = {"version", "mechanism", "unit", "adjacency", "parameters"}


@dataclass(frozen=True, slots=True)
class Event:
    """A release by ``mechanism`` that protects one ``unit`` against one change of kind ``adjacency``.

    ``add_remove``: the data with and without the unit. ``swap``: the unit's data replaced by any other's.

    Raises:
        InvalidParameter: unknown unit or adjacency, or a sampling scheme that says nothing about this adjacency.
    """

    mechanism: Mechanism
    unit: Unit = "patient"
    adjacency: Adjacency = "add_remove"

    def __post_init__(self) -> None:
        if not isinstance(self.mechanism, get_args(Mechanism)):
            raise InvalidParameter("mechanism must be one of privacy.dp.releases.", field="mechanism")
        check_unit(self.unit)
        check_adjacency(self.adjacency)
        if isinstance(self.mechanism, PoissonGaussian) and self.adjacency != "add_remove":
            raise InvalidParameter("Poisson sampling amplifies for add_remove only.", field="adjacency")
        if isinstance(self.mechanism, SubsetGaussian) and self.adjacency != "swap":
            raise InvalidParameter("Sampling without replacement amplifies for swap only.", field="adjacency")

    @property
    def dp_event(self) -> Any:
        """dp-accounting's event (``UnsupportedDpEvent`` for an (epsilon, delta) claim, which it cannot describe)."""
        return self.mechanism.dp_event

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; :func:`from_json` gives the same event back."""
        return {
            "version": VERSION,
            "mechanism": self.mechanism.name,
            "unit": self.unit,
            "adjacency": self.adjacency,
            "parameters": asdict(self.mechanism),
        }

    @property
    def key(self) -> str:
        """The JSON as one canonical line: equal events have equal keys."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))


def check_unit(unit: str) -> None:
    """Raises :class:`InvalidParameter` for an unknown unit."""
    if unit not in get_args(Unit):
        raise InvalidParameter(f"unit must be one of {', '.join(get_args(Unit))}.", field="unit")


def check_adjacency(adjacency: str) -> None:
    """Raises :class:`InvalidParameter` for an unknown adjacency."""
    if adjacency not in get_args(Adjacency):
        raise InvalidParameter(f"adjacency must be one of {', '.join(get_args(Adjacency))}.", field="adjacency")


def from_json(stored: object) -> Event:
    """The event that :meth:`Event.to_json` wrote.

    Raises:
        InvalidParameter: another version, a key too many or too few, a value of the wrong kind or out of range.
    """
    if not isinstance(stored, Mapping) or set(stored) != _KEYS or not isinstance(stored["parameters"], Mapping):
        raise InvalidParameter("This is not the record of an event.", field="event")
    if stored["version"] != VERSION or isinstance(stored["version"], bool):
        raise InvalidParameter("This event was written by another version.", field="version", known=VERSION)
    name = stored["mechanism"]
    kind = _MECHANISMS.get(name) if isinstance(name, str) else None
    if kind is None or set(stored["parameters"]) != {field.name for field in fields(kind)}:
        raise InvalidParameter("This mechanism, or one of its parameters, is not known.", field="mechanism")
    return Event(kind(**stored["parameters"]), unit=stored["unit"], adjacency=stored["adjacency"])


def claim(epsilon: float, delta: float = 0.0, *, unit: Unit = "patient", adjacency: Adjacency = "add_remove") -> Event:
    """The event of a release of which only its (epsilon, delta) is known."""
    return Event(Approximate(epsilon, delta), unit, adjacency)


def of_rho(rho: float, *, unit: Unit = "patient", adjacency: Adjacency = "add_remove") -> Event:
    """The event of a release of which only its zCDP is known."""
    return Event(Zcdp(rho), unit, adjacency)
