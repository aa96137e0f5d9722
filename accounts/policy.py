"""Access policy in Cedar: role, purpose of use, kind of request, hospital and care relation decide.

A decision is a pure function of its :class:`PolicyRequest` and the policy file, so decisions are cached by both.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import cedarpy
from django.conf import settings

from accounts.models import CLINICAL_ROLES, Role

PURPOSES = {
    "TREAT": "Treatment",
    "ETREAT": "Emergency treatment",
    "HOPERAT": "Healthcare operations",
    "HQUALIMP": "Quality improvement",
    "HRESCH": "Research",
}


def usual_purpose(role: str) -> str:
    """The purpose of use that a request has when it names none."""
    return "HRESCH" if role == Role.RESEARCHER else "TREAT"


_GROUPS: dict[str, tuple[Role, ...]] = {
    "clinical": CLINICAL_ROLES,
    "care": (Role.ATTENDING, Role.RESIDENT, Role.NURSE, Role.PHARMACIST),
    "cohort": (Role.ATTENDING, Role.RESIDENT, Role.PHARMACIST, Role.RESEARCHER),
}


@dataclass(frozen=True, slots=True)
class PolicyRequest:
    """What is asked, without contents."""

    role: str
    kind: str
    purpose: str
    hospital: str
    department: str
    same_hospital: bool
    in_care: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """The answer, the ids of the deciding policies and the digest of the policy file (16 hex digits)."""

    allowed: bool
    policies: tuple[str, ...]
    policy_digest: str


@dataclass(frozen=True, slots=True)
class _PolicySet:
    text: str
    names: tuple[tuple[str, str], ...]
    digest: str


@lru_cache(maxsize=4)
def _load(path: Path, modified_ns: int) -> _PolicySet:
    text = path.read_text(encoding="utf-8")
    return _PolicySet(text, _names(text), hashlib.sha256(text.encode()).hexdigest()[:16])


def _names(text: str) -> tuple[tuple[str, str], ...]:
    """Cedar's own name of each policy (its place in the file) and the ``@id`` that people gave it."""
    try:
        policies = json.loads(cedarpy.policies_to_json_str(text))["staticPolicies"]
    except ValueError:  # not a policy file: nothing will be allowed, so nothing needs a name
        return ()
    return tuple((name, policy.get("annotations", {}).get("id") or name) for name, policy in policies.items())


def _entities() -> list[dict[str, object]]:
    roles: list[dict[str, object]] = [
        {
            "uid": {"type": "Role", "id": role.value},
            "attrs": {},
            "parents": [{"type": "Group", "id": group} for group, members in _GROUPS.items() if role in members],
        }
        for role in Role
    ]
    groups: list[dict[str, object]] = [
        {"uid": {"type": "Group", "id": group}, "attrs": {}, "parents": []} for group in _GROUPS
    ]
    return [*roles, *groups]


@lru_cache(maxsize=4096)
def _decide(request: PolicyRequest, policy_set: _PolicySet) -> Decision:
    context = asdict(request)
    role, kind = context.pop("role"), context.pop("kind")
    result = cedarpy.is_authorized(
        {
            "principal": f'Role::"{role}"',
            "action": 'Action::"ask"',
            "resource": f'Kind::"{kind}"',
            "context": context,
        },
        policy_set.text,
        _entities(),
    )
    names = dict(policy_set.names)
    reasons = tuple(sorted(names[reason] for reason in result.diagnostics.reasons))
    return Decision(result.allowed, reasons, policy_set.digest)


def decide(request: PolicyRequest) -> Decision:
    """Evaluates the policy file as it is now. Denies by default, also when a policy cannot be evaluated."""
    path = Path(settings.POLICY_FILE)
    return _decide(request, _load(path, path.stat().st_mtime_ns))
