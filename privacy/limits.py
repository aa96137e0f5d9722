"""Daily limits by institution: the document of ``configs/privacy_budgets.yaml``, checked, stored and looked up.

The newest stored document counts; before the first one is applied, :data:`BUILT_IN` does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction
from django.db.models import BigIntegerField, F, Value
from django.db.models.functions import Greatest

from accounts.models import Department, Hospital
from fdrouter.errors import InvalidParameter
from fdrouter.evidence import Event, record
from privacy.dp.units import micro
from privacy.models import LimitDocument, Scope, ScopeKind, Unit

MAX_EPSILON = 10_000.0
MAX_REQUESTS = 10**9
_UNITS = {"epsilon": Unit.MICRO_EPSILON, "requests": Unit.REQUESTS}
#: What each kind of scope may be limited in. A hospital's requests are not counted: one row would be locked by all.
_COUNTED = {
    ScopeKind.USER: ("epsilon", "requests"),
    ScopeKind.HOSPITAL: ("epsilon",),
    ScopeKind.DEPARTMENT: ("epsilon", "requests"),
}
BUILT_IN: dict[str, Any] = {
    "version": 1,
    "defaults": {
        "user": {"epsilon": 10, "requests": 2_000},
        "hospital": {"epsilon": 60},
        "department": {"epsilon": 10, "requests": 50_000},
        "departments": {
            "emergency": {"epsilon": 20},
            "radiology": {"epsilon": 10},
            "general": {"epsilon": 5},
            "research": {"epsilon": 2},
        },
    },
    "hospitals": {},
}

Amounts = Mapping[Unit, int]


@dataclass(frozen=True, slots=True)
class _Level:
    """Limits of one hospital, or the defaults: by kind of scope, and by code of department."""

    kinds: Mapping[ScopeKind, Amounts]
    departments: Mapping[str, Amounts] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Limits:
    """A checked document. ``digest`` identifies its content (SHA-256, hex)."""

    defaults: _Level
    hospitals: Mapping[str, _Level]
    document: Mapping[str, Any]

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.document, sort_keys=True).encode()).hexdigest()

    def cap(self, kind: ScopeKind, unit: Unit, hospital: str, department: str = "") -> int:
        """The day's limit in whole units; what is said most specifically counts."""
        for level in (self.hospitals.get(hospital), self.defaults):
            if level is None:
                continue
            if kind is ScopeKind.DEPARTMENT and unit in (own := level.departments.get(department, {})):
                return own[unit]
            if unit in (usual := level.kinds.get(kind, {})):
                return usual[unit]
        raise InvalidParameter(f"No limit is set for {kind} in {unit}.", field="defaults")


def parse(document: Any, *, hospitals: Mapping[str, set[str]] | None = None) -> Limits:
    """Checks the document as YAML gave it.

    ``hospitals`` maps the codes of the network's hospitals to those of their departments; names outside it are
    refused. ``None`` skips that.

    Raises:
        InvalidParameter: ``details['field']`` is the path of the first bad value.
    """
    top = _mapping(document, "", {"version", "defaults", "hospitals"})
    if top.get("version") != 1:
        raise InvalidParameter("version must be 1.", field="version")
    defaults = _level(top.get("defaults"), "defaults", {"user", "hospital", "department", "departments"})
    for kind, counted in _COUNTED.items():
        for name in counted:
            if _UNITS[name] not in defaults.kinds.get(kind, {}):
                raise InvalidParameter(f"defaults.{kind}.{name} is missing.", field=f"defaults.{kind}.{name}")
    everywhere = set().union(*hospitals.values()) if hospitals else set()
    if hospitals is not None and (unknown := defaults.departments.keys() - everywhere - _usual_departments()):
        name = min(unknown)
        raise InvalidParameter(f"No hospital has a department {name}.", field=f"defaults.departments.{name}")
    found = {}
    for code, body in _mapping(top.get("hospitals") or {}, "hospitals", None).items():
        path = f"hospitals.{code}"
        if hospitals is not None and code not in hospitals:
            raise InvalidParameter(f"There is no hospital {code} in this network.", field=path)
        found[code] = _level(body, path, {"user", "hospital", "department", "departments"})
        if hospitals is not None and (unknown := found[code].departments.keys() - hospitals[code]):
            name = min(unknown)
            raise InvalidParameter(f"{code} has no department {name}.", field=f"{path}.departments.{name}")
    return Limits(defaults, found, top)


