"""Evidence about nodes: how they are spoken to, their certificates as far as stored, and whether they are up."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from django.conf import settings
from django.utils import timezone

from accounts.principals import Principal
from compliance import access, budgets
from compliance.controls.evidence import (
    MET,
    NOT_MET,
    PARTIAL,
    Count,
    Evidence,
    Table,
    counted,
    query,
    sentence,
)
from compliance.period import Period
from federation.models import Node, Transport

FINGERPRINT_DIGITS = 64
SOON_DAYS = 14


def own_certificate_days() -> int | None:
    """Days until this process's own certificate ends; ``None``: it has none that can be read."""
    try:
        data = (Path(settings.IDENTITY_DIR) / "cert.pem").read_bytes()
        ends = x509.load_pem_x509_certificate(data).not_valid_after_utc
    except (OSError, ValueError):
        return None
    return (ends - timezone.now()).days


@query("nodes.transmission")
def transmission(principal: Principal, period: Period, /) -> Evidence:
    """How each active node is spoken to: sealed messages over mutual TLS to one pinned certificate, or otherwise."""
    nodes = list(
        Node.objects.filter(active=True, hospital__in=access.hospitals(principal)).order_by("hospital_id", "id")
    )
    sealed = [node for node in nodes if node.transport == Transport.SEALED]
    loose = [n for n in sealed if len(n.certificate_sha256) != FINGERPRINT_DIGITS or not n.url.startswith("https://")]
    plain = [node for node in nodes if node.transport != Transport.SEALED]
    days = own_certificate_days()
    # TLS version and key-exchange group of a connection, and the end of a node's certificate, are not stored: what the
    # roster holds is the fingerprint. TLS 1.2 is the least that either side takes, by code.
    ending = days is None or days < SOON_DAYS
    status = NOT_MET if loose or not nodes else PARTIAL
    said = sentence(
        f"{len(sealed) - len(loose):,} of {counted(len(nodes), 'node is', 'nodes are')} called over mutual TLS to one"
        " pinned certificate, with sealed and signed messages.",
        f"{len(loose):,} have no pinned certificate and are not called." if loose else "",
        f"{len(plain):,} are plain engines, which get general questions only." if plain else "",
        f"The coordinator's own certificate ends in {days} days." if days is not None else "",
        "The coordinator's own certificate cannot be read or ends soon." if ending else "",
        "When nodes' certificates end, and the TLS version of single connections, is not stored.",
    )
    counts = (
        Count("Active nodes", len(nodes)),
        Count("Sealed and pinned", len(sealed) - len(loose)),
        Count("Sealed without a pin", len(loose)),
        Count("Plain engines", len(plain)),
        Count("Days of the own certificate", "unknown" if days is None else days),
    )
    rows = [
        (n.name, n.get_transport_display(), n.url.partition(":")[0], n.certificate_sha256[:16] or "none") for n in nodes
    ]
    table = Table(("Node", "Transport", "Scheme", "Certificate, SHA-256"), rows)
    return Evidence(status=status, sentence=said, counts=counts, table=table)


@query("nodes.up")
def up(principal: Principal, period: Period, /) -> Evidence:
    """Whether the active nodes answer the prober now."""
    found = budgets.nodes(principal)
    down = [node for node in found if not (node.seen and node.healthy)]
    said = sentence(
        f"{len(found) - len(down):,} of {counted(len(found), 'active node', 'active nodes')} answer the prober.",
        f"Not answering: {', '.join(node.name for node in down)}." if down else "",
    )
    counts = (Count("Active nodes", len(found)), Count("Not answering", len(down)))
    rows = [
        (node.name, node.hospital_name, "up" if node.seen and node.healthy else "down", node.seen_at) for node in found
    ]
    table = Table(("Node", "Hospital", "State", "Last seen"), rows)
    status = MET if found and not down else NOT_MET if len(down) == len(found) else PARTIAL
    return Evidence(status=status, sentence=said, counts=counts, table=table)
