"""Fills the bench's coordinator: one hot clinician, one with ten requests a day, and four plain backends as nodes.

    python -m benchmarks.gateway.seed STATE_DIR PORT [PORT ...] [--tls]

Prints {"hot": token, "burst": token, "ca": folder}.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import django
from cryptography import x509
from cryptography.hazmat.primitives import hashes

django.setup()

from accounts import principals  # noqa: E402  (settings first)
from accounts.models import Department, Hospital, Membership, Role, User  # noqa: E402
from federation import identity  # noqa: E402
from federation.models import Node, Transport  # noqa: E402
from privacy import quotas  # noqa: E402
from privacy.models import Scope, ScopeKind, Unit  # noqa: E402

PLENTY = 10**9


def person(name: str, department: Department, requests: int) -> str:
    """A clinician with a daily allowance of requests; returns a fresh token."""
    user, _ = User.objects.get_or_create(username=name)
    membership, _ = Membership.objects.get_or_create(
        user=user,
        active=True,
        defaults={"role": Role.ATTENDING, "hospital": department.hospital, "department": department},
    )
    scopes = quotas.scopes_for(principals.for_user(user.pk))
    Scope.objects.filter(pk=scopes.user_requests).update(cap=requests)
    Scope.objects.filter(kind=ScopeKind.DEPARTMENT, unit=Unit.REQUESTS).update(cap=PLENTY)
    return principals.issue_token(membership, "bench")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("state", type=Path)
    options.add_argument("ports", type=int, nargs="+")
    options.add_argument("--tls", action="store_true")
    options.add_argument("--burst", action="append", default=[], help="names of users with ten requests")
    chosen = options.parse_args()
    if not (chosen.state / "ca" / "ca.pem").exists():
        identity.create_ca(chosen.state / "ca")
        identity.issue(chosen.state / "ca", chosen.state / "coordinator", "coordinator", server=False)
        identity.issue(chosen.state / "ca", chosen.state / "backend", "backend", server=True)
    hospital, _ = Hospital.objects.get_or_create(code="bench", defaults={"name": "Bench"})
    department, _ = Department.objects.get_or_create(hospital=hospital, code="general", defaults={"name": "General"})
    scheme = "https" if chosen.tls else "http"
    certificate = x509.load_pem_x509_certificate((chosen.state / "backend" / "cert.pem").read_bytes())
    Node.objects.update(active=False)
    for port in chosen.ports:
        Node.objects.update_or_create(
            id=f"backend-{port}",
            defaults={
                "hospital": hospital,
                "name": f"Backend {port}",
                "url": f"{scheme}://localhost:{port}" if chosen.tls else f"{scheme}://127.0.0.1:{port}",
                "transport": Transport.OPENAI,
                "certificate_sha256": certificate.fingerprint(hashes.SHA256()).hex() if chosen.tls else "",
                "served_models": ["fake-model"],
                "active": True,
            },
        )
    tokens = {"hot": person("hot", department, PLENTY)}
    tokens |= {name: person(name, department, 10) for name in chosen.burst}
    print(json.dumps(tokens))


if __name__ == "__main__":
    main()
