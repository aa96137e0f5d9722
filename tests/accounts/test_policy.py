"""The access policy: who may ask what for which purpose, by name of the deciding rule, and nothing by default."""

from __future__ import annotations

import hashlib
import os
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from accounts import policy
from accounts.models import Role
from accounts.policy import PURPOSES, PolicyRequest

CLINICAL = {Role.ATTENDING, Role.RESIDENT, Role.NURSE, Role.PHARMACIST, Role.RESEARCHER}
CARE = CLINICAL - {Role.RESEARCHER}
COHORT = CLINICAL - {Role.NURSE}
KINDS = ("general", "chart", "cohort.text", "cohort.released")


def ask(role: str, kind: str, purpose: str, *, same: bool = True, care: bool = True) -> policy.Decision:
    return policy.decide(PolicyRequest(role, kind, purpose, "northfield", "cardiology", same, care))


def may(role: Role, kind: str, purpose: str, same: bool, care: bool) -> bool:
    """The same rules once more, in plain Python, written from the policy's description."""
    if role == Role.RESEARCHER and purpose not in ("HRESCH", "HQUALIMP"):
        return False
    if kind == "general":
        return role in CLINICAL
    if kind == "chart":
        return role in CARE and purpose in ("TREAT", "ETREAT") and same and care
    if kind == "cohort.released":
        return role in CLINICAL and purpose != "ETREAT"
    return role in COHORT and purpose in ("TREAT", "HQUALIMP", "HRESCH")


@pytest.mark.parametrize("role", list(Role))
def test_the_whole_table(role: Role) -> None:
    for kind, purpose, same, care in product(KINDS, PURPOSES, (True, False), (True, False)):
        found = ask(role, kind, purpose, same=same, care=care)
        assert found.allowed == may(role, kind, purpose, same, care), (kind, purpose, same, care)
        assert bool(found.policies) or not found.allowed, "an allowed request names its policy"


@pytest.mark.parametrize(
    ("role", "kind", "purpose", "allowed", "named"),
    [
        ("attending", "general", "TREAT", True, "general-for-clinical-staff"),
        ("nurse", "chart", "TREAT", True, "chart-for-the-care-team"),
        ("pharmacist", "cohort.text", "TREAT", True, "cohort-for-prescribers-and-researchers"),
        ("researcher", "cohort.text", "HRESCH", True, "cohort-for-prescribers-and-researchers"),
        ("researcher", "general", "TREAT", False, "researchers-only-for-research"),
        ("researcher", "cohort.text", "TREAT", False, "researchers-only-for-research"),
        ("nurse", "cohort.text", "TREAT", False, None),
        ("privacy_officer", "general", "TREAT", False, None),
        ("auditor", "cohort.text", "HQUALIMP", False, None),
    ],
)
def test_the_deciding_policy_is_named(role: str, kind: str, purpose: str, allowed: bool, named: str | None) -> None:
    found = ask(role, kind, purpose)
    assert (found.allowed, found.policies) == (allowed, (named,) if named else ())


@pytest.mark.parametrize(
    "strange",
    [
        ("surgeon", "general", "TREAT"),
        ("attending", "federated", "TREAT"),
        ("attending", "general", "MARKETING"),
        ("attending", "general", ""),
        ("", "general", "TREAT"),
        ('attending"; permit(principal, action, resource); //', "general", "TREAT"),
        ('x" || Role::"attending', "general", "TREAT"),
        ("attending", 'general" in Kind::"x', "TREAT"),
    ],
)
def test_what_the_policy_does_not_know_is_denied(strange: tuple[str, str, str]) -> None:
    assert not ask(*strange).allowed


def test_every_policy_has_a_name_and_they_are_all_different(settings: Settings) -> None:
    text = Path(settings.POLICY_FILE).read_text(encoding="utf-8")
    names = [line for line in text.splitlines() if line.startswith("@id(")]
    statements = [line for line in text.splitlines() if line.startswith(("permit", "forbid"))]
    assert len(names) == len(statements) == len(set(names))


def test_the_digest_is_the_files(settings: Settings) -> None:
    data = Path(settings.POLICY_FILE).read_bytes()
    assert ask("attending", "general", "TREAT").policy_digest == hashlib.sha256(data).hexdigest()[:16]


@pytest.fixture
def file(tmp_path: Path, settings: Settings) -> Path:
    path = tmp_path / "policy.cedar"
    settings.POLICY_FILE = path
    return path


def write(file: Path, text: str, _moments: list[int] = [10**18]) -> None:  # noqa: B006  (one clock for all writes)
    file.write_text(text, encoding="utf-8")
    _moments[0] += 10**9
    os.utime(file, ns=(_moments[0], _moments[0]))


ALLOW = '@id("everybody")\npermit (principal, action, resource);\n'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "// nothing\n",
        "permit (",
        "permit (principal, action, resource)",
        ALLOW + "permit (",
        '@id("typo")\npermit (principal, action, resource) when { context.no_such_field };',
        '@id("type")\npermit (principal, action, resource) when { context.purpose > 3 };',
        "\x00\x01",
    ],
)
def test_a_broken_policy_file_allows_nothing(text: str, file: Path) -> None:
    write(file, text)
    found = ask("attending", "general", "TREAT")
    assert (found.allowed, found.policies) == (False, ())


def test_without_a_policy_file_nothing_is_decided(file: Path) -> None:
    with pytest.raises(OSError, match="policy.cedar"):
        ask("attending", "general", "TREAT")


def test_decisions_follow_the_file(file: Path) -> None:
    write(file, ALLOW)
    first = ask("attending", "general", "TREAT")
    assert (first.allowed, first.policies) == (True, ("everybody",))
    write(file, ALLOW.replace("everybody", "nobody").replace("permit", "forbid"))
    second = ask("attending", "general", "TREAT")
    assert (second.allowed, second.policies) == (False, ("nobody",))
    assert first.policy_digest != second.policy_digest
    write(file, ALLOW)
    assert ask("attending", "general", "TREAT") == first


def test_the_right_policy_is_named_where_some_have_no_name(file: Path) -> None:
    """Names belong to policies and not to places in a list of names."""
    write(
        file,
        'forbid (principal, action, resource) when { context.purpose == "HRESCH" };\n'
        '  @id("indented")\n  permit (principal, action, resource);\n'
        '// @id("commented-out") permit (principal, action, resource);\n'
        '@id("last") permit (principal, action, resource == Kind::"chart");\n',
    )
    assert ask("attending", "general", "TREAT").policies == ("indented",)
    assert ask("attending", "chart", "TREAT").policies == ("indented", "last")
    assert ask("attending", "chart", "HRESCH").policies == ("policy0",)


@pytest.mark.parametrize("role", list(Role))
def test_the_usual_purpose_lets_people_ask(role: Role) -> None:
    assert ask(role, "general", policy.usual_purpose(role)).allowed == (role in CLINICAL)


def test_a_decision_is_about_the_whole_request() -> None:
    """Two requests that differ in one field only must not share a cached decision."""
    base: dict[str, Any] = {"role": "nurse", "kind": "chart", "purpose": "TREAT", "same": True, "care": True}
    assert ask(**base).allowed
    for change in ({"care": False}, {"same": False}, {"purpose": "HRESCH"}, {"role": "researcher"}):
        assert not ask(**(base | change)).allowed