def _usual_departments() -> set[str]:
    return set(BUILT_IN["defaults"]["departments"])


def _mapping(value: Any, path: str, allowed: set[str] | None) -> dict[str, Any]:
    place = path or "the document"
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InvalidParameter(f"{place} must be a mapping.", field=path)
    if allowed is not None and (unknown := value.keys() - allowed):
        name = min(unknown)
        raise InvalidParameter(f"{place} has an unknown key: {name}.", field=f"{path}.{name}".lstrip("."))
    return value


def _level(value: Any, path: str, allowed: set[str]) -> _Level:
    body = _mapping(value, path, allowed)
    kinds = {kind: _amounts(body[kind], f"{path}.{kind}", kind) for kind in _COUNTED if kind in body}
    departments = _mapping(body.get("departments") or {}, f"{path}.departments", None)
    return _Level(
        kinds,
        {
            code: _amounts(amounts, f"{path}.departments.{code}", ScopeKind.DEPARTMENT)
            for code, amounts in departments.items()
        },
    )


def _amounts(value: Any, path: str, kind: ScopeKind) -> dict[Unit, int]:
    body = _mapping(value, path, set(_COUNTED[kind]))
    return {_UNITS[name]: _amount(amount, name, f"{path}.{name}") for name, amount in body.items()}


def _amount(value: Any, name: str, path: str) -> int:
    high = MAX_EPSILON if name == "epsilon" else MAX_REQUESTS
    whole = name == "requests"
    kinds = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value <= high:
        what = "a whole number" if whole else "a number"
        raise InvalidParameter(f"{path} must be {what} from 0 to {high:g}.", field=path)
    return int(value) if whole else micro(float(value))


def effective() -> Limits:
    """What counts now."""
    newest = LimitDocument.objects.order_by("-pk").values_list("document", flat=True).first()
    return parse(newest if newest is not None else BUILT_IN)


@dataclass(frozen=True, slots=True)
class Change:
    """One scope whose cap a document would move; ``used`` is of the scope's present day."""

    scope: Scope
    before: int
    after: int


def changes(limits: Limits) -> list[Change]:
    """What applying would change of the quotas that are open, by hospital, kind and name."""
    departments = {f"department:{pk}": code for pk, code in Department.objects.values_list("pk", "code")}
    found = []
    for scope in Scope.objects.exclude(kind=ScopeKind.BLOCK).order_by("hospital", "kind", "label", "unit", "pk"):
        kind, unit = ScopeKind(scope.kind), Unit(scope.unit)
        after = limits.cap(kind, unit, scope.hospital, departments.get(scope.key, ""))
        if after != scope.cap:
            found.append(Change(scope, scope.cap, after))
    return found


def known_names() -> dict[str, set[str]]:
    """Codes of the network's hospitals, each with those of its departments."""
    found: dict[str, set[str]] = {code: set() for code in Hospital.objects.values_list("pk", flat=True)}
    for hospital, code in Department.objects.values_list("hospital_id", "code"):
        found[hospital].add(code)
    return found


def apply(limits: Limits, *, by: str) -> list[Change]:
    """Stores the document and moves the caps of the open quotas, in one transaction; returns what moved.

    A quota that has used more today than its new cap keeps what it used; what is given back of it today can be spent
    again today. Its new cap counts from midnight.
    """
    with transaction.atomic():
        list(Scope.objects.exclude(kind=ScopeKind.BLOCK).order_by("pk").select_for_update().values_list("pk"))
        found = changes(limits)
        for change in found:
            room = change.scope.used - change.after
            Scope.objects.filter(pk=change.scope.pk).update(
                cap=change.after, extra=Greatest(F("extra"), Value(room), output_field=BigIntegerField())
            )
        LimitDocument.objects.create(document=dict(limits.document), digest=limits.digest, applied_by=by)
        record(Event(kind="limits.apply", details={"digest": limits.digest, "changed": len(found)}))
    return found
