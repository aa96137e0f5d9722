"""Claim sheets in the registry's schema: valid, counted from evidence, and only of what has answered."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import CommandError, call_command

from accounts import principals
from compliance import registry
from compliance.models import Event
from fdrouter.errors import NotFound
from fdrouter.evidence import Event as Evidence
from fdrouter.evidence import record
from federation.models import Node
from privacy import claims
from tests.compliance.network import Network, SignIn

pytestmark = pytest.mark.django_db

# The registry's fields, their kinds and its closed lists, after its schema of July 2026; "!" marks what it requires.
FIELDS: dict[str, dict[str, Any]] = {
    "basic": {
        "!name": str,
        "!data_curators": list,
        "!description": str,
        "!intended_use": str,
        "!data_product_type": {"Summary statistics", "Machine learning model", "Dataset", "Synthetic data",
                               "Interactive API", "SQL queries"},
        "!data_product_region": str,
        "!publication_date": str,
        "data_product_sector": {"Technology", "Healthcare", "Education", "Government", "Energy", "Finance"},
    },
    "dp_variant": {
        "variant_name": {"Pure DP", "Approximate DP", "Zero-concentrated DP", "Renyi DP", "Custom"},
        "data_domain": str,
        "unprotected_quantities": str,
    },
    "privacy_loss": {
        "privacy_unit": str,
        "privacy_unit_details": str,
        "privacy_parameters": dict,
        "privacy_parameters_details": str,
    },
    "deployment_model": {
        "model_name": {"Local", "Central", "Shuffle", "Federated", "Varies"},
        "model_name_details": str,
        "actors": str,
        "release_type": {"One release", "Many releases"},
        "release_type_details": str,
        "data_source_type": {"Static", "Dynamic"},
        "data_source_type_details": str,
        "access_type": {"Interactive", "Non-interactive"},
        "access_type_details": str,
    },
    "accounting": {"post_processing": str, "composition": str},
    "implementation": {"preprocessing_and_hyperparameter_tuning": str, "mechanisms": str, "justification": str},
    "administrative": {"sources": str, "notes": str, "!registry_authors": list},
}  # fmt: skip


def check(entry: dict[str, Any]) -> None:
    assert set(entry) == {"url_slug", "status", "tier", "deployment"}
    assert entry["status"] == "Draft"
    assert entry["tier"] in (1, 2, 3)
    assert set(entry["deployment"]) <= set(FIELDS)
    for section, fields in FIELDS.items():
        given = entry["deployment"].get(section, {})
        kinds = {name.removeprefix("!"): kind for name, kind in fields.items()}
        assert set(given) <= set(kinds), "no additional properties"
        assert {name.removeprefix("!") for name in fields if name.startswith("!")} <= set(given)
        for name, value in given.items():
            allowed = kinds[name]
            assert value in allowed if isinstance(allowed, set) else isinstance(value, allowed), (section, name)
            assert value, (section, name)
    date.fromisoformat(entry["deployment"]["basic"]["publication_date"])
    assert set(entry["deployment"]["privacy_loss"].get("privacy_parameters", {})) <= {"epsilon", "delta", "rho"}


def answered(mechanism: str, hospital: str = "northfield") -> None:
    record(Evidence(kind="node.receipt", hospital=hospital, details={"node": hospital, "mechanism": mechanism}))


def test_every_sheet_gives_a_valid_entry(network: Network) -> None:
    for mechanism in claims.IMPLEMENTED:
        answered(mechanism)
    found = registry.export(network.principal)
    assert len(found["deployments"]) == len(claims.IMPLEMENTED)
    assert found["unused"] == []
    for entry in found["deployments"]:
        check(entry)
    assert len({entry["url_slug"] for entry in found["deployments"]}) == len(claims.IMPLEMENTED)


def test_figures_are_the_sheets_and_the_evidence(network: Network) -> None:
    for mechanism in ("count", "count", "text_across"):
        answered(mechanism)
    found = registry.export(network.principal)
    by_name = {entry["url_slug"]: entry["deployment"] for entry in found["deployments"]}
    assert set(by_name) == {"fdrouter_count_1", "fdrouter_text_across_1"}
    assert "count" not in found["unused"] and "choice" in found["unused"]
    count = by_name["fdrouter_count_1"]
    assert count["dp_variant"]["variant_name"] == "Pure DP"
    assert count["privacy_loss"]["privacy_parameters"] == {"epsilon": 10.0, "delta": 1e-5}
    assert "answered 2 times" in count["privacy_loss"]["privacy_parameters_details"]
    assert "spent 5.25" in count["privacy_loss"]["privacy_parameters_details"]
    assert count["basic"]["description"] == claims.sheet("count").fields["what"]
    assert claims.sheet("count").digest in count["administrative"]["sources"]
    assert by_name["fdrouter_text_across_1"]["deployment_model"]["model_name"] == "Central"


def test_without_a_known_block_no_epsilon_is_shown(network: Network) -> None:
    Node.objects.update(status={"block": {"epsilon": "x"}})
    answered("count")
    (entry,) = registry.export(network.principal)["deployments"]
    check(entry)
    assert "privacy_parameters" not in entry["deployment"]["privacy_loss"]


def test_releases_count_from_when_they_were_published(network: Network) -> None:
    told = [{"kind": "corpus", "published_at": "2026-03-01T10:00:00+00:00"}, {"kind": "corpus", "published_at": None}]
    Node.objects.filter(pk="lakeside").update(status={"releases": [*told, "nonsense", {"kind": "cards"}]})
    (entry,) = registry.export(network.principal)["deployments"]
    check(entry)
    assert entry["deployment"]["basic"]["publication_date"] == "2026-03-01"
    assert entry["deployment"]["basic"]["data_product_type"] == "Synthetic data"


def test_a_hospitals_officer_exports_that_hospital_only(network: Network, as_user: SignIn) -> None:
    answered("count", "northfield")
    answered("keywords", "lakeside")
    response = as_user(network.lakeside_officer).get("/portal/registry.json")
    (entry,) = response.json()["deployments"]
    assert entry["url_slug"] == "fdrouter_keywords_1"
    assert entry["deployment"]["basic"]["data_curators"] == ["Lakeside Medical Center"]
    last = Event.objects.latest("seq")
    assert (last.kind, last.hospital, last.details) == ("registry.export", "lakeside", {"deployments": 1})


def test_everybody_else_finds_nothing(network: Network, as_user: SignIn) -> None:
    for user in (network.clinician, network.operator, network.outsider):
        assert as_user(user).get("/portal/registry.json").status_code == 404
    with pytest.raises(NotFound):
        registry.export(principals.for_user(network.clinician.pk))


def test_the_command_writes_a_file_an_entry(network: Network, tmp_path: Path) -> None:
    answered("count")
    call_command("export_registry", user="auditor", folder=tmp_path)
    check(yaml.safe_load((tmp_path / "fdrouter_count_1.yaml").read_text(encoding="utf-8")))
    for nobody in ("clinician", "no.such.person"):
        with pytest.raises(CommandError):
            call_command("export_registry", user=nobody, folder=tmp_path)
