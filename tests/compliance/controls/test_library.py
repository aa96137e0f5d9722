"""The libraries: valid, honest about what they name, and refused as a whole when a value is wrong."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from compliance.controls import checks, library
from compliance.controls.evidence import QUERIES
from compliance.controls.library import LibraryInvalid, libraries, read

ROOT = Path(__file__).resolve().parents[3]
CONTROLS = [control for found in libraries() for control in found.controls]
GOOD: dict[str, Any] = {
    "regulation": "house-rules",
    "title": "House rules",
    "source": "Ours",
    "position": 9,
    "controls": [
        {
            "id": "rule-1",
            "citation": "1",
            "title": "First",
            "asks": "Something.",
            "evidence": {"query": "accounts.dormant", "parameters": {"days": 30}},
            "owner": "auditor",
            "review_months": 3,
            "residual": "Something else.",
        }
    ],
}


@cache
def names_in(file: Path) -> frozenset[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, functions))


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.id)
def test_every_code_path_and_test_that_is_named_exists(control: library.Control) -> None:
    assert not [path for path in control.mechanism if not (ROOT / path).exists()]
    for node in control.tests:
        file, _, name = node.partition("::")
        assert (ROOT / file).is_file(), node
        assert name.startswith("test_") and name in names_in(ROOT / file), node


def test_the_five_regulations_are_there_with_the_certification_criteria_first() -> None:
    found = libraries()
    assert [lib.regulation for lib in found] == ["hipaa", "gdpr", "eu-ai-act", "nist-ai-rmf", "sp800-226"]
    criteria = [control.citation for control in found[0].controls[:16]]
    assert all(citation.startswith("45 CFR 170.315(d)") for citation in criteria)
    assert {f"({n})" for n in range(1, 14)} <= {citation[17:].partition(")")[0] + ")" for citation in criteria}


def test_no_control_that_can_be_met_lacks_its_mechanism() -> None:
    """What names no test may only have evidence that says by itself that it is missing, or not our business."""
    absent = {"product.feature", "scope.not_applicable", "accounts.second_factor", "accounts.privileges"}
    bare = {control.evidence.query for control in CONTROLS if not (control.mechanism and control.tests)}
    assert bare <= absent


def test_every_query_is_used_and_says_what_it_looks_at() -> None:
    assert {control.evidence.query for control in CONTROLS} == set(QUERIES)
    assert all(query.says.endswith((".", "?")) for query in QUERIES.values())


def written(**changes: Any) -> bytes:
    data = yaml.safe_load(yaml.safe_dump(GOOD))
    control = data["controls"][0]
    for key, value in changes.items():
        (data if key in ("title", "extra", "regulation") else control)[key] = value
    return yaml.safe_dump(data).encode()


def test_a_good_library_is_read_with_defaults_filled_in() -> None:
    found = read(written(evidence={"query": "accounts.dormant"}), "x.yaml")
    assert found.controls[0].evidence.parameters == {"days": 90}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"extra": 1}, "extra"),
        ({"colour": "red"}, "colour"),
        ({"owner": "clinician"}, "owner"),
        ({"review_months": 0}, "review_months"),
        ({"review_months": "3"}, "review_months"),
        ({"id": "Rule One"}, "id"),
        ({"residual": ""}, "residual"),
        ({"evidence": {"query": "accounts.nobody"}}, "accounts.nobody"),
        ({"evidence": {"query": "accounts.dormant", "parameters": {"weeks": 2}}}, "weeks"),
        ({"evidence": {"query": "accounts.dormant", "parameters": {"days": "many"}}}, "days"),
        ({"evidence": {"query": "log.guarded"}}, "tables"),
    ],
)
def test_a_wrong_value_refuses_the_library_and_is_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(LibraryInvalid, match=named):
        read(written(**changes), "x.yaml")


def test_an_id_stands_for_one_control(tmp_path: Path) -> None:
    data = yaml.safe_load(written())
    data["controls"] *= 2
    with pytest.raises(LibraryInvalid, match="rule-1 is there twice"):
        read(yaml.safe_dump(data).encode(), "x.yaml")
    (tmp_path / "a.yaml").write_bytes(written())
    (tmp_path / "b.yaml").write_bytes(written(regulation="other-rules"))
    with pytest.raises(LibraryInvalid, match="rule-1 is used twice"):
        library.load(tmp_path)


def test_no_yaml_and_no_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LibraryInvalid, match="x.yaml"):
        read(b"controls: [", "x.yaml")
    with pytest.raises(LibraryInvalid, match="no library"):
        library.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, None),
        ({"owner": "nobody"}, "compliance.E001"),
        ({"evidence": {"query": "accounts.nobody"}}, "compliance.E002"),
    ],
)
def test_the_system_check_names_what_is_wrong(
    changes: dict[str, Any], expected: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.yaml").write_bytes(written(**changes))
    monkeypatch.setattr(library, "libraries", lambda: library.load(tmp_path))
    found = checks.control_libraries_are_valid()
    assert [message.id for message in found] == ([expected] if expected else [])
    assert all(message.hint for message in found)
