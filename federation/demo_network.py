"""The demo's network: invented hospitals, departments and people. Nobody and nothing here is real."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.db import transaction

from accounts import principals
from accounts.models import Department, Hospital, Membership, Role, User
from federation import document_key, identity
from federation.models import Node, Transport

DEPARTMENTS = {
    "emergency": "Emergency",
    "radiology": "Radiology",
    "general": "General medicine",
    "research": "Research",
    "cardiology": "Cardiology",
    "oncology": "Oncology",
}


@dataclass(frozen=True, slots=True)
class DemoNode:
    """A hospital and its node."""

    id: str
    name: str
    url: str


@dataclass(frozen=True, slots=True)
class DemoPerson:
    """A demo account."""

    username: str
    first_name: str
    last_name: str
    role: Role
    hospital: int | None
    department: str | None


PEOPLE = (
    DemoPerson("attending", "Ines", "Solberg", Role.ATTENDING, 0, "cardiology"),
    DemoPerson("resident", "Tariq", "Elmore", Role.RESIDENT, 1, "emergency"),
    DemoPerson("nurse", "Hanne", "Quist", Role.NURSE, 0, "general"),
    DemoPerson("pharmacist", "Dario", "Venn", Role.PHARMACIST, 2, "oncology"),
    DemoPerson("radiologist", "Mireille", "Aske", Role.ATTENDING, 1, "radiology"),
    DemoPerson("researcher", "Yuki", "Thorne", Role.RESEARCHER, 2, "research"),
    DemoPerson("officer", "Paula", "Reinholt", Role.PRIVACY_OFFICER, None, None),
    DemoPerson("auditor", "Simon", "Adeyo", Role.AUDITOR, None, None),
    DemoPerson("administrator", "Lena", "Crowe", Role.ADMINISTRATOR, None, None),
    DemoPerson("operator", "Bo", "Lindqvale", Role.NODE_OPERATOR, 0, None),
)


def build(state: Path, nodes: list[DemoNode], model: str, base_url: str) -> dict[str, Any]:
    """Creates what is missing and returns the document of ``access.json``; running it again changes nothing."""
    _identities(state / "identity", nodes)
    access = state / "access.json"
    known = _read(access)
    with transaction.atomic():
        hospitals = [_hospital(state, node, model) for node in nodes]
        users = [_person(person, hospitals, known) for person in PEOPLE]
    document = {
        "base_url": base_url,
        "users": users,
        "nodes": [{"id": node.id, "name": node.name, "url": node.url} for node in nodes],
    }
    _write(access, document)
    return document


def _identities(folder: Path, nodes: list[DemoNode]) -> None:
    ca = folder / "ca"
    if not (ca / "ca.pem").exists():
        identity.create_ca(ca)
    if not (folder / "coordinator" / "public.json").exists():
        identity.issue(ca, folder / "coordinator", "coordinator", server=False)
    if not (folder / "coordinator" / document_key.KEY).exists():
        document_key.issue(folder / "coordinator", "fdrouter documents", ca=ca)
    for node in nodes:
        home = folder / node.id
        if not (home / "public.json").exists():
            fingerprint = identity.issue(ca, home, node.id, server=True)
            (home / "fingerprint").write_text(fingerprint, encoding="ascii")
        (home / "coordinator.json").write_bytes((folder / "coordinator" / "public.json").read_bytes())
    for node in nodes:  # what each operator does by hand with `trust_peer`
        pinned = folder / node.id / "peers"
        pinned.mkdir(exist_ok=True)
        for peer in nodes:
            if peer != node:
                (pinned / f"{peer.id}.json").write_bytes((folder / peer.id / "public.json").read_bytes())


def _hospital(state: Path, node: DemoNode, model: str) -> Hospital:
    hospital, _ = Hospital.objects.get_or_create(code=node.id, defaults={"name": node.name})
    for code, name in DEPARTMENTS.items():
        Department.objects.get_or_create(hospital=hospital, code=code, defaults={"name": name})
    home = state / "identity" / node.id
    Node.objects.update_or_create(
        id=node.id,
        defaults={
            "hospital": hospital,
            "name": node.name,
            "url": node.url,
            "transport": Transport.SEALED,
            "served_models": [model],
            "public_keys": json.loads((home / "public.json").read_text(encoding="utf-8")),
            "certificate_sha256": (home / "fingerprint").read_text(encoding="ascii"),
        },
    )
    return hospital


def _person(person: DemoPerson, hospitals: list[Hospital], known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    hospital = hospitals[person.hospital % len(hospitals)] if person.hospital is not None else None
    department = Department.objects.get(hospital=hospital, code=person.department) if person.department else None
    user, created = User.objects.get_or_create(
        username=person.username, defaults={"first_name": person.first_name, "last_name": person.last_name}
    )
    membership, _ = Membership.objects.get_or_create(
        user=user, active=True, defaults={"role": person.role, "hospital": hospital, "department": department}
    )
    entry = known.get(person.username)
    if created or entry is None:
        password = secrets.token_urlsafe(12)
        user.set_password(password)
        user.is_staff = person.role == Role.ADMINISTRATOR
        user.save()
        entry = {"password": password, "api_token": principals.issue_token(membership, "demo")}
    return {
        "username": person.username,
        "password": entry["password"],
        "api_token": entry["api_token"],
        "role": person.role.value,
        "department": person.department,
        "hospital": hospital.code if hospital else None,
    }


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        return {user["username"]: user for user in json.loads(path.read_text(encoding="utf-8"))["users"]}
    except (OSError, ValueError, KeyError):
        return {}


def _write(path: Path, document: dict[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=2)
    temporary.replace(path)
